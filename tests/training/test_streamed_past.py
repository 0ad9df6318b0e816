"""Features of a query's past on a streamed log: the same as in memory, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from twotower.data import Dataset, ParquetLog, from_tables, stream_parquet
from twotower.errors import ConfigError
from twotower.features import Activity, Category, Elapsed, Feature, History
from twotower.features.base import RecordKey
from twotower.features.record import Record, first_place
from twotower.model import Tower, TwoTower, load_model, save_model
from twotower.model.saving import model_version
from twotower.training import AdamW, Trainer

pytest.importorskip("duckdb")

ROLES: dict[str, Any] = {"query_id": "user", "candidate_id": "item", "time": "at"}
EVENTS, USERS, ITEMS = 900, 35, 20


def table_of(seed: int = 0, events: int = EVENTS) -> pa.Table:
    """Events of which many share an instant, in no order of time."""
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            "user": [f"u{number}" for number in draw.integers(USERS, size=events)],
            "item": draw.integers(ITEMS, size=events),
            "at": draw.integers(200, size=events),
        }
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    pq.write_table(table_of(), path, row_group_size=130)
    return path


# The query table is in no order of ids, and has queries without events, as the candidate table has.
QUERIES = pa.table({"user": [f"u{number}" for number in np.random.default_rng(1).permutation(USERS + 3)]})
CANDIDATES = pa.table({"item": np.random.default_rng(2).permutation(ITEMS + 2)})


@pytest.fixture(scope="module")
def whole(path: Path) -> Dataset:
    return from_tables(path, **ROLES, queries=QUERIES, candidates=CANDIDATES)


@pytest.fixture(scope="module")
def log(path: Path) -> ParquetLog:
    return stream_parquet(path, **ROLES, queries=QUERIES, candidates=CANDIDATES, buffer=400)


def past(reach: str, shared: bool = False) -> list[Feature]:
    sinces = ("first", "previous") if reach == "before" else ("first", "previous", "next", "last")
    counts = ("before",) if reach == "before" else ("before", "after", "instant", "all")
    return [
        *(Elapsed("at", by="user", since=since, dim=4) for since in sinces),  # type: ignore[arg-type]
        *(Activity("at", by="user", events=events, dim=4) for events in counts),  # type: ignore[arg-type]
        History("item", by="user", time="at", length=5, dim=8, reach=reach, shared=shared),  # type: ignore[arg-type]
    ]


def model_of(reach: str = "before", shared: bool = False) -> TwoTower:
    query = Tower([Category("user", 8), *past(reach, shared)], [8])
    return TwoTower(query, Tower([Category("item", 8)], [8]))


@pytest.mark.parametrize("reach", ["before", "around"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_model_learns_and_trains_the_same_to_the_bit(
    reach: str, shared: bool, log: ParquetLog, whole: Dataset
) -> None:
    streamed, in_memory = model_of(reach, shared).learn(log, seed=3), model_of(reach, shared).learn(whole, seed=3)
    assert model_version(streamed) == model_version(in_memory)
    trainer = Trainer(epochs=1, batch_size=64, optimizer=AdamW(0.02))
    trainer.fit(streamed, log)
    trainer.fit(in_memory, log)  # in the same order, with what it learned in memory
    assert model_version(streamed) == model_version(in_memory)
    assert torch.equal(streamed.embed_queries(whole), in_memory.embed_queries(whole))


def test_times_alone_need_no_items(log: ParquetLog, whole: Dataset) -> None:
    def model() -> TwoTower:
        return TwoTower(Tower([Activity("at", by="user"), Elapsed("at", by="user")]), Tower([Category("item", 34)]))

    assert model_version(model().learn(log)) == model_version(model().learn(whole))


def test_a_trained_model_saves_its_record(log: ParquetLog, whole: Dataset, tmp_path: Path) -> None:
    model = model_of().learn(log)
    save_model(model, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model").embed_queries(whole), model.embed_queries(whole))


def test_a_model_remembers_a_streamed_log(log: ParquetLog, whole: Dataset, tmp_path: Path) -> None:
    later = pa.concat_tables([table_of(), table_of(5, events=100)])
    pq.write_table(later, tmp_path / "later.parquet")
    streamed, in_memory = model_of().learn(whole), model_of().learn(whole)
    sides: dict[str, Any] = {"queries": QUERIES, "candidates": CANDIDATES}
    streamed.remember(stream_parquet(tmp_path / "later.parquet", **ROLES, **sides))
    in_memory.remember(from_tables(later, **ROLES, **sides))
    assert model_version(streamed) == model_version(in_memory)


@pytest.mark.parametrize("key", [RecordKey("item", "at"), RecordKey("user", "when"), RecordKey("user", "at", "place")])
def test_other_columns_than_the_logs_ids_and_time_are_refused(key: RecordKey, log: ParquetLog) -> None:
    with pytest.raises(ConfigError, match=r"'data' is streamed.*expected by='user', time 'at' and item 'item'"):
        Record.of_log(log, key)


def test_ranges_are_searched_as_numpy_does() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(0, 9, size=300)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = np.concatenate([np.sort(draw.integers(0, 6, size=length)) for length in lengths])
    wanted = draw.integers(-1, 8, size=300)
    for side in ("left", "right"):
        expected = [
            begin + np.searchsorted(values[begin:end], value, side)
            for begin, end, value in zip(offsets, offsets[1:], wanted, strict=False)
        ]
        for count in (300, 20):  # all at once, and one by one
            found = first_place(values, offsets[:count], offsets[1 : count + 1], wanted[:count], side)
            assert found.tolist() == expected[:count]
