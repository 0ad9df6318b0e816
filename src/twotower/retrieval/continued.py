"""Continue from an earlier bundle: merge its seen lists and add its popularity."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from twotower.data.lookup import IdRows, entries_of
from twotower.data.seen import Seen
from twotower.retrieval.bundle import Bundle, with_version


def with_past(bundle: Bundle, earlier: Bundle) -> Bundle:
    """The bundle with the seen lists of an earlier one merged in and its popularity added.

    Args:
        bundle: The new bundle; all its events are later than the earlier bundle's.
        earlier: The earlier bundle; ids that the new bundle lacks are ignored.
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
    first = np.sort(np.unique(queries * width + candidates, return_index=True)[1])  # if in both, keep the later
    order = first[np.argsort(queries[first], kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(queries[order], minlength=count))])
    popularity = bundle.popularity.copy()
    np.add.at(popularity, row_of[row_of >= 0], earlier.popularity[row_of >= 0])
    return with_version(replace(bundle, seen=Seen(offsets, candidates[order]), popularity=popularity))


def moments_of(folder: Path) -> Path:
    """The file beside a bundle that stores its optimiser's state for a warm start.

    Example:
        >>> moments_of(Path("/shops/model")).name
        'model.moments.safetensors'
    """
    real = Path(os.path.realpath(folder))
    return real.with_name(f"{real.name}.moments.safetensors")
