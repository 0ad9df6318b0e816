"""Types of tables: whatever a library holds its values as, a data set has them in plain types."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from twotower.data import from_tables
from twotower.data.sources import read_table
from twotower.errors import DataError
from twotower.features import Categories, Category, Normalized

PLAIN = pa.table(
    {
        "item": ["tea", "rum", "ale"],
        "shelf": ["hot", None, "hot"],
        "tags": [["a", "b"], [], None],
        "price": [1.5, 2.0, None],
        "size": [1, 2, 3],
    }
)
"""What every library below holds, each in its own types."""


def polars_table() -> pl.DataFrame:
    tags = PLAIN["tags"].to_pylist()
    return pl.DataFrame(
        {
            "item": pl.Series(["tea", "rum", "ale"], dtype=pl.Categorical),
            "shelf": pl.Series(["hot", None, "hot"], dtype=pl.Enum(["cold", "hot"])),
            "tags": pl.Series(tags, dtype=pl.List(pl.Categorical)),
            "price": pl.Series(["1.50", "2.00", None]).cast(pl.Decimal(10, 2)),
            "size": pl.Series([1, 2, 3], dtype=pl.Int64),
        }
    )


def pandas_table() -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "item": pd.Categorical(["gin", "tea", "rum", "ale"]),
            "shelf": pd.array(["hot", "hot", None, "hot"], dtype="string[pyarrow]"),
            "tags": [[], ["a", "b"], [], None],
            "price": [0.0, 1.5, 2.0, None],
            "size": pd.array([0, 1, 2, 3], dtype="Int64"),
        }
    )
    return frame[frame["item"] != "gin"]  # which has an index of its own, that is no column


def duckdb_table() -> duckdb.DuckDBPyRelation | None:
    return duckdb.sql(
        "select item, shelf::enum('cold', 'hot') shelf, tags, price::decimal(10, 2) price, size::hugeint size from "
        "(values ('tea', 'hot', ['a', 'b'], 1.5, 1), ('rum', null, [], 2, 2), ('ale', 'hot', null, null, 3)) "
        "t(item, shelf, tags, price, size)"
    )


def arrow_table(kinds: dict[str, pa.DataType]) -> pa.Table:
    values = {name: PLAIN[name].combine_chunks() for name in kinds}
    return pa.table(
        {
            name: values[name].cast(kind) if pa.types.is_decimal(kind) else pa.array(values[name].to_pylist(), kind)
            for name, kind in kinds.items()
        }
    )


def run_ends() -> pa.Table:
    coded = {name: pc.run_end_encode(PLAIN[name]) for name in ("item", "shelf", "price", "size")}
    return pa.table(coded | {"tags": PLAIN["tags"]})


SOURCES: dict[str, Callable[[], Any]] = {
    "polars": polars_table,
    "pandas": pandas_table,
    "duckdb": duckdb_table,
    "views": lambda: arrow_table(
        {
            "item": pa.string_view(),
            "shelf": pa.string_view(),
            "tags": pa.list_view(pa.string_view()),
            "price": pa.float64(),
            "size": pa.int64(),
        }
    ),
    "large": lambda: arrow_table(
        {
            "item": pa.large_string(),
            "shelf": pa.dictionary(pa.int8(), pa.large_string()),
            "tags": pa.large_list(pa.large_string()),
            "price": pa.float64(),
            "size": pa.int64(),
        }
    ),
    "large views": lambda: arrow_table(
        {
            "item": pa.large_string(),
            "shelf": pa.string(),
            "tags": pa.large_list_view(pa.string_view()),
            "price": pa.decimal256(60, 3),
            "size": pa.decimal128(20, 0),
        }
    ),
    "run ends": run_ends,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_library_gives_the_same_plain_table(kind: str) -> None:
    read = read_table(SOURCES[kind]()).select(PLAIN.column_names)
    assert read.schema == PLAIN.schema
    assert read.to_pylist() == PLAIN.to_pylist()
    assert all(column.num_chunks == 1 for column in read.columns)


@pytest.mark.parametrize("kind", SOURCES)
def test_a_data_set_and_its_features_take_every_library(kind: str) -> None:
    log = pa.table({"who": ["ann", "bob"], "item": ["tea", "ale"]})
    data = from_tables(log, query_id="who", candidate_id="item", candidates=SOURCES[kind]())
    assert data.candidate_index.tolist() == [0, 2]
    for feature in (Categories("tags", 4), Category("shelf", 4), Normalized("price"), Normalized("size")):
        feature.fit(data.candidates[feature.column])
        assert len(feature.encode(data.candidates[feature.column])) == 3


def test_a_log_of_categoricals_is_the_log_of_their_texts() -> None:
    plain = pl.DataFrame({"who": ["ann", "bob", "ann"], "what": ["x", "y", "y"], "unused": ["p", "q", "p"]})
    coded = plain.with_columns(pl.all().cast(pl.Categorical))
    first, second = (from_tables(log, query_id="who", candidate_id="what") for log in (plain, coded))
    assert first.interactions.equals(second.interactions)
    assert first.candidates.equals(second.candidates)


def test_slices_and_chunks_keep_their_rows() -> None:
    tags = pa.array([["a"], None, ["b", "c"], [], ["d"]], pa.list_view(pa.string_view()))
    struct = pa.array([{"k": "v"}, None, {"k": None}, {"k": "w"}, {"k": "x"}], pa.struct([("k", pa.string_view())]))
    table = pa.table(
        {"tags": tags, "struct": struct, "label": pa.array(["p", "q", "p", None, "q"]).dictionary_encode()}
    )
    for part in (table.slice(1, 3), pa.concat_tables([table.slice(3), table.slice(0, 2)]), table.slice(2, 0)):
        assert read_table(part).to_pylist() == part.to_pylist()


def test_a_value_that_does_not_fit_and_a_column_that_is_there_twice_are_refused() -> None:
    with pytest.raises(DataError, match=r"interactions, column 'n': .*expected values that fit int64"):
        read_table(pa.table({"n": pa.array([Decimal(10) ** 30])}), "interactions")
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"])
    with pytest.raises(DataError, match="column 'n' appears 2 times; expected it once, found 'n', 'n'"):
        read_table(twice)
    with pytest.raises(DataError, match=r"the DataFrame cannot be read as Arrow: .*column a"):
        read_table(pd.DataFrame({"a": [1, "x"]}))
    with pytest.raises(DataError, match="the Series cannot be read as Arrow"):
        read_table(pd.Series([1, 2]))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pa.array([0, 1_500_000_001], pa.timestamp("ns")), [0.0, 1.500000001]),
        (pa.array([0, 1500], pa.timestamp("ms", "Europe/Berlin")), [0.0, 1.5]),
        (pa.array([0, 86_400_000], pa.date64()), [0.0, 86_400.0]),
        (pa.array([Decimal("0.5"), Decimal("1.5")]), [0.5, 1.5]),
        (pa.array([1, 2], pa.uint64()), [1.0, 2.0]),
        (pa.array([1.0, 2.0], pa.float16()), [1.0, 2.0]),
        (pa.array(["1970-01-01T00:00:01Z", "1970-01-01T01:00:02.5+01:00"]), [1.0, 2.5]),
        (pa.array(["1970-01-02", "1970-01-02 00:01"]), [86_400.0, 86_460.0]),
        (pa.array(["17", "18.5"], pa.large_string()), [17.0, 18.5]),
    ],
)
def test_times_of_many_types_are_seconds(times: pa.Array, expected: list[float]) -> None:
    log = pa.table({"who": ["a", "b"], "what": [1, 2], "at": times})
    data = from_tables(log, query_id="who", candidate_id="what", time="at")
    assert data.times.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (pa.array([True, False]), "'at', row 0: True is bool; expected a time in seconds"),
        (pa.array([1, 2], pa.duration("s")), r"'at', row 0: .* is duration\[s\]; expected a time"),
        (pa.array([1, 2], pa.time32("s")), r"'at', row 0: .* is time32\[s\]; expected a time"),
        (pa.array([b"1", b"2"]), "'at', row 0: b'1' is binary; expected a time"),
        (pa.array(["2024-01-01", "2024-13-01"]), "'at', row 1: '2024-13-01' is string; expected a time"),
        (pa.array(["2024-01-01T00:00", "2024-01-01T00:00Z"]), "'at', row 1: .* all rows with a zone or none"),
        (pa.array(["17", "NA"]), "'at', row 1: null"),
    ],
)
def test_what_is_no_time_is_refused_with_the_row_that_is_none(times: pa.Array, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_tables(
            pa.table({"who": ["a", "b"], "what": [1, 2], "at": times}), query_id="who", candidate_id="what", time="at"
        )


def test_large_unsigned_ids_are_ids_and_rounded_ones_are_refused_with_a_remedy() -> None:
    log = pa.table({"who": pa.array([2**64 - 1, 3], pa.uint64()), "what": [1, 2]})
    catalogue = pa.table({"what": pa.array([1, 2**64 - 1, 2], pa.uint64())})
    data = from_tables(log, query_id="who", candidate_id="what", candidates=catalogue)
    assert data.queries["who"].to_pylist() == [3, 2**64 - 1]
    assert data.candidate_index.tolist() == [0, 2]
    negative = pa.table({"who": [1], "what": [-1]})
    with pytest.raises(DataError, match=r"'what' is uint64 in candidates and int64 in .*; expected ids that fit"):
        from_tables(negative, query_id="who", candidate_id="what", candidates=catalogue)
    for value, remedy in ((2.0, "write whole numbers without a fraction"), (2.0**60, "floats cannot hold integers")):
        with pytest.raises(DataError, match=f"'who', row 0: .* is double; expected ids .*; {remedy}"):
            from_tables(pa.table({"who": np.array([value]), "what": [1]}), query_id="who", candidate_id="what")
