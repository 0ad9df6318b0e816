"""Files that tables are read from: formats, folders, patterns, partitions, and errors that name the line."""

from __future__ import annotations

import bz2
import datetime
import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data import from_tables, stream_parquet
from twotower.data.fingerprints import fingerprint
from twotower.data.lookalike import lookalike
from twotower.data.sources import read_table
from twotower.errors import ConfigError, DataError, DataWarning

IDS: dict[str, Any] = {"query_id": "who", "candidate_id": "what"}


def written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def csv_of(table: pa.Table, path: Path, delimiter: str = ",") -> None:
    pa.csv.write_csv(table, path, pa.csv.WriteOptions(delimiter=delimiter))


WRITERS: dict[str, Callable[[pa.Table, Path], object]] = {
    "arrow.parquet": lambda table, path: pq.write_table(table, path, row_group_size=3),
    "polars.pq": lambda table, path: pl.DataFrame(table).write_parquet(path),
    "arrow.csv": csv_of,
    "semicolons.csv": lambda table, path: csv_of(table, path, ";"),
    "bars.csv": lambda table, path: csv_of(table, path, "|"),
    "arrow.tsv": lambda table, path: csv_of(table, path, "\t"),
    "polars.csv": lambda table, path: pl.DataFrame(table).write_csv(path),
    "pandas.csv": lambda table, path: table.to_pandas().to_csv(path),  # with its index, a column without a name
    "windows.csv.gz": lambda table, path: table.to_pandas().to_csv(
        path, index=False, lineterminator="\r\n", encoding="utf-8-sig"
    ),
    "pandas.csv.bz2": lambda table, path: table.to_pandas().to_csv(path, index=False),
    "arrow.csv.zst": lambda table, path: csv_of(table, pa.output_stream(str(path), compression="zstd")),
    "polars.jsonl": lambda table, path: pl.DataFrame(table).write_ndjson(path),
    "pandas.json.gz": lambda table, path: table.to_pandas().to_json(path, orient="records", lines=True),
}

NAMES = st.text(st.sampled_from("aZé漢🙂 ,;|\t\n\"'0.-"), max_size=6).map(lambda text: f"u{text}u")


