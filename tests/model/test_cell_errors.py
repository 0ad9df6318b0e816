"""Errors about a cell name its table, and its row in that table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from twotower import Category, Normalized, Tower, TwoTower, data
from twotower.data import Dataset
from twotower.errors import DataError

INF = float("inf")


def log(**changes: Any) -> Dataset:
    """Two events; the first query and the first candidate have none."""
    events = pa.table({"user": [2, 3], "item": [6, 7], "length": [1.0, 2.0]})
    users = pa.table({"user": [1, 2, 3], "age": [30, 40, 50]})
    items = pa.table({"item": [5, 6, 7], "price": [1.0, 2.0, 3.0]})
    found = data.from_tables(events, query_id="user", candidate_id="item", queries=users, candidates=items)
    return replace(found, **changes)


def model() -> TwoTower:
    query = Tower([Category("user", 4), Normalized("age"), Normalized("length")], [4])
    return TwoTower(query, Tower([Category("item", 4), Normalized("price")], [4]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": {"user": [1, 2, 3], "age": [30.0, 40.0, INF]}}, "queries, column 'age', row 2: inf"),
        ({"candidates": {"item": [5, 6, 7], "price": ["1", "2", "dear"]}}, "candidates, column 'price', row 2: 'dear'"),
        ({"interactions": {"user": [2, 3], "item": [6, 7], "length": [1.0, INF]}}, "events, column 'length', row 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_table_when_learning_and_when_encoding(
    changes: dict[str, dict[str, list[Any]]], message: str
) -> None:
    wrong = log(**{name: pa.table(columns) for name, columns in changes.items()})
    with pytest.raises(DataError, match=message):
        model().learn(wrong)
    learned = model().learn(log())
    with pytest.raises(DataError, match=message):
        learned.embed_queries(wrong) if "candidates" not in changes else learned.embed_candidates(wrong.candidates)
