"""Warnings for continued training of a fitted model."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from twotower.data.dataset import IntArray
from twotower.data.log import Log
from twotower.errors import NewIdsWarning, warn
from twotower.features import Feature
from twotower.model.tower_module import features_of
from twotower.model.two_tower import TwoTower


def warn_of_new_ids(model: TwoTower, train: Log) -> None:
    """Warns if the training events contain ids that are not in the model's vocabularies.

    Only `TwoTower.grow` extends the vocabularies; without it, all new ids of a column share the embedding of unknown
    ids.
    """
    sides = (
        (features_of(model.query), train.queries, train.query_id, train.query_counts()),
        (features_of(model.candidate), train.candidates, train.candidate_id, train.candidate_counts()),
    )
    found = [text for side in sides if (text := _new_ids(*side))]
    if found:
        warn(
            f"the training events contain ids that the fitted model does not know: {' and '.join(found)}. They share "
            f"the embedding of unknown ids; call model.grow(train) before training to give each its own",
            NewIdsWarning,
        )


def _new_ids(features: list[Feature], table: pa.Table, name: str, counts: IntArray) -> str:
    """Describes how many ids with events are unknown to some feature; empty if none is."""
    ids = table[name].take(pa.array(np.flatnonzero(counts)))
    known = [mask for feature in features if (mask := feature.knows(name, ids)) is not None]
    new = int((~np.logical_and.reduce(known)).sum()) if known else 0
    return f"{new:,} of {len(ids):,} of {name!r}" if new else ""