@settings(max_examples=12, deadline=None)
@given(
    rows=st.lists(st.tuples(NAMES, st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31)), min_size=1, max_size=12)
)
def test_a_log_is_the_same_from_every_format(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    who, what, at = zip(*rows, strict=True)
    table = pa.table({"who": who, "what": what, "at": at})
    expected = fingerprint(from_tables(table, **IDS, time="at"))
    folder = tmp_path_factory.mktemp("formats")
    for name, write in WRITERS.items():
        write(table, folder / name)
        assert fingerprint(from_tables(folder / name, **IDS, time="at")) == expected, name


def test_columns_of_text_become_what_all_of_their_values_are(tmp_path: Path) -> None:
    path = written(
        tmp_path / "all.csv",
        "n,x,yes,day,at,zoned,code,long,country,none,text\n"
        "1,1.5,true,2024-01-01,2024-01-01 10:00:00.5,2024-01-01T10:00:00Z,007,18446744073709551616,DE,,a\n"
        "NA,2,FALSE,,2024-01-01,2024-01-01T10:00:00+02:00,12,1,NA,,\n"
        '" 3",-1e3,,2024-02-29,,,,,,"",""\n',
    )
    read = read_table(path)
    kinds = {
        "n": pa.int64(),
        "x": pa.float64(),
        "yes": pa.bool_(),
        "day": pa.date32(),
        "at": pa.timestamp("us"),
        "zoned": pa.timestamp("s", "UTC"),
        **dict.fromkeys(("code", "long", "country"), pa.string()),
        "none": pa.null(),
        "text": pa.string(),
    }
    assert dict(zip(read.schema.names, read.schema.types, strict=True)) == kinds
    assert read["n"].to_pylist() == [1, None, 3]
    assert read["yes"].to_pylist() == [True, False, None]
    assert read["code"].to_pylist() == ["007", "12", None]
    assert read["country"].to_pylist() == ["DE", "NA", None]  # a country, as text, and no missing value
    assert read["text"].to_pylist() == ["a", None, None]  # empty cells are null, quoted or not
    assert read["zoned"][1].as_py() == datetime.datetime(2024, 1, 1, 8, tzinfo=datetime.UTC)


def test_unsigned_ids_of_64_bits_and_ids_of_any_length_keep_all_digits(tmp_path: Path) -> None:
    read = read_table(written(tmp_path / "a.csv", f"a,b,phone\n{2**64 - 1},{10**30 + 1},+4930\n1,2,+44\n"))
    assert read.to_pylist()[0] == {"a": 2**64 - 1, "b": str(10**30 + 1), "phone": "+4930"}


def test_numbers_of_a_csv_are_the_texts_that_another_table_has_for_ids(tmp_path: Path) -> None:
    log = written(tmp_path / "log.csv", "who,what\nann,1\nbob,2\n")
    catalogue = written(tmp_path / "items.csv", "what,title\n2,two\nA7,seven\n1,one\n")
    data = from_tables(log, **IDS, candidates=catalogue)
    assert data.candidates["what"].to_pylist() == ["2", "A7", "1"]
    assert data.candidate_index.tolist() == [2, 0]
    other = from_tables(pa.table({"who": ["ann"], "what": ["7"]}), **IDS, candidates=written(log, "what\n7\n8\n"))
    assert other.candidates["what"].to_pylist() == ["7", "8"]


def test_the_delimiter_is_told_from_the_header_or_given(tmp_path: Path) -> None:
    path = written(tmp_path / "log.csv", "who:what\nann:1,5\n")
    assert read_table(path, delimiter=":").to_pylist() == [{"who": "ann", "what": "1,5"}]
    assert from_tables(path, **IDS, delimiter=":").queries["who"].to_pylist() == ["ann"]
    assert read_table(written(path, "who;what;where,when\nann;1;2\n")).column_names == ["who", "what", "where,when"]
    with pytest.raises(ConfigError, match="delimiter='::'; expected one character"):
        read_table(path, delimiter="::")


def test_a_path_may_begin_at_home_and_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    written(tmp_path / "my log.csv", "who,what\nann,1\n")
    assert len(from_tables("~/my log.csv", **IDS)) == 1
    for address in ("https://example.com/log.csv", "s3://bucket/log/*.parquet"):
        with pytest.raises(DataError, match=f"{re.escape(address)} is an address; .* download it first"):
            from_tables(address, **IDS)
    with pytest.raises(DataError, match=r"https:/example\.com/log\.csv is an address"):
        from_tables(Path("https://example.com/log.csv"), **IDS)


def test_a_json_array_over_several_lines_is_told_to_lose_its_brackets(tmp_path: Path) -> None:
    path = written(tmp_path / "log.json", '[\n{"who": "ann", "what": 1}\n]\n')
    with pytest.raises(DataError, match=r"line 1: .*expected a JSON object on every line, without brackets around"):
        read_table(path)


def test_decimal_commas_are_read_if_said_so(tmp_path: Path) -> None:
    path = written(tmp_path / "items.csv", "what;price;stock;note;total\n1;4,50;7;1.299;1.299,50\n2;-0,5e1;8;4,5;2,5\n")
    table = read_table(path, decimal=",")
    assert table["price"].to_pylist() == [4.5, -5.0]
    assert table["stock"].to_pylist() == [7, 8]
    assert table["note"].to_pylist() == ["1.299", "4,5"]  # 1.299 may be 1299
    assert table["total"].to_pylist() == ["1.299,50", "2,5"]
    log = written(tmp_path / "log.csv", "who;what;n\nann;1;0,5\nbob;2;1\n")
    priced = written(tmp_path / "priced.csv", "what;price\n1;4,50\n2;12\n")
    data = from_tables(log, **IDS, weight="n", candidates=priced, decimal=",")
    assert data.weights.tolist() == [0.5, 1.0]
    assert data.candidates["price"].to_pylist() == [4.5, 12.0]
    with pytest.warns(DataWarning, match=r"'4,50' are text; .*decimal = \",\" reads decimal commas"):
        from_tables(pa.table({"who": ["ann"], "what": [1]}), **IDS, candidates=priced)
    with pytest.raises(ConfigError, match=r"decimal=';'; expected one of '\.', ','"):
        from_tables(log, **IDS, decimal=";")  # type: ignore[arg-type]


LINES = "who,what,at\n" + "".join(f"ann,{n},2024-01-0{n}\n" for n in range(1, 6))


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", LINES + "bob,1,soon\nbob,2,2024-01-09\n", {"time": "at"}, r"'at', row 5 \(line 7 of .*\): 'soon'"),
        ("a.csv", LINES + "bob,1,2024-02-30\n", {"time": "at"}, r"row 5 \(line 7 of .*a\.csv\): '2024-02-30'"),
        ("a.csv", LINES + '"b\n\nb",7,2024-02-01\n\nx,1,\n', {"time": "at"}, r"row 6 \(line 11 of .*\): null"),
        ("a.csv", LINES + ",1,2024-01-01\n", {}, r"'who', row 5 \(line 7 of .*\): null"),
        ("a.csv", "who,what,n\na,1,2\na,2,x\n", {"weight": "n"}, r"'n', row 1 \(line 3 of .*\): 'x' is string"),
        ("a.csv", "who,what,n\na,1,2\na,2,-1\n", {"weight": "n"}, r"'n', row 1 \(line 3 of .*\): -1; expected a non"),
        ("a.csv", "who,what\na,1.5\n", {}, r"'what', row 0 \(line 2 of .*\): 1.5 is double"),
        ("a.csv", "who,what\na,1\na\n", {}, r"a\.csv, line 3 has 1 cells, but the header has 2"),
        ("a.csv", "who,what\na,1\n\na,1,2\n", {}, r"a\.csv, line 4 has 3 cells, but the header has 2"),
        ("a.csv", "who,what,what\na,1,2\n", {}, r"a\.csv has the column 'what' 2 times"),
        ("a.csv", "who, what\na,1\n", {}, "column 'what' is missing, did you mean ' what'. found 'who', ' what'"),
        ("a.csv", "", {}, r"a\.csv is empty; expected a header"),
        ("a.csv", "\n\n", {}, r"a\.csv is empty; expected a header"),
        ("a.csv", ", \n1,2\n", {}, r"no column of .*a\.csv has a name; expected a header"),
        ("a.csv", "who,what\n", {}, "the interactions have no rows"),
        ("a.csv", "who,what\na,1\né,2\n".encode("latin-1"), {}, r"a\.csv, line 3 is not UTF-8"),
        ("a.csv", "who,what,é\na,1,2\n".encode("latin-1"), {}, r"a\.csv, line 1 is not UTF-8"),
        ("a.csv", "who,what\na,1\n".encode("utf-16"), {}, r"a\.csv is UTF-16; expected UTF-8"),
        ("a.csv.gz", "who,what\na,1\n", {}, r"a\.csv\.gz cannot be read"),
        ("a.csv.gz", gzip.compress(b"who,what\na,1\nb\n", mtime=0), {}, r"a\.csv\.gz, line 3 has 1 cells"),
        ("a.jsonl", '{"who":"a","what":1}\n\n{"who":"b"}\n', {}, r"'what', row 1 \(line 3 of .*a\.jsonl\): null"),
        ("a.jsonl", '{"who":"a","what":1}\n{"who":"b",\n', {}, r"a\.jsonl, line 2: "),
        (
            "a.jsonl",
            '{"who":1}\n{"who":null}\n{"who":"b"}\n',
            {},
            "line 3: 'who' is text, \"b\", but a number in line 1",
        ),
        (
            "a.json",
            '[{"who":"a","what":1}]\n',
            {},
            r"line 1 is not a JSON object; .*without brackets around them",
        ),
        ("a.json", '{"who":"a\n', {}, r"line 1: Invalid control character at character 10; expected a JSON object"),
        (
            "a.csv",
            "ann,7\nbob,3\n",
            {},
            "'who' is missing; found 'ann', '7'; '7' is a number: if the file has no",
        ),
        ("a.json", "", {}, r"a\.json is empty"),
        ("a.ndjson", f'{{"who":{2**64},"what":1}}\n', {}, r"'who', row 0 .*floats cannot hold integers this large"),
    ],
)
def test_errors_of_files_name_the_line(
    name: str, content: str | bytes, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        from_tables(written(tmp_path / name, content), **IDS, **options)


def test_errors_of_several_files_name_the_file(tmp_path: Path) -> None:
    written(tmp_path / "log-1.csv", "who,what\nann,1\nbob,2\n")
    written(tmp_path / "log-2.csv", "who,what\nann,3\n,4\n")
    with pytest.raises(DataError, match=r"'who', row 3 \(line 3 of .*log-2\.csv\): null"):
        from_tables(tmp_path / "log-*.csv", **IDS)
    for number, who in ((1, ["ann", "bob"]), (2, ["eve", None])):
        pq.write_table(pa.table({"who": who, "what": [1, 2]}), tmp_path / f"{number}.parquet")
    with pytest.raises(DataError, match=r"'who', row 3 \(row 1 of .*2\.parquet\): null"):
        from_tables(tmp_path / "*.parquet", **IDS)
    pq.write_table(pa.table({"who": ["eve"], "what": ["x"]}), tmp_path / "2.parquet")
    for read in (from_tables, stream_parquet):
        with pytest.raises(DataError, match=r"'what': int64 in .*1\.parquet and string in .*2\.parquet; expected one"):
            read(tmp_path / "*.parquet", **IDS)


def test_types_are_those_of_all_files_together(tmp_path: Path) -> None:
    written(tmp_path / "1.csv", "who,what,n\nann,1,1\n")
    written(tmp_path / "2.csv", "what,who,extra\nA2,7,x\n")
    assert read_table(tmp_path).to_pylist() == [
        {"who": "ann", "what": "1", "n": 1, "extra": None},
        {"who": "7", "what": "A2", "n": None, "extra": "x"},
    ]
    pq.write_table(pa.table({"who": pa.array([1], pa.int32()), "what": [1], "n": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"who": [2**40], "what": [1], "n": [1.5]}), tmp_path / "2.parquet")
    assert read_table(tmp_path / "*.parquet")["who"].to_pylist() == [1, 2**40]
    assert stream_parquet(tmp_path / "*.parquet", **IDS).queries["who"].to_pylist() == [1, 2**40]


def test_folders_and_patterns_name_files_of_one_format(tmp_path: Path) -> None:
    for name in ("2024/b.csv", "2024/a.csv", "2025/c.csv", "_tmp/d.csv", "2024/.e.csv"):
        written(tmp_path / name, f"file\n{name}\n")
    written(tmp_path / "_SUCCESS", "")
    files = {
        ".": ["2024/a.csv", "2024/b.csv", "2025/c.csv"],
        "2024": ["2024/a.csv", "2024/b.csv"],
        "202?/[bc].csv": ["2024/b.csv", "2025/c.csv"],
        "**/*.csv": ["2024/a.csv", "2024/b.csv", "2025/c.csv"],
        "202[5]": ["2025/c.csv"],
    }
    for pattern, expected in files.items():
        assert read_table(tmp_path / pattern)["file"].to_pylist() == expected, pattern
    with pytest.raises(DataError, match=r"no file matches .*2026.*; expected files that end in \.parquet"):
        read_table(tmp_path / "2026/*.csv")
    written(tmp_path / "2024/f.jsonl", '{"file": "f"}\n')
    with pytest.raises(DataError, match=r"a\.csv is csv and .*f\.jsonl is json; expected one format, or a pattern"):
        read_table(tmp_path / "2024")
    written(tmp_path / "odd[1].csv", "file\nodd\n")  # a name that looks like a pattern
    assert read_table(tmp_path / "odd[1].csv")["file"].to_pylist() == ["odd"]


@pytest.fixture
def partitioned(tmp_path: Path) -> Path:
    """Two days of two shops, as Spark and DuckDB write them."""
    for number, (day, shop) in enumerate(
        (day, shop) for day in (1, 2) for shop in ("a%20b", "__HIVE_DEFAULT_PARTITION__")
    ):
        folder = tmp_path / "events" / f"day=2024-01-0{day}" / f"shop={shop}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"who": [f"u{number}"], "what": [number]}), folder / "part-0.parquet")
    return tmp_path / "events"


def test_folders_named_after_columns_give_columns(partitioned: Path) -> None:
    days = [datetime.date(2024, 1, day) for day in (1, 1, 2, 2)]
    for source in (partitioned, partitioned / "day=*", partitioned / "*/*/*.parquet"):
        read = read_table(source).sort_by("who")
        assert read["day"].to_pylist() == days
        assert sorted(read["shop"].to_pylist(), key=str) == [None, None, "a b", "a b"]
    inside = read_table(partitioned / "day=2024-01-01")
    assert inside.column_names == ["who", "what", "shop"]  # the folder that is named itself says nothing
    written(partitioned / "day=2024-01-03/x.parquet", next(partitioned.rglob("*.parquet")).read_bytes())
    with pytest.raises(DataError, match=r"gets the columns \['day', 'shop'\] from its folders, but .* gets \['day'\]"):
        read_table(partitioned)


def test_a_streamed_log_has_the_columns_of_its_folders(partitioned: Path) -> None:
    whole = from_tables(partitioned, **IDS, time="day")
    log = stream_parquet(partitioned, **IDS, time="day")
    assert log.fingerprint == fingerprint(whole)
    assert log.latest_time == whole.times.max() == 1_704_153_600
    read = log.events_to_learn(10, ["shop"], seed=0)
    assert read.interactions["shop"].to_pylist() == whole.interactions["shop"].to_pylist()


def test_an_id_may_be_the_name_of_a_folder(tmp_path: Path) -> None:
    for store in (7, 12):
        path = tmp_path / f"store={store}"
        path.mkdir()
        pq.write_table(pa.table({"what": [store, 1]}), path / "a.parquet")
    for data in (
        from_tables(tmp_path, query_id="store", candidate_id="what"),
        stream_parquet(tmp_path, query_id="store", candidate_id="what"),
    ):
        assert data.queries["store"].to_pylist() == [7, 12]
        assert data.query_counts().tolist() == [2, 2]


def test_a_column_of_the_file_is_not_replaced_by_its_folders(tmp_path: Path) -> None:
    (tmp_path / "day=1").mkdir()
    pq.write_table(pa.table({"who": ["a"], "what": [1], "day": [1.5]}), tmp_path / "day=1" / "a.parquet")
    assert read_table(tmp_path)["day"].to_pylist() == [1.5]
    assert stream_parquet(tmp_path, **IDS, time="day").latest_time == 1.5


def test_a_few_bad_cells_among_numbers_are_named(tmp_path: Path) -> None:
    prices = "".join(f"{n},{n}.50\n" for n in range(1, 40))
    catalogue = written(tmp_path / "items.csv", f"what,price\n{prices}40,on request\n")
    log = pa.table({"who": ["ann"], "what": [1]})
    with pytest.warns(DataWarning, match=r"'price', row 39 \(line 41 of .*\): 39 of 40 .*'on request'"):
        from_tables(log, **IDS, candidates=catalogue)
    written(catalogue, 'what,price\n1,"1,299.00"\n2,9.50\n')
    with pytest.warns(DataWarning, match=r"'price', row 0 \(line 2 of .*\): values such as '1,299.00' are text"):
        from_tables(log, **IDS, candidates=catalogue)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["12.50", "9.99", None], "all 2 values are numbers held as text, such as '12.50'"),
        (["2024-01-01", "2024-05-06 10:00"], "all 2 values are times held as text"),
        (["$12.50", "$9.99"], r"values such as '\$12.50' are text; write numbers as digits"),
        (["12,50", "9,99"], "values such as '12,50' are text"),
        ([*map(str, range(19)), "n.a."], "19 of 20 values are numbers, but the others, such as 'n.a.', are not"),
        (["007", "012"], None),
        (["rum", "tea", "7"], None),
        (["A1", "B2"], None),
        ([None], None),
    ],
)
def test_text_that_people_take_for_numbers_is_told(values: list[str | None], reason: str | None) -> None:
    found = lookalike(pa.chunked_array([pa.array(values, pa.string())]))
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert re.match(reason, found.reason)


