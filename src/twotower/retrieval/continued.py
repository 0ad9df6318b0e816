"""A bundle that continues from an earlier one keeps its seen lists and adds up its popularity."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from twotower.data.lookup import IdRows
from twotower.data.seen import Seen, entries_of
from twotower.retrieval.bundle import Bundle, with_version


def with_past(bundle: Bundle, earlier: Bundle) -> Bundle:
    """The bundle with what an earlier one has seen besides, and with its popularity added.

    Args:
        bundle: Of events that are all later than the earlier one's.
        earlier: The earlier one; what it says of ids that the bundle does not have is left out.
    """
    query_id, candidate_id = bundle.details.query_id, bundle.details.candidate_id
    row_of = IdRows(bundle.candidates[candidate_id]).of(earlier.candidates[candidate_id])
    before = earlier.seen.renumbered(row_of)
    earlier_query = IdRows(earlier.queries[query_id]).of(bundle.queries[query_id])
    known = np.flatnonzero(earlier_query >= 0)
    position, entry = entries_of(before.offsets, earlier_query[known])
    count, width = bundle.queries.num_rows, bundle.candidates.num_rows
    own = np.repeat(np.arange(count), np.diff(bundle.seen.offsets))
    queries = np.concatenate([own, known[position]])
    candidates = np.concatenate([bundle.seen.candidates, before.candidates[entry]])
    first = np.sort(np.unique(queries * width + candidates, return_index=True)[1])  # of both, the later
    order = first[np.argsort(queries[first], kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(queries[order], minlength=count))])
    popularity = bundle.popularity.copy()
    np.add.at(popularity, row_of[row_of >= 0], earlier.popularity[row_of >= 0])
    return with_version(replace(bundle, seen=Seen(offsets, candidates[order]), popularity=popularity))


def moments_of(folder: Path) -> Path:
    """The file beside a bundle with what the optimiser of its training knew, for a warm start.

    Example:
        >>> moments_of(Path("/shops/model")).name
        'model.moments.safetensors'
    """
    real = Path(os.path.realpath(folder))
    return real.with_name(f"{real.name}.moments.safetensors")
