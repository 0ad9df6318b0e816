from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data import Dataset, ParquetLog, from_tables, split_log, stream_parquet
from twotower.data.ordered import nth_smallest
from twotower.data.splits import LastOut, RandomSplit, SplitRule, TimeSplit, choose_rule
from twotower.errors import ConfigError, DataError

pytest.importorskip("duckdb")

ROLES: dict[str, Any] = {"query_id": "who", "candidate_id": "what", "time": "at", "weight": "n"}
RULES = [RandomSplit(0.3, seed=7), TimeSplit(0.25), LastOut()]


def table_of(events: int = 700) -> pa.Table:
    draw = np.random.default_rng(events)
    return pa.table(
        {
            "who": pa.array(draw.integers(60, size=events)).cast(pa.string()),
            "what": draw.integers(30, size=events),
            "at": draw.integers(90, size=events),
            "n": draw.integers(1, 4, size=events).astype(float),
            "device": pa.array(["phone", "tablet"]).take(pa.array(draw.integers(2, size=events))),
        }
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    pq.write_table(table_of(), path, row_group_size=90)
    return path


CANDIDATES = pa.table({"what": np.random.default_rng(0).permutation(30)})


@pytest.fixture(params=[None, 20], ids=["all", "some dropped"])
def known(request: pytest.FixtureRequest) -> pa.Table:
    return CANDIDATES.slice(0, request.param)


@pytest.fixture
def whole(path: Path, known: pa.Table) -> Dataset:
    return from_tables(path, **ROLES, candidates=known, unknown_candidates="drop")


@pytest.fixture
def log(path: Path, known: pa.Table) -> ParquetLog:
    return stream_parquet(path, **ROLES, candidates=known, unknown_candidates="drop", buffer=128)


pytestmark = pytest.mark.filterwarnings("ignore:.*is not in the candidate table")


def events_of(data: Dataset) -> list[tuple[Any, ...]]:
    columns = (data.query_index, data.candidate_index, data.times, data.weights)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_streamed_log_is_cut_as_one_in_memory(rule: SplitRule, log: ParquetLog, whole: Dataset) -> None:
    found, expected = split_log(log, rule), rule(whole)
    assert isinstance(found.train, ParquetLog)
    assert events_of(found.train.read()) == events_of(expected.train)
    assert events_of(found.test) == events_of(expected.test)
    assert set(found.test.columns) == set(expected.test.columns)
    assert found.fingerprint == expected.fingerprint
    assert len(found.train) == len(expected.train)
    assert np.array_equal(found.train.candidate_counts(), expected.train.candidate_counts())
    assert np.array_equal(found.train.query_counts(), expected.train.query_counts())
    assert found.train.latest_time == expected.train.times.max()
    assert found.train.dropped == expected.train.dropped


@pytest.mark.parametrize("rule", RULES[1:], ids=str)
def test_what_is_left_is_cut_again(rule: SplitRule, log: ParquetLog, whole: Dataset) -> None:
    train, validation = split_log(split_log(log, rule).train, rule)
    expected = rule(rule(whole).train)
    assert isinstance(validation, Dataset)
    assert events_of(validation) == events_of(expected.test)
    assert events_of(train.read()) == events_of(expected.train)
    found, sorted_in_memory = train.sorted_events(), expected.train.sorted_events()
    assert np.array_equal(found.offsets, sorted_in_memory.offsets)
    assert np.array_equal(found.candidates, sorted_in_memory.candidates)


def test_a_random_part_of_what_is_left_is_as_large_as_in_memory(log: ParquetLog, whole: Dataset) -> None:
    rule = RandomSplit(0.3, seed=7)
    train, validation = split_log(split_log(log, rule).train, rule)
    expected = rule(rule(whole).train)
    assert (len(train), len(validation)) == (len(expected.train), len(expected.test))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_an_epoch_of_train_has_no_event_of_test(rule: SplitRule, log: ParquetLog) -> None:
    train, _ = split_log(log, rule)
    parts = list(train.shuffled(0, 1, 16))
    assert sum(len(part) for part in parts) == len(train)
    assert sorted(event for part in parts for event in events_of(part)) == events_of(train.read())
    sample = train.events_to_learn(50, ["device"], seed=0)
    assert set(events_of(sample)) <= set(events_of(train.read()))


def test_a_log_is_cut_once(log: ParquetLog) -> None:
    assert split_log(log, LastOut()).train is split_log(log, LastOut()).train
    assert split_log(log, RandomSplit(0.2, seed=1)).train is not split_log(log, RandomSplit(0.2, seed=2)).train


def test_the_rule_that_suits_a_log_does_so_on_disk(log: ParquetLog, whole: Dataset, path: Path) -> None:
    assert choose_rule(log) == choose_rule(whole)
    untimed: dict[str, Any] = ROLES | {"time": None}
    assert str(choose_rule(stream_parquet(path, **untimed)).rule) == "random:0.2"


def test_what_cannot_be_cut_is_refused(log: ParquetLog, path: Path) -> None:
    class Own:
        interpolates = False

        def __call__(self, data: Dataset) -> Any: ...

        def __str__(self) -> str:
            return "my own"

    with pytest.raises(ConfigError, match="the split my own is a custom rule, but 'data' is streamed"):
        split_log(log, Own())
    with pytest.raises(DataError, match="leaves test empty"):
        split_log(log, RandomSplit(0.0001))
    untimed: dict[str, Any] = ROLES | {"time": None}
    for rule in (TimeSplit(), LastOut()):
        with pytest.raises(DataError, match="has no time column"):
            split_log(stream_parquet(path, **untimed), rule)


@settings(max_examples=60)
@given(
    values=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60), held=st.integers(1, 10), place=st.integers(0, 10**6)
)
def test_a_place_among_sorted_values_is_found_without_sorting(values: list[float], held: int, place: int) -> None:
    place %= len(values)
    assert nth_smallest(np.array(values), place, held) == sorted(values)[place]