def test_compressed_text_is_read_line_by_line_for_errors(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl.bz2", bz2.compress(b'{"who":"a","what":1}\n{"who":null,"what":1}\n'))
    with pytest.raises(DataError, match=r"'who', row 1 \(line 2 of .*a\.jsonl\.bz2\): null"):
        from_tables(tmp_path / "a.jsonl.bz2", **IDS)


def test_pandas_writes_what_is_read(tmp_path: Path) -> None:
    frame = pd.DataFrame({"who": ["a", "b"], "what": [1, 2], "note": ["", None]})
    frame.to_csv(tmp_path / "a.csv")
    assert read_table(tmp_path / "a.csv").to_pydict() == {"who": ["a", "b"], "what": [1, 2], "note": [None, None]}


@pytest.mark.parametrize("ids", [[1, 2, 3], [3, 1, 2], ["a", "b", "c"]], ids=str)
def test_ids_in_the_index_of_a_pandas_table_are_a_column(ids: list[Any]) -> None:
    users = pd.DataFrame({"who": ids, "age": [30, 40, 50]}).set_index("who")
    log = from_tables(pd.DataFrame({"who": ids, "what": [7, 7, 8]}), queries=users, **IDS)
    assert dict(zip(*(log.queries[name].to_pylist() for name in ("who", "age")), strict=True)) == dict(
        zip(ids, [30, 40, 50], strict=True)
    )
    assert "who" in read_table(users).column_names


def test_the_row_numbers_of_a_pandas_table_are_no_column() -> None:
    assert read_table(pd.DataFrame({"age": [30, 40]})).column_names == ["age"]
    assert read_table(pd.DataFrame({"age": [30, 40]}, index=[5, 3])).column_names == ["age"]
    named = pd.DataFrame({"age": [30, 40]})
    named.index.name = "age"  # as a column is called already
    assert read_table(named)["age"].to_pylist() == [30, 40]


def test_an_index_without_a_name_is_left_out_with_a_warning_if_it_holds_more_than_row_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": [30, 40]}, index=["ann", "bob"])
    with pytest.warns(DataWarning, match=r"index of the pandas table holds string, but has no name.*rename_axis"):
        assert read_table(frame).column_names == ["age"]
    frame.to_parquet(tmp_path / "users.parquet")
    with pytest.warns(DataWarning, match="rename_axis"):
        assert read_table(tmp_path / "users.parquet").column_names == ["age"]
    frame.assign(item=[1, 2]).to_parquet(tmp_path / "log.parquet")
    with pytest.warns(DataWarning, match=r"interactions: the index .*rename_axis"):
        stream_parquet(tmp_path / "log.parquet", query_id="age", candidate_id="item")
    assert read_table(frame.rename_axis("who"))["who"].to_pylist() == ["ann", "bob"]
