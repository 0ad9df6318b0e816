from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from twotower.data import Dataset, describe, from_tables, simulated
from twotower.errors import ConfigError, DataError, DataWarning

LOG = {"who": ["ann", "bob", "ann"], "what": [3, 5, 5], "at": [10, 20, 30], "n": [1.0, 2.5, 0.0]}


def build(source: Any = None, **options: Any) -> Dataset:
    log = pa.table(LOG) if source is None else source
    return from_tables(log, **({"query_id": "who", "candidate_id": "what", "time": "at"} | options))


def sources(folder: Path) -> dict[str, Any]:
    table = pa.table(LOG)
    pq.write_table(table, folder / "log.parquet")
    pa.csv.write_csv(table, folder / "log.csv")
    parts = folder / "parts" / "day=1"
    parts.mkdir(parents=True)
    pq.write_table(table.slice(0, 2), parts / "a.parquet")
    pq.write_table(table.slice(2), parts / "b.parquet")
    return {
        "arrow": table,
        "polars": pl.DataFrame(LOG),
        "pandas": pd.DataFrame(LOG),
        "duckdb": duckdb.sql(
            "select * from (values ('ann', 3, 10), ('bob', 5, 20), ('ann', 5, 30)) t(who, what, \"at\")"
        ),
        "parquet": folder / "log.parquet",
        "csv": str(folder / "log.csv"),
        "folder": folder / "parts",
    }


@pytest.mark.parametrize("kind", ["arrow", "polars", "pandas", "duckdb", "parquet", "csv", "folder"])
def test_every_source_gives_the_same_data(kind: str, tmp_path: Path) -> None:
    data = build(sources(tmp_path)[kind])
    assert data.queries["who"].to_pylist() == ["ann", "bob"]
    assert data.candidates["what"].to_pylist() == [3, 5]
    assert data.query_index.tolist() == [0, 1, 0]
    assert data.candidate_index.tolist() == [0, 1, 1]
    assert data.times.tolist() == [10.0, 20.0, 30.0]


def test_timestamps_become_seconds_and_dates_too() -> None:
    stamps = pa.array([0, 1_500_000, 2_000_000], pa.timestamp("us"))
    assert build(pa.table(LOG | {"at": stamps})).times.tolist() == [0.0, 1.5, 2.0]
    days = pa.array([0, 1, 2], pa.date32())
    assert build(pa.table(LOG | {"at": days})).times.tolist() == [0.0, 86_400.0, 172_800.0]


@pytest.mark.parametrize("per_second", [1, 1_000, 1_000_000, 1_000_000_000])
def test_numbers_too_large_for_seconds_are_read_in_their_unit(per_second: int) -> None:
    seconds = [1_714_557_000, 1_714_560_600, 1_714_564_200]
    counts = [second * per_second for second in seconds]
    assert build(pa.table(LOG | {"at": counts})).times.tolist() == seconds
    assert build(pa.table(LOG | {"at": [str(count) for count in counts]})).times.tolist() == seconds


@pytest.mark.parametrize(
    ("values", "time_format"),
    [
        (["31.05.2024 18:30"] * 3, "%d.%m.%Y %H:%M"),
        (["05/31/2024 06:30 PM"] * 3, "%m/%d/%Y %I:%M %p"),
        (["31.05.2024 20:30:00.000 +0200"] * 3, "%d.%m.%Y %H:%M:%S.%f %z"),
        ([202405311830] * 3, "%Y%m%d%H%M"),
        ([1_717_180_200.0] * 3, "%d.%m.%Y"),  # only text and integers can be in a format
    ],
)
def test_times_may_have_a_format_of_their_own(values: list[Any], time_format: str) -> None:
    assert build(pa.table(LOG | {"at": values}), time_format=time_format).times.tolist() == [1_717_180_200] * 3


@pytest.mark.parametrize("time_format", ["", "%q", "day", "%H:%M"])
def test_a_time_format_that_gives_no_date_is_refused(time_format: str) -> None:
    with pytest.raises(ConfigError, match=r"time_format=.*expected a format as in Python's strptime"):
        build(time_format=time_format)


