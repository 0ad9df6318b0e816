"""Small logs that tests train and measure on."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from twotower.data import Dataset, from_tables
from twotower.features import Bucketized, Category, Normalized, Text
from twotower.model import Tower, TwoTower


def log_of(pairs: list[tuple[int, int]], queries: int, candidates: int, weights: list[float] | None = None) -> Dataset:
    """Events (query, candidate), one a second, over ids 0, 1, 2, …"""
    columns = {
        "user": [query for query, _ in pairs],
        "item": [candidate for _, candidate in pairs],
        "at": list(range(len(pairs))),
    }
    if weights is not None:
        columns["weight"] = weights  # type: ignore[assignment]
    return from_tables(
        pa.table(columns),
        query_id="user",
        candidate_id="item",
        time="at",
        weight=None if weights is None else "weight",
        queries=pa.table({"user": list(range(queries))}),
        candidates=pa.table(
            {"item": list(range(candidates)), "title": [f"item number {n}" for n in range(candidates)]}
        ),
    )


def groups_log(events: int = 2000, queries: int = 40, candidates: int = 30, groups: int = 5, seed: int = 0) -> Dataset:
    """Queries that choose, nine times in ten, a candidate of their own group: easily learned, not by popularity."""
    draw = np.random.default_rng(seed)
    who = draw.integers(queries, size=events)
    own = who % groups + groups * draw.integers(candidates // groups, size=events)
    what = np.where(draw.random(events) < 0.9, own, draw.integers(candidates, size=events))
    return log_of(list(zip(who.tolist(), what.tolist(), strict=True)), queries, candidates)


def toy_model(layers: tuple[int, ...] = (8,), dim: int = 8, dropout: float = 0.0) -> TwoTower:
    """Every kind of feature, small."""
    return TwoTower(
        Tower([Category("user", dim), Bucketized("at", 4, dim), Normalized("at")], layers, dropout),
        Tower([Category("item", dim), Text("title", dim)], layers, dropout),
    )
