"""Test and validation parts that were cut beforehand."""

from __future__ import annotations

import pyarrow as pa
import pytest

from twotower.data import Dataset, from_tables
from twotower.data.given import given_parts, overlap
from twotower.errors import DataError

TRAIN = {"u": ["ann", "cat"], "i": [5, 6], "t": [1, 2]}


def log_of(**options: pa.Table) -> Dataset:
    return from_tables(pa.table(TRAIN), query_id="u", candidate_id="i", time="t", **options)


def test_parts_share_the_tables_of_train() -> None:
    test = pa.table({"t": [7, 8], "i": pa.array([6, 6], pa.int32()), "u": ["bob", "ann"]})
    train, parts = given_parts(log_of(), {"test": test}, own_queries=True)
    assert train.queries["u"].to_pylist() == ["ann", "bob", "cat"]
    assert train.query_index.tolist() == [0, 2]
    assert parts["test"].query_index.tolist() == [1, 0]
    assert parts["test"].candidate_index.tolist() == [1, 1]
    assert parts["test"].times.tolist() == [7, 8]
    assert parts["test"].queries is train.queries


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({"u": ["ann"], "i": [5]}, "test: column 't' is missing"),
        ({"u": ["ann"], "i": [7], "t": [3]}, "the test part: .*'i', row 0: 7 is not in the candidate table"),
        ({"u": ["bob"], "i": [5], "t": [3]}, "the test part: .*'u', row 0: 'bob' is not in the query table"),
        ({"u": ["ann"], "i": ["five"], "t": [3]}, "column 'i' is string in test and int64 in interactions"),
        ({"u": ["ann"], "i": [5], "t": [-3]}, "the test part: .*row 0: -3 is not a plausible time"),
        ({"u": [], "i": [], "t": []}, "test has no rows"),
    ],
)
def test_mistakes_name_the_part(test: dict[str, list[object]], message: str) -> None:
    train = log_of(queries=pa.table({"u": ["ann", "cat"]}))
    with pytest.raises(DataError, match=message):
        given_parts(train, {"test": pa.table(test)}, own_queries=False)


def test_events_that_are_in_both_parts_are_counted() -> None:
    test = pa.table({"u": ["ann", "ann", "cat", "bob"], "i": [5, 5, 6, 5], "t": [1, 3, 2, 1]})
    train, parts = given_parts(log_of(), {"test": test}, own_queries=True)
    assert overlap(parts["test"], train) == 2
    untimed = from_tables(pa.table(TRAIN), query_id="u", candidate_id="i")
    train, parts = given_parts(untimed, {"test": test}, own_queries=True)
    assert overlap(parts["test"], train) == 3
