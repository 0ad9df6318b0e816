"""What somebody has to know who trains a fitted model further."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from twotower.data.dataset import IntArray
from twotower.data.log import Log
from twotower.errors import NewIdsWarning, warn
from twotower.features import Feature
from twotower.model.two_tower import TwoTower, features_of


def warn_of_new_ids(model: TwoTower, train: Log) -> None:
    """Warns where the training events name ids that a fitted model did not learn.

    Its vocabularies grow by `TwoTower.grow` alone; without it, new ids of a column share the embedding of unknown ones.
    """
    sides = (
        (features_of(model.query), train.queries, train.query_id, train.query_counts()),
        (features_of(model.candidate), train.candidates, train.candidate_id, train.candidate_counts()),
    )
    found = [text for side in sides if (text := _new_ids(*side))]
    if found:
        warn(
            f"the model was fitted before, and the training events name ids it did not learn: {' and '.join(found)}. "
            f"They share the embedding of unknown ids; model.grow(train) before gives each its own",
            NewIdsWarning,
        )


def _new_ids(features: list[Feature], table: pa.Table, name: str, counts: IntArray) -> str:
    """How many ids with events some feature does not know, in words; empty where there is none."""
    ids = table[name].take(pa.array(np.flatnonzero(counts)))
    known = [mask for feature in features if (mask := feature.knows(name, ids)) is not None]
    new = int((~np.logical_and.reduce(known)).sum()) if known else 0
    return f"{new:,} of {len(ids):,} of {name!r}" if new else ""
