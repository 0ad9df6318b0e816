"""What every `Log` does, in memory or on disk, over the same events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.data import Dataset, Log, Seen, from_tables, stream_parquet
from twotower.data.given import given_parts
from twotower.data.log import event_columns, require_in_memory
from twotower.errors import ConfigError, DataError

EVENTS = 600

Event = tuple[int, int, float, float]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events in row groups, sorted by time; queries and candidates are numbered from 100."""
    draw = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    table = pa.table(
        {
            "who": 100 + draw.integers(40, size=EVENTS),
            "what": 100 + draw.integers(25, size=EVENTS),
            "at": np.arange(EVENTS),
            "n": draw.integers(0, 3, size=EVENTS).astype(float),
            "device": pa.array(["phone", "tablet"]).take(pa.array(draw.integers(2, size=EVENTS))),
        }
    )
    pq.write_table(table, path, row_group_size=70)
    return path


def in_memory(path: Path) -> Dataset:
    return from_tables(path, query_id="who", candidate_id="what", time="at", weight="n")


def on_disk(path: Path) -> Log:
    return stream_parquet(path, query_id="who", candidate_id="what", time="at", weight="n", buffer=128)


def part_in_memory(log: Dataset, table: pa.Table) -> tuple[Log, Dataset]:
    train, parts = given_parts(log, {"test": table}, own_queries=True, unknown_candidates="refuse", delimiter=None)
    return train, parts["test"]


@pytest.fixture(params=[in_memory, on_disk], ids=["Dataset", "ParquetLog"])
def log(request: pytest.FixtureRequest, path: Path) -> Log:
    opened: Callable[[Path], Log] = request.param
    return opened(path)


@pytest.fixture(scope="module")
def events(path: Path) -> list[Event]:
    """All events, from the file itself: rows of query and candidate, time, weight."""
    rows = pq.read_table(path).to_pylist()
    queries, candidates = (sorted({row[name] for row in rows}) for name in ("who", "what"))
    return [(queries.index(row["who"]), candidates.index(row["what"]), row["at"], row["n"]) for row in rows]


def events_in(*parts: Dataset) -> list[Event]:
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


def test_it_is_a_log(log: Log) -> None:
    assert isinstance(log, Log)
    assert (log.query_id, log.candidate_id, log.time, log.weight) == ("who", "what", "at", "n")
    assert log.columns == ["who", "what", "at", "n", "device"]
    assert log.dropped == 0


def test_it_counts_its_events(log: Log, events: list[Event]) -> None:
    assert len(log) == EVENTS
    queries, candidates = (Counter(event[side] for event in events) for side in (0, 1))
    assert log.query_counts().tolist() == [queries[row] for row in range(log.queries.num_rows)]
    assert log.candidate_counts().tolist() == [candidates[row] for row in range(log.candidates.num_rows)]
    weights = [sum(event[3] for event in events if event[1] == row) for row in range(log.candidates.num_rows)]
    assert log.candidate_weights().tolist() == weights  # whole numbers: no rounding


def test_a_column_of_the_candidates_is_one_row_a_candidate(log: Log) -> None:
    assert log.candidate_column("what").equals(log.candidates["what"])
    with pytest.raises(DataError, match="column 'price' is not in the candidate table"):
        log.candidate_column("price")


def test_it_reads_its_events_in_order(log: Log, events: list[Event]) -> None:
    assert events_in(log.read()) == events
    chosen = np.arange(log.queries.num_rows) % 3 == 0
    assert events_in(log.read(chosen)) == [event for event in events if chosen[event[0]]]


def test_an_epoch_has_all_events_once_in_parts_of_whole_batches(log: Log, events: list[Event]) -> None:
    parts = list(log.shuffled(1, 1, 16, ["device"]))
    assert Counter(events_in(*parts)) == Counter(events)
    assert all(len(part) % 16 == 0 for part in parts[:-1])
    assert all("device" in part.interactions.column_names for part in parts)


def test_seed_and_epoch_determine_the_order(log: Log) -> None:
    first = events_in(*log.shuffled(3, 1, 16))
    assert events_in(*log.shuffled(3, 1, 16)) == first
    assert all(events_in(*log.shuffled(seed, epoch, 16)) != first for seed, epoch in ((3, 2), (4, 1)))


def test_features_learn_from_its_events(log: Log, events: list[Event]) -> None:
    learned = log.events_to_learn(200, ["device"], seed=1)
    assert len(learned) in (200, EVENTS) or 150 < len(learned) < 200  # a draw with repetitions
    assert set(events_in(learned)) <= set(events)
    assert "device" in learned.interactions.column_names
    assert events_in(log.events_to_learn(200, ["device"], seed=1)) == events_in(learned)


def test_event_columns_are_those_with_a_value_an_event(log: Log) -> None:
    assert event_columns(log, ["device", "who", "at", "device", "age"]) == ["device", "at"]


def test_logs_of_the_same_events_have_the_same_digits(path: Path, log: Log) -> None:
    assert log.identity()[0] == in_memory(path).identity()[0] == on_disk(path).identity()[0]


def test_what_needs_the_whole_log_says_so(log: Log) -> None:
    if (events := log.in_memory) is not None:
        assert len(events) == EVENTS
        assert require_in_memory(log, "a history", "less") is events
        return
    with pytest.raises(ConfigError, match="a history needs the whole log in memory, but 'data' is streamed; expected"):
        require_in_memory(log, "a history", "less")


def test_the_evaluation_of_a_part_knows_what_its_queries_chose(path: Path, events: list[Event]) -> None:
    table = pq.read_table(path).slice(0, 20)
    streamed = stream_parquet(path, query_id="who", candidate_id="what", time="at", weight="n", buffer=128)
    for log, part in (part_in_memory(in_memory(path), table), (streamed, streamed.part(table))):
        seen = Seen.of(log.events_of(part))
        for query in sorted(set(part.query_index.tolist())):
            chosen = seen.candidates[seen.offsets[query] : seen.offsets[query + 1]]
            assert chosen.tolist() == sorted({event[1] for event in events if event[0] == query})
        assert np.array_equal(log.events_of(part).candidate_counts(), log.candidate_counts())
