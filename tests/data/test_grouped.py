"""`GroupedEvents` reads every event once an epoch, and the events of a group together."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data import Dataset, ParquetLog, stream_parquet
from twotower.data.dataset import IntArray
from twotower.data.grouped import GroupedEvents, Grouping
from twotower.errors import ConfigError, DataError


def table_of(events: int, requests: int, seed: int = 0, without: float = 0.1) -> pa.Table:
    """Events numbered in column `n`, some of them without a request."""
    draw = np.random.default_rng(seed)
    request = draw.integers(requests, size=events)
    return pa.table(
        {
            "user": draw.integers(max(1, requests // 2), size=events),
            "item": draw.integers(9, size=events),
            "request": pa.array([f"r{one}" for one in request], mask=draw.random(events) < without),
            "n": np.arange(events),
        }
    )


def opened(table: pa.Table, folder: Path, buffer: int = 160) -> ParquetLog:
    path = folder / "log.parquet"
    pq.write_table(table, path, row_group_size=50)
    return stream_parquet(path, query_id="user", candidate_id="item", buffer=buffer)


def numbers_of(events: Dataset) -> IntArray:
    return np.asarray(events.interactions["n"].to_numpy())


@settings(max_examples=30)
@given(
    st.integers(1, 700),
    st.integers(1, 60),
    st.integers(1, 40),
    st.integers(0, 5),
    st.sampled_from([Grouping("request"), Grouping(None)]),
)
def test_each_event_comes_once_and_with_its_whole_group(
    events: int, requests: int, batch_size: int, seed: int, grouping: Grouping
) -> None:
    table = table_of(events, requests, seed)
    with tempfile.TemporaryDirectory() as folder:
        grouped = GroupedEvents(opened(table, Path(folder)), grouping, batch_size, ["n", "request"])
        parts = list(grouped.epoch(seed, 1))
    assert sorted(np.concatenate([numbers_of(part)[order] for part, order in parts])) == list(range(events))
    assert all(len(order) % batch_size == 0 for _, order in parts[:-1])
    keys = table[grouping.column or "user"].to_pylist()
    members: dict[object, list[int]] = {}
    for number, key in enumerate(keys):
        members.setdefault(key, []).append(number)
    order_of: dict[object, list[int]] = {}
    for part, order in parts:
        numbers = numbers_of(part)
        assert len(set(numbers)) == len(numbers)
        assert part.interactions["request"].to_pylist() == [table["request"][int(n)].as_py() for n in numbers]
        assert part.candidate_index.tolist() == candidate_rows(part, table, numbers)
        for key in {keys[number] for number in numbers[order]} - {None}:
            own = [int(number) for number in numbers if keys[number] == key]
            assert sorted(own) == members[key]
            assert order_of.setdefault(key, own) == own  # in every part in the same order


def candidate_rows(part: Dataset, table: pa.Table, numbers: IntArray) -> list[int]:
    rows = {one: row for row, one in enumerate(part.candidates["item"].to_pylist())}
    return [rows[table["item"][int(number)].as_py()] for number in numbers]


def test_numbers_tell_groups_apart() -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = opened(table_of(300, 40), Path(folder))
        part, _ = next(GroupedEvents(log, Grouping("request"), 10, ["n"]).epoch(0, 1))
    numbers, requests = Grouping("request").numbers(part), part.interactions["request"].to_pylist()
    assert [number < 0 for number in numbers] == [request is None for request in requests]
    named = {(number, request) for number, request in zip(numbers, requests, strict=True) if request is not None}
    assert len(named) == len({number for number, _ in named}) == len({request for _, request in named})


def test_the_order_is_that_of_seed_and_epoch(tmp_path: Path) -> None:
    log = opened(table_of(500, 60), tmp_path)

    def order(seed: int, epoch: int) -> list[int]:
        made = GroupedEvents(log, Grouping("request"), 16, ["n"])
        return [int(n) for part, order in made.epoch(seed, epoch) for n in numbers_of(part)[order]]

    first = order(3, 1)
    assert order(3, 1) == first
    assert Counter(order(3, 2)) == Counter(first)
    assert order(3, 2) != first
    assert order(4, 1) != first


def test_parts_are_about_as_large_as_those_without_groups(tmp_path: Path) -> None:
    log = opened(table_of(6000, 1200), tmp_path, buffer=600)
    without = max(len(part) for part in log.shuffled(0, 1, 32))
    grouped = GroupedEvents(log, Grouping("request"), 32, ["n"])
    sizes = [len(part) for part, _ in grouped.epoch(0, 1)]
    assert max(sizes) < 2 * without
    assert len(sizes) > 10


def test_a_column_of_lists_groups_nothing(tmp_path: Path) -> None:
    table = table_of(60, 5)
    log = opened(table.append_column("tags", pa.array([["a"]] * 60)), tmp_path)
    with pytest.raises(DataError, match=r"column 'tags' is list<.*>; expected single values to group events by"):
        GroupedEvents(log, Grouping("tags"), 10)


def test_a_full_disk_is_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    log = opened(table_of(100, 10), tmp_path)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(ConfigError, match=r"no room for the grouped events: .*No space left"):
        GroupedEvents(log, Grouping(None), 10)