def test_weights_are_kept_and_missing_ones_are_one() -> None:
    assert build(weight="n").weights.tolist() == [1.0, 2.5, 0.0]
    assert build().weights.tolist() == [1.0, 1.0, 1.0]


def test_a_part_shares_the_tables_of_the_whole() -> None:
    data = build()
    part = data.take(np.array([2, 0]))
    assert part.candidates is data.candidates
    assert part.times.tolist() == [30.0, 10.0]
    assert data.take(np.array([False, True, False])).query_index.tolist() == [1]


def test_a_query_column_comes_from_the_log_or_from_the_query_table() -> None:
    data = build(queries=pa.table({"who": ["bob", "ann"], "age": [7, 9], "at": ["x", "y"]}))
    column, rows = data.query_column("age")
    assert column.take(pa.array(rows)).to_pylist() == [9, 7, 9]
    column, rows = data.query_column("at")
    assert column.take(pa.array(rows)).to_pylist() == [10, 20, 30]
    with pytest.raises(DataError, match=r"'height' is in neither .*who, what, at, n.* nor .*who, age, at"):
        data.query_column("height")


def test_unknown_candidates_are_refused_or_dropped_and_counted() -> None:
    candidates = pa.table({"what": [5]})
    with pytest.raises(DataError, match=r"'what', row 0: 3 is not in the .*candidate table"):
        build(candidates=candidates)
    with pytest.warns(DataWarning, match=r"dropped 1 of 3 events \(33.3%\): their 'what' .*, such as 3"):
        data = build(candidates=candidates, unknown_candidates="drop")
    assert len(data) == 2
    assert data.dropped == 1
    assert data.times.tolist() == [20.0, 30.0]
    with pytest.raises(ConfigError, match="unknown_candidates='ignore'; expected one of 'refuse', 'drop'"):
        build(candidates=candidates, unknown_candidates="ignore")


def test_a_column_has_one_role() -> None:
    with pytest.raises(
        ConfigError, match="query_id and candidate_id are both 'who'; expected a separate column for each"
    ):
        build(candidate_id="who")
    with pytest.raises(ConfigError, match="time and weight are both 'at'"):
        build(weight="at")


@pytest.mark.parametrize("name", ["", " "])
def test_a_name_is_not_blank(name: str) -> None:
    with pytest.raises(ConfigError, match=f"data with name='{name}'; expected a name to show in reports"):
        build(name=name)
    with pytest.raises(ConfigError, match=f"data with name='{name}'"):
        simulated(5, 5, 10, name=name)


