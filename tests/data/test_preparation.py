from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import start_python
from twotower.data import ParquetLog, from_tables, preparation, stream_parquet
from twotower.data.ordered import SortedEvents
from twotower.errors import ConfigError, DataError, MissingExtraError

ROLES: dict[str, Any] = {"query_id": "who", "candidate_id": "what", "time": "at"}

pytest.importorskip("duckdb")


def table_of(events: int = 500, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            "who": pa.array(draw.integers(40, size=events)).cast(pa.string()),
            "what": 100 + draw.integers(30, size=events),
            "at": draw.integers(50, size=events),  # with many of the same instant
        }
    )


def write(path: Path, table: pa.Table | None = None) -> Path:
    path.mkdir()
    table = table_of() if table is None else table
    half = table.num_rows // 2
    pq.write_table(table.slice(0, half), path / "a.parquet", row_group_size=90)
    pq.write_table(table.slice(half), path / "b.parquet", row_group_size=41)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "log")


def opened(path: Path, **options: Any) -> ParquetLog:
    return stream_parquet(path, **(ROLES | options), buffer=128)


def same(one: SortedEvents, other: SortedEvents) -> bool:
    names = ("queries", "offsets", "candidates", "times", "rows")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def test_events_are_sorted_by_query_time_and_place_in_the_log(tmp_path: Path) -> None:
    table = pa.table(
        {"who": ["b", "a", "b", "a", "b"], "what": [1, 1, 2, 3, 3], "at": [5.5, 2.0, 1.0, 2.0, 1.0]},
    )
    found = opened(write(tmp_path / "log", table), queries=pa.table({"who": ["c", "b", "a"]})).sorted_events()
    assert found.queries.tolist() == [2, 1, 0]  # a, b, c
    assert found.offsets.tolist() == [0, 2, 5, 5]
    assert found.candidates.tolist() == [0, 2, 1, 2, 0]
    assert found.times is not None
    assert found.times.tolist() == [2.0, 2.0, 1.0, 1.0, 5.5]
    assert found.rows.tolist() == [1, 3, 2, 4, 0]


@settings(max_examples=15, deadline=None)
@given(events=st.integers(1, 300), seed=st.integers(0, 99), unit=st.integers(1, 200), piece=st.integers(1, 150))
def test_a_prepared_log_is_what_sorting_in_memory_gives(
    tmp_path_factory: pytest.TempPathFactory, events: int, seed: int, unit: int, piece: int
) -> None:
    folder = write(tmp_path_factory.mktemp("any") / "log", table_of(events, seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "EVENTS_PER_FILE", unit)
        patch.setattr(preparation, "BATCH_EVENTS", piece)
        found = opened(folder).sorted_events()
    assert same(found, from_tables(folder, **ROLES).sorted_events())


def test_events_of_unknown_candidates_are_left_out_and_rows_still_count_them(folder: Path) -> None:
    known = pa.table({"what": np.arange(100, 115)})
    with pytest.warns(match="is not in the candidate table"):
        found = opened(folder, candidates=known, unknown_candidates="drop").sorted_events()
    what = table_of()["what"].to_numpy()
    assert sorted(found.rows.tolist()) == np.flatnonzero(what < 115).tolist()
    assert np.array_equal(100 + found.candidates, what[found.rows])


def test_a_log_is_prepared_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(folder).sorted_events()
    (place,) = [path for path in (folder / "_twotower").iterdir() if path.is_dir()]
    assert sorted(path.name for path in place.iterdir()) == [
        *("candidates.npy", "offsets.npy", "prepared.json", "queries.npy", "rows.npy", "times.npy")
    ]
    monkeypatch.setattr(preparation, "_prepare", None)
    assert same(opened(folder).sorted_events(), first)
    assert len(opened(folder)) == 500  # what is kept is no part of the log


def test_a_log_that_changed_is_prepared_again(folder: Path) -> None:
    opened(folder).sorted_events()
    pq.write_table(table_of(7, seed=3), folder / "c.parquet")
    assert len(opened(folder).sorted_events()) == 507


def test_a_path_from_the_working_folder_names_the_same_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(folder).sorted_events()
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr(preparation, "_prepare", None)
    assert same(opened(Path(folder.name)).sorted_events(), first)


def test_other_roles_are_another_preparation(folder: Path) -> None:
    timed, untimed = opened(folder).sorted_events(), opened(folder, time=None).sorted_events()
    assert timed.times is not None
    assert untimed.times is None
    assert np.array_equal(timed.offsets, untimed.offsets)
    assert all((np.diff(untimed.rows[begin:end]) > 0).all() for begin, end in zip(*ends(untimed), strict=True))


def ends(events: SortedEvents) -> tuple[list[int], list[int]]:
    return events.offsets[:-1].tolist(), events.offsets[1:].tolist()


def test_pieces_hold_whole_queries_and_all_events(folder: Path) -> None:
    events = opened(folder).sorted_events()
    pieces = list(events.pieces(60))
    assert [piece.events.start for piece in pieces[1:]] == [piece.events.stop for piece in pieces[:-1]]
    assert (pieces[0].events.start, pieces[-1].events.stop) == (0, 500)
    assert len(pieces) > 5
    numbers = np.concatenate([events.query_numbers(piece) for piece in pieces])
    assert np.array_equal(np.bincount(numbers, minlength=40), np.diff(events.offsets))


@pytest.mark.parametrize("damage", ["times.npy", "prepared.json"])
def test_what_is_not_whole_is_prepared_again(folder: Path, damage: str) -> None:
    first = opened(folder).sorted_events()
    (path,) = (folder / "_twotower").glob(f"*/{damage}")
    left = path.read_bytes()[:-9]
    path.unlink()  # what is mapped from it stays as it was
    path.write_bytes(left)
    assert same(opened(folder).sorted_events(), first)


def test_what_was_encoded_when_it_was_killed_is_not_encoded_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "EVENTS_PER_FILE", 90)
    encoded = preparation._Preparation.encoded
    groups: list[int] = []

    def counted(self: Any, group: Any) -> Any:
        if len(groups) == 3:
            raise KeyboardInterrupt
        groups.append(group.first_row)
        return encoded(self, group)

    with monkeypatch.context() as patch:
        patch.setattr(preparation._Preparation, "encoded", counted)
        with pytest.raises(KeyboardInterrupt):
            opened(folder).sorted_events()
    again: list[int] = []

    def seen(self: Any, group: Any) -> Any:
        again.append(group.first_row)
        return encoded(self, group)

    monkeypatch.setattr(preparation._Preparation, "encoded", seen)
    assert same(opened(folder).sorted_events(), from_tables(folder, **ROLES).sorted_events())
    assert not set(again) & set(groups[:2])
    assert not list((folder / "_twotower").glob("*.partial"))


