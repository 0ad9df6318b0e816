from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twotower.data import Dataset, ParquetLog, from_tables, stream_parquet
from twotower.data.fingerprints import fingerprint
from twotower.data.parquet import ParquetRows
from twotower.errors import ConfigError, DataError, DataWarning

IDS: dict[str, Any] = {"query_id": "who", "candidate_id": "what"}
ALL: dict[str, Any] = IDS | {"time": "at", "weight": "n"}


def table_of(events: int = 1000, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            "who": pa.array(draw.integers(80, size=events)).cast(pa.string()),
            "what": 1000 + draw.integers(50, size=events),
            "at": np.arange(events),
            "n": draw.integers(0, 4, size=events).astype(float),
            "device": pa.array(["phone", "tablet"]).take(pa.array(draw.integers(2, size=events))),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand events in two files with row groups of different sizes."""
    folder = tmp_path_factory.mktemp("log")
    table = table_of()
    pq.write_table(table.slice(0, 610), folder / "a.parquet", row_group_size=100)
    pq.write_table(table.slice(610), folder / "b.parquet", row_group_size=37)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Dataset:
    return from_tables(folder, **ALL)


def opened(path: Any, buffer: int = 256, **options: Any) -> ParquetLog:
    return stream_parquet(path, **(ALL | options), buffer=buffer)


def events_of(parts: Iterator[Dataset]) -> list[tuple[int, int, float, float]]:
    return [
        event
        for part in parts
        for event in zip(
            part.query_index.tolist(),
            part.candidate_index.tolist(),
            part.times.tolist(),
            part.weights.tolist(),
            strict=True,
        )
    ]


def test_it_knows_what_a_data_set_in_memory_knows(folder: Path, whole: Dataset) -> None:
    log = opened(folder)
    assert len(log) == len(whole)
    assert log.queries.equals(whole.queries)
    assert log.candidates.equals(whole.candidates)
    assert log.fingerprint == fingerprint(whole)
    assert np.array_equal(log.candidate_counts(), whole.candidate_counts())
    assert np.array_equal(log.query_counts(), whole.query_counts())
    sums = np.bincount(whole.candidate_index, whole.weights, len(log.candidate_weights()))
    assert log.candidate_weights() == pytest.approx(sums)
    assert log.latest_time == 999
    again = log.read()
    assert events_of(iter([again])) == events_of(iter([whole]))
    assert np.array_equal(again.candidate_counts(), whole.candidate_counts())


def test_a_name_is_not_blank(folder: Path) -> None:
    for make in (lambda: opened(folder, name=""), lambda: opened(folder).part(folder, name="")):
        with pytest.raises(ConfigError, match="name=''; expected a name to show in reports"):
            make()


@settings(max_examples=30)
@given(
    batch_size=st.integers(1, 100),
    buffer=st.integers(256, 3000),
    group=st.integers(10, 300),  # of one row they are opened 400 times
    events=st.integers(1, 400),
)
@example(batch_size=33, buffer=300, group=1, events=310)
def test_an_epoch_has_each_event_once_in_whole_batches(
    tmp_path_factory: pytest.TempPathFactory, batch_size: int, buffer: int, group: int, events: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "log.parquet"
    table = table_of(events).set_column(3, "n", pa.array(np.ones(events)))
    pq.write_table(table, path, row_group_size=group)
    log = opened(path, buffer)
    parts = list(log.shuffled(1, 1, batch_size))
    assert all(len(part) % batch_size == 0 for part in parts[:-1])
    assert Counter(events_of(iter(parts))) == Counter(events_of(iter([log.read()])))


def test_the_seed_and_the_epoch_determine_the_order(folder: Path) -> None:
    log = opened(folder)
    first = events_of(log.shuffled(3, 1, 32))
    assert events_of(opened(folder).shuffled(3, 1, 32)) == first
    for seed, epoch in ((3, 2), (4, 1)):
        other = events_of(log.shuffled(seed, epoch, 32))
        assert other != first
        assert Counter(other) == Counter(first)


def test_batches_mix_distant_row_groups(folder: Path) -> None:
    # 1000 events in the order of time: a batch of 32 out of one row group would span 100 seconds at most.
    for part in opened(folder, 1024).shuffled(0, 1, 32):
        for start in range(0, len(part) - 31, 32):
            assert np.ptp(part.times[start : start + 32]) > 200


@pytest.mark.parametrize("buffer", [256, 400, 1000])
def test_no_more_events_are_held_than_the_buffer_has(
    buffer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(table_of(5000), tmp_path / "log.parquet", row_group_size=900)  # larger than the buffer
    log = opened(tmp_path, buffer)
    read, used, most = 0, 0, 0
    interleaved = ParquetRows.interleaved

    def counted(*arguments: Any) -> Iterator[pa.Table]:
        nonlocal read, most
        for piece in interleaved(*arguments):
            read += len(piece)
            most = max(most, read - used)
            yield piece

    monkeypatch.setattr(ParquetRows, "interleaved", counted)
    before = 0
    for part in log.shuffled(0, 1, 32):
        used += before  # the part before is in use until the next one is there
        before = len(part)
    assert read == 5000
    assert buffer / 2 < most <= buffer


def test_a_sample_is_everything_or_a_uniform_part_in_the_order_of_the_log(folder: Path, whole: Dataset) -> None:
    log = opened(folder)
    everything = log.events_to_learn(1000, ["device"], seed=1)
    assert everything.interactions["device"].to_pylist() == whole.interactions["device"].to_pylist()
    assert events_of(iter([everything])) == events_of(iter([whole]))
    part = log.events_to_learn(300, [], seed=1)
    assert 200 < len(part) <= 300
    times = part.times.tolist()
    assert times == sorted(set(times))
    assert set(events_of(iter([part]))) <= set(events_of(iter([whole])))
    assert log.events_to_learn(300, [], seed=1).times.tolist() == times
    assert log.events_to_learn(300, [], seed=2).times.tolist() != times
    drawn = np.concatenate([log.events_to_learn(300, [], seed=seed).times for seed in range(40)])
    shares = np.histogram(drawn, bins=4, range=(0, 1000))[0] / len(drawn)
    assert shares == pytest.approx([0.25] * 4, abs=0.02)  # 4 standard errors of about 10,000 draws


def test_parts_to_measure_on_share_the_candidates_and_may_have_new_queries(folder: Path, whole: Dataset) -> None:
    log = opened(folder)
    test = pa.table({"who": ["5", "new", "7"], "what": [1001, 1002, 1003], "at": [2000, 2001, 2002], "n": [1.0] * 3})
    part = log.part(test, name="test")
    assert part.candidates is log.candidates
    assert part.queries["who"].to_pylist() == [*log.queries["who"].to_pylist(), "new"]
    assert part.query_index[1] == log.queries.num_rows
    known = log.events_of(part)
    assert known.queries is part.queries
    mine = np.isin(whole.query_index, part.query_index)
    assert events_of(iter([known])) == events_of(iter([whole.take(mine)]))
    assert np.array_equal(known.candidate_counts(), whole.candidate_counts())
    with pytest.raises(DataError, match=r"make the part with its part\(…\)"):
        log.events_of(from_tables(test, **ALL))
    with pytest.raises(DataError, match="'what', row 0: 3 is not in the candidate table"):
        log.part(pa.table({"who": ["5"], "what": [3], "at": [1], "n": [1.0]}))
    with pytest.raises(DataError, match="'who' is int64 in the part and string in interactions"):
        log.part(pa.table({"who": [5], "what": [1001], "at": [1], "n": [1.0]}))
    given_queries = opened(folder, queries=whole.queries)
    with pytest.raises(DataError, match="'who', row 1: 'new' is not in the query table"):
        given_queries.part(test)


def test_events_of_unknown_candidates_are_dropped_and_counted(folder: Path) -> None:
    candidates = pa.table({"what": pa.array(range(1000, 1040), pa.int32())})
    dropping: dict[str, Any] = {"candidates": candidates, "unknown_candidates": "drop"}
    with pytest.warns(DataWarning, match=r"dropped .* of 1,000 events .*'what' is not .*, such as 10\d\d"):
        in_memory = from_tables(folder, **ALL, **dropping)
    with pytest.warns(DataWarning, match=f"{in_memory.dropped} of 1,000 events .* is not in the candidate table"):
        log = opened(folder, **dropping)
    assert (len(log), log.dropped) == (len(in_memory), in_memory.dropped)
    assert log.dropped > 0
    with pytest.warns(DataWarning, match="is not in the candidate table"):
        few = opened(folder, candidates=pa.table({"what": [1001, 1002]}), unknown_candidates="drop")
    assert len(few) < few.dropped
    assert [len(part) for part in few.shuffled(0, 1, 100)] == [len(few)]  # no part is empty
    assert Counter(events_of(log.shuffled(0, 1, 32))) == Counter(events_of(iter([in_memory])))


def broken(column: str, row: int, value: Any) -> pa.Table:
    table = table_of()
    values = table[column].to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type))


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (broken("who", 777, None), {}, r"'who', row 777: null \(1 in this part of the log\); expected an id"),
        (broken("what", 777, None), {}, "'what', row 777: null"),
        (broken("at", 777, None), {}, "'at', row 777: null; expected a time"),
        (
            broken("at", 777, -5),
            {},
            r"'at', row 777: -5 is not a plausible time \(rows affected: 1 in this part of the log\)",
        ),
        (broken("n", 777, -1.0), {}, "'n', row 777: -1.0; expected a non-negative weight"),
        (broken("n", 777, float("nan")), {}, "'n', row 777: nan"),
        (broken("what", 777, 1), {"candidates": pa.table({"what": range(1000, 1050)})}, "'what', row 777: 1 is not in"),
        (table_of(), {"query_id": "whom"}, "interactions: column 'whom' is missing"),
        (table_of().set_column(3, "n", pa.array(np.zeros(1000))), {}, "'n': every weight is 0"),
        (
            table_of(),
            {"candidates": pa.table({"what": [7]}), "unknown_candidates": "drop"},
            "no events are left: all 1000",
        ),
        (table_of(), {"candidates": pa.table({"what": ["7"]})}, "'what' is string in candidates and int64"),
        (table_of().slice(0, 0), {}, "the interactions have no rows"),
    ],
)
def test_bad_events_are_refused_with_their_row_in_the_whole_log(
    table: pa.Table, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pq.write_table(table.slice(0, 500), tmp_path / "a.parquet", row_group_size=70)
    pq.write_table(table.slice(500), tmp_path / "b.parquet", row_group_size=70)
    with pytest.raises(DataError, match=message):
        opened(tmp_path, **options)


def test_paths_that_are_no_parquet_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        opened(tmp_path / "nothing.parquet")
    with pytest.raises(DataError, match=r"holds no file that ends in \.parquet"):
        opened(tmp_path)
    with pytest.raises(DataError, match="no path was given"):
        opened([])
    (tmp_path / "log.csv").write_text("who,what\n1,2\n")
    with pytest.raises(DataError, match=r"ends in '\.csv'; expected \.parquet"):
        opened(tmp_path / "log.csv")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"broken\.parquet cannot be read"):
        opened(tmp_path)
    with pytest.raises(ConfigError, match="buffer=10"):
        opened(folder, buffer=10)
    with pytest.raises(ConfigError, match="batch_size=200 with buffer=256; expected a buffer of more than"):
        next(opened(folder).shuffled(0, 1, 200))


def test_a_corrupt_row_group_is_refused_by_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(table_of(), path, row_group_size=250, compression="zstd")
    with pq.ParquetFile(path) as file:
        column = file.metadata.row_group(2).column(0)
        start, size = column.dictionary_page_offset or column.data_page_offset, column.total_compressed_size
    log = opened(path)
    damaged = bytearray(path.read_bytes())
    damaged[start + 30 : start + size] = bytes(size - 30)
    path.write_bytes(damaged)
    for use in (lambda: opened(path), lambda: list(log.shuffled(0, 1, 32))):
        with pytest.raises(DataError, match=r"log\.parquet, row group 2 \(rows 500 to 749\) cannot be read"):
            use()


def test_files_that_change_while_they_are_streamed_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(table_of(), path, row_group_size=250)
    log = opened(path)
    pq.write_table(broken("who", 300, "nobody"), path, row_group_size=250)
    with pytest.raises(DataError, match=r"have changed since they were opened: .*'nobody' is not in the query table"):
        list(log.shuffled(0, 1, 32))
    pq.write_table(table_of().slice(0, 990), path, row_group_size=250)
    with pytest.raises(DataError, match=r"row group 3 .* has 240 rows: it is damaged, or has changed since"):
        list(log.shuffled(0, 1, 32))


def test_columns_of_files_may_come_in_another_order_and_width_but_not_be_missing(tmp_path: Path) -> None:
    table = table_of()
    pq.write_table(table.slice(0, 500), tmp_path / "a.parquet")
    turned = table.slice(500).select(table.column_names[::-1])
    narrow = turned.set_column(turned.column_names.index("what"), "what", turned["what"].cast(pa.int32()))
    pq.write_table(narrow, tmp_path / "b.parquet")
    assert opened(tmp_path).fingerprint == fingerprint(from_tables(table, **ALL))
    pq.write_table(narrow.drop_columns(["at"]), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: column 'at' is missing"):
        opened(tmp_path)