def test_integers_of_another_width_are_the_same_ids_and_text_is_not() -> None:
    narrow = build(candidates=pa.table({"what": pa.array([3, 5], pa.int32())}))
    assert narrow.candidate_index.tolist() == [0, 1, 1]
    with pytest.raises(DataError, match="'what' is string in candidates and int64 in interactions"):
        build(candidates=pa.table({"what": ["3", "5"]}))


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"query_id": "whom"}, "interactions: column 'whom' is missing, did you mean 'who'. found 'who', 'what'"),
        ({"who": ["ann", None, None]}, {}, r"'who', row 1: null \(2 in total\); expected an id in every row"),
        ({"what": [3.5, 1.0, 2.0]}, {}, "'what', row 0: 3.5 is double; expected ids that are integers or text"),
        ({"at": ["now", "then", "never"]}, {}, "'at', row 0: 'now' is string; expected a time in seconds"),
        ({"at": [10, None, 30]}, {}, "'at', row 1: null"),
        ({"at": [10.0, float("nan"), 30.0]}, {}, "'at', row 1: nan"),
        ({"at": [10, -5, 30]}, {}, r"'at', row 1: -5 is not a plausible time \(rows affected: 1\)"),
        ({"at": [10, 20, 1_700_000_000_000]}, {}, "'at', row 2: .* looks like milliseconds"),
        (
            {"at": [20240501, 20240531, 20241231]},
            {},
            r"'at', row 0: 20240501 looks like a date.* time_format = \"%Y%m%d\"",
        ),
        (
            {"at": ["1.5.2024", "31.5.2024", "2.6.2024"]},
            {},
            r"'1.5.2024' is string; .* time_format, such as \"%d\.%m\.%Y",
        ),
        ({"at": ["5/1/2024"] * 3}, {}, r"set time_format, such as \"%d/%m/%Y\""),
        (
            {"at": ["01.05.2024", "31.06.2024", "?"]},
            {"time_format": "%d.%m.%Y"},
            r"'at', row 1: '31.06.2024' \(rows affected: 2\); expected a time in the format '%d.%m.%Y'",
        ),
        ({"n": ["1,5", "2", "1"]}, {"weight": "n"}, "'n', row 0: '1,5' is string; .* or set decimal = \",\""),
        ({"n": [1.0, -2.0, 0.0]}, {"weight": "n"}, "'n', row 1: -2.0; expected a non-negative weight"),
        ({"n": [0.0, 0.0, 0.0]}, {"weight": "n"}, "'n': every weight is 0"),
        ({"n": [1.0, 0.0, 1e300]}, {"weight": "n"}, "'n', row 2: 1e\\+300; expected a weight of at most 1e\\+30"),
        ({"at": pa.array([2**63, 1, 2], pa.uint64())}, {}, "'at', row 0: 9223372036854775808 is not a plausible time"),
        (
            {"at": pa.array([1, -(2**62), 2], pa.timestamp("us"))},
            {},
            "'at', row 1: -4611686018427387904 us is not a plausible time",
        ),
        ({}, {"queries": pa.table({"who": ["ann", "ann", "bob"]})}, "queries, column 'who', row 1: 'ann' is already"),
        ({}, {"candidates": pa.table({"what": [3, 5, 3]})}, "candidates, column 'what', row 2: 3 is already in row 0"),
        ({}, {"candidates": pa.table({"what": [3, None]})}, "candidates, column 'what', row 1: null"),
        ({}, {"queries": pa.table({"who": ["ann"]})}, "'who', row 1: 'bob' is not in the query table"),
        ({}, {"candidates": pa.table({"what": pa.array([], pa.int64())})}, "the candidates table has no rows"),
    ],
)
def test_bad_data_is_refused_with_column_row_value_and_expectation(
    changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        build(pa.table(LOG | changes), **options)


def test_empty_and_unreadable_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        build(pa.table(LOG).slice(0, 0))
    with pytest.raises(DataError, match=r"nothing\.parquet does not exist"):
        build(tmp_path / "nothing.parquet")
    with pytest.raises(DataError, match=r"holds no file that ends in \.parquet"):
        build(tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"broken\.parquet cannot be read"):
        build(tmp_path / "broken.parquet")
    (tmp_path / "log.xlsx").write_bytes(b"")
    with pytest.raises(DataError, match=r"ends in '\.xlsx'; expected \.parquet"):
        build(tmp_path / "log.xlsx")
    with pytest.raises(DataError, match="got dict; expected an Arrow, Polars"):
        build(LOG)


def test_a_description_counts_what_is_there() -> None:
    data = build(candidates=pa.table({"what": [3, 5, 7], "title": ["a", None, "c"]}))
    found = describe(data)
    assert (found.interactions, found.queries, found.candidates, found.repeated) == (3, 2, 3, 0)
    assert found.density == 3 / 6
    assert (found.begins, found.ends) == ("1970-01-01T00:00:10+00:00", "1970-01-01T00:00:30+00:00")
    assert (found.per_candidate.without, found.per_candidate.most, found.per_query.mean) == (1, 2, 1.5)
    assert found.share_of_top["1%"] == pytest.approx(2 / 3)
    assert found.gini == pytest.approx(4 / 9)
    assert ("candidates", "title", 1) in [(column.table, column.name, column.missing) for column in found.columns]


def test_a_data_set_is_shown_in_a_line() -> None:
    assert repr(build()) == ("Dataset('data': 3 interactions (who, what, at, n); 2 queries (who); 2 candidates (what))")