SLOWLY = """
import sys, time
from twotower.data import preparation, stream_parquet

encoded = preparation._Preparation.encoded
preparation.EVENTS_PER_FILE = 90

def slowly(self, group):
    print("encoded", group.first_row, flush=True)
    time.sleep(0.2)
    return encoded(self, group)

preparation._Preparation.encoded = slowly
stream_parquet(sys.argv[1], query_id="who", candidate_id="what", time="at", buffer=128).sorted_events()
"""


@pytest.mark.slow
def test_a_killed_preparation_resumes(folder: Path, tmp_path: Path) -> None:
    process = start_python("-c", SLOWLY, folder, folder=tmp_path)
    process.wait_for("encoded", times=3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    left = [path.name for path in (folder / "_twotower").glob("*.partial/encoded-*.bin")]
    assert "encoded-0-90.bin" in left
    began = time.perf_counter()
    assert same(opened(folder).sorted_events(), from_tables(folder, **ROLES).sorted_events())
    assert time.perf_counter() - began < 60


def test_a_folder_that_cannot_be_written_is_made_up_for_by_that_of_the_data_sets(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWOTOWER_DATA_HOME", str(tmp_path / "home"))
    (folder / "_twotower").write_text("a file, in which nothing can be made")
    opened(folder).sorted_events()
    assert len(list((tmp_path / "home" / "prepared").glob("*/prepared.json"))) == 1
    monkeypatch.setattr(preparation, "_prepare", None)
    opened(folder).sorted_events()


def test_where_no_folder_can_be_written_the_error_says_which(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("TWOTOWER_DATA_HOME", str(tmp_path / "home"))
    (folder / "_twotower").write_text("another")
    said = r"neither .*_twotower \(File exists\) nor .*prepared \(Not a directory\) is writable.*TWOTOWER_DATA_HOME"
    with pytest.raises(ConfigError, match=said):
        opened(folder).sorted_events()


def test_what_the_sorting_library_cannot_do_is_an_error_of_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SORT_MEMORY", "no memory")
    with pytest.raises(ConfigError, match=r"events cannot be sorted in .*_twotower"):
        opened(folder).sorted_events()


def test_a_failed_read_while_sorting_is_told_without_a_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> Iterator[pa.RecordBatch]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        yield

    monkeypatch.setattr(preparation, "_batches", refused)
    with pytest.raises(ConfigError, match=r"events cannot be sorted in .*: \[Errno 24\] Too many open files") as raised:
        opened(folder).sorted_events()
    assert "Traceback" not in str(raised.value)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
@pytest.mark.parametrize("written", ["columns", "offsets"])
def test_a_write_that_the_system_refuses_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sort, batches = preparation._sort, preparation._sorted_batches

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))

    def sort_limited(*given: Any) -> None:
        limit()
        sort(*given)

    def batches_then_limit(*given: Any) -> Iterator[pa.RecordBatch]:
        yield from batches(*given)
        limit()

    if written == "columns":
        monkeypatch.setattr(preparation, "_sort", sort_limited)
    else:
        monkeypatch.setattr(preparation, "_sorted_batches", batches_then_limit)
    try:
        with pytest.raises(ConfigError, match=r"cannot be prepared .*: \[Errno 27\] File too large"):
            opened(folder).sorted_events()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    monkeypatch.undo()
    assert len(opened(folder).sorted_events().rows) == 500


def test_files_that_changed_meanwhile_are_refused(folder: Path) -> None:
    log = opened(folder)
    pq.write_table(table_of(3, seed=3), folder / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet, row group 0 .* has 3 rows: it is damaged, or has changed"):
        log.sorted_events()
    (folder / "b.parquet").unlink()
    with pytest.raises(DataError, match="have changed since they were opened"):
        log.sorted_events()


def test_without_duckdb_the_error_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'twotower\[large\]'"):
        opened(folder).sorted_events()


def test_a_log_with_chosen_asks_for_duckdb_before_it_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'twotower\[large\]'"):
        stream_parquet(tmp_path / "none.parquet", query_id="who", candidate_id="what", chosen="bought", request="visit")
