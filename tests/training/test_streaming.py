from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from interrupting import InterruptAfter
from toy import groups_log, toy_model
from twotower.data import Dataset, ParquetLog, stream_parquet
from twotower.data.log import event_columns
from twotower.errors import ConfigError, DataError, SavedFolderError
from twotower.evaluation import Validation, evaluate
from twotower.evaluation.beside import measure_baselines
from twotower.features import Category, Cyclic, Normalized
from twotower.model import FullSoftmax, InBatchSoftmax, Tower, TwoTower, learning
from twotower.training import AdamW, Callback, Cosine, EarlyStopping, Trainer, TrainingState
from twotower.training import checkpoint as checkpoint_module
from twotower.training.prefetch import one_ahead

FAST = AdamW(0.02)
COLUMNS: dict[str, Any] = {"query_id": "user", "candidate_id": "item", "time": "at"}


def events_table(data: Dataset) -> pa.Table:
    return pa.table({"user": data.query_index, "item": data.candidate_index, "at": data.times.astype(np.int64)})


@pytest.fixture(scope="module")
def whole() -> Dataset:
    return groups_log()


@pytest.fixture(scope="module")
def path(whole: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    pq.write_table(events_table(whole), path, row_group_size=150)
    return path


def opened(path: Path, whole: Dataset, buffer: int = 1000, **options: Any) -> ParquetLog:
    return stream_parquet(path, **COLUMNS, queries=whole.queries, candidates=whole.candidates, buffer=buffer, **options)


@pytest.fixture(scope="module")
def log(path: Path, whole: Dataset) -> ParquetLog:
    return opened(path, whole)


@pytest.fixture(scope="module")
def measured(log: ParquetLog) -> Dataset:
    return log.part(events_table(groups_log(400, seed=5)))


def same(first: TwoTower, second: TwoTower) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_learns_the_same_from_a_log_as_from_the_events_in_memory(log: ParquetLog, whole: Dataset) -> None:
    streamed, in_memory = toy_model().learn(log, seed=3), toy_model().learn(whole, seed=3)
    assert same(streamed, in_memory)
    for tower in ("query", "candidate"):
        pairs = zip(getattr(streamed, tower).features, getattr(in_memory, tower).features, strict=True)
        assert all(one.learned().equals(other.learned()) for one, other in pairs)
    assert torch.equal(streamed.embed_queries(whole), in_memory.embed_queries(whole))


def test_of_a_large_log_event_columns_are_learned_from_a_sample(
    log: ParquetLog, whole: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "SAMPLE", 500)
    times = Normalized("at")
    model = TwoTower(Tower([Category("user", 4), times], [4]), Tower([Category("item", 4)])).learn(log)
    mean, deviation = (times.learned()[name][0].as_py() for name in ("mean", "deviation"))
    assert mean == pytest.approx(whole.times.mean(), abs=5 * whole.times.std() / 500**0.5)
    assert deviation == pytest.approx(whole.times.std(), rel=0.15)
    assert model.query.features[0].learned().num_rows == 40  # type: ignore[operator]


def test_training_on_a_stream_learns_what_popularity_cannot_know(log: ParquetLog, measured: Dataset) -> None:
    model = toy_model()
    history = Trainer(epochs=12, batch_size=128, optimizer=FAST).fit(model, log)
    found = evaluate(model, measured, exclude=log)
    assert found.model.all["top_10"] > found.rows["popularity"].all["top_10"] + 0.3
    assert list(found.rows) == ["model", "popularity"]
    assert "this one is streamed" in found.notes[-1]
    assert all(0 < epoch.waiting_seconds < epoch.seconds for epoch in history.epochs)


def test_what_is_measured_beside_a_log_is_what_would_be_beside_a_data_set(
    log: ParquetLog, whole: Dataset, measured: Dataset
) -> None:
    model = toy_model().learn(whole)
    streamed, in_memory = evaluate(model, measured, log), evaluate(model, measured, whole)
    assert streamed.rows["model"] == in_memory.rows["model"]
    assert streamed.rows["popularity"] == in_memory.rows["popularity"]


def test_the_oracle_is_measured_beside_a_log_too(log: ParquetLog, whole: Dataset, measured: Dataset) -> None:
    """It learns nothing, so that no log has to be in memory."""

    class Truth:
        def log_probabilities(self, query_index: np.ndarray, times: np.ndarray) -> np.ndarray:
            found: np.ndarray = np.add.outer(query_index, np.arange(whole.candidates.num_rows)).astype(np.float32)
            return found

    streamed, notes = measure_baselines(measured, log, baselines=["oracle", "ease"])
    assert (list(streamed), notes) == (
        [],
        [
            "EASE is not in the table: it learns from a log in memory, but this one is streamed",
            "oracle is not in the table: only simulated data has one",
        ],
    )
    known = replace(measured, oracle=Truth())
    (found, said), (same, _) = (measure_baselines(known, train, baselines=["oracle"]) for train in (log, whole))
    assert said == []
    assert found["oracle"].scores == same["oracle"].scores


def test_steps_and_the_loss_are_those_of_all_events(log: ParquetLog, whole: Dataset) -> None:
    class Steps(Callback):
        sizes: list[int]

        def on_step(self, state: TrainingState) -> None:
            self.sizes.append(state.step)

    trainer = Trainer(epochs=1, batch_size=128, optimizer=AdamW(1e-12, weight_decay=0.0), loss=FullSoftmax())
    losses = []
    for train in (log, whole):
        steps = Steps()
        steps.sizes = []
        losses.append(trainer.fit(toy_model().learn(whole, seed=1), train, callbacks=[steps]).epochs[0].loss)
        assert steps.sizes == list(range(1, 17))  # 2000 events: 15 whole batches and a short one
    # a share of the ids is dropped at random
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_weights_count_in_a_stream_too(whole: Dataset, tmp_path: Path) -> None:
    table = events_table(whole)
    own = whole.query_index % 5 == whole.candidate_index % 5
    pq.write_table(table.append_column("n", pa.array(np.where(own, 0.0, 1.0))), tmp_path / "log.parquet")
    log = opened(tmp_path / "log.parquet", whole, weight="n")
    model = toy_model()
    Trainer(epochs=10, batch_size=128, optimizer=FAST).fit(model, log)
    found = evaluate(model, log.part(table.append_column("n", pa.array(np.ones(len(table))))), exclude=log)
    assert found.model.all["top_5"] < 0.2  # only the tenth that are out of the query's own group counted


def test_a_resumed_training_on_a_stream_equals_an_uninterrupted_one(
    path: Path, whole: Dataset, measured: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    trainer = Trainer(
        epochs=4,
        batch_size=128,
        optimizer=FAST,
        schedule=Cosine(),
        early_stopping=EarlyStopping(),
        monitor="all.mrr",
        loss=InBatchSoftmax(uniform=20),
    )
    one, other = toy_model(dropout=0.1), toy_model(dropout=0.1)
    expected = trainer.fit(one, opened(path, whole), measured)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(
            toy_model(dropout=0.1),
            opened(path, whole),
            measured,
            checkpoint=tmp_path / "run",
            callbacks=[InterruptAfter(2)],
        )
    with pytest.raises(SavedFolderError, match="from another training"):  # another buffer gives another order
        trainer.fit(toy_model(dropout=0.1), opened(path, whole, 700), measured, checkpoint=tmp_path / "run")
    history = trainer.fit(other, opened(path, whole), measured, checkpoint=tmp_path / "run")
    assert same(one, other)
    assert [(e.loss, e.validation) for e in history.epochs] == [(e.loss, e.validation) for e in expected.epochs]
    assert history.restored == history.best.epoch


def test_validation_beside_a_stream_is_that_beside_a_data_set(
    log: ParquetLog, whole: Dataset, measured: Dataset
) -> None:
    model = toy_model()
    history = Trainer(epochs=1, batch_size=128).fit(model, log, measured)
    assert history.epochs[0].validation == Validation(model, measured, whole).measure(model)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("twotower")}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_reading_thread_ends_when_training_does(error: type[BaseException], log: ParquetLog) -> None:
    class Fail(Callback):
        def on_step(self, state: TrainingState) -> None:
            assert threads()
            if state.step == 2:
                raise error

    with pytest.raises(error):
        Trainer(epochs=1, batch_size=64).fit(toy_model(), log, callbacks=[Fail()])
    assert not threads()


def test_what_cannot_be_read_in_the_middle_of_training_is_said(
    whole: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "SAMPLE", 10)
    path = tmp_path / "log.parquet"
    height = np.ones(len(whole))
    height[1234] = np.inf
    pq.write_table(events_table(whole).append_column("height", pa.array(height)), path, row_group_size=150)
    log = opened(path, whole)
    model = TwoTower(Tower([Normalized("height")], [4]), Tower([Category("item", 4)]))
    with pytest.raises(DataError, match=r"column 'height', row \d+: inf; .* in a shuffled part of the streamed log"):
        Trainer(epochs=1, batch_size=64).fit(model, log)
    path.unlink()
    with pytest.raises(DataError, match=r"log\.parquet, row group \d+ .* cannot be read"):
        Trainer(epochs=1, batch_size=64).fit(toy_model(), log)
    assert not threads()


@pytest.mark.parametrize("loss", [InBatchSoftmax(mask_known=True), FullSoftmax(mask_known=True)])
def test_masking_what_is_known_is_refused(loss: Any, log: ParquetLog) -> None:
    with pytest.raises(ConfigError, match=r"needs the whole log in memory, but .*; expected mask_known=False"):
        Trainer(epochs=1, batch_size=64, loss=loss).fit(toy_model(), log)


def test_events_to_validate_on_must_share_the_candidates(log: ParquetLog) -> None:
    with pytest.raises(DataError, match=r"make the part with its part\(…\)"):
        Trainer(epochs=1, batch_size=64).fit(toy_model(), log, groups_log(100, candidates=20))


def test_columns_that_no_feature_reads_are_not_read(whole: Dataset, tmp_path: Path) -> None:
    table = events_table(whole).append_column("note", pa.array(["long text"] * len(whole)))
    pq.write_table(table.append_column("device", pa.array(np.arange(len(whole)) % 3)), tmp_path / "log.parquet")
    log = opened(tmp_path / "log.parquet", whole)
    model = TwoTower(
        Tower([Category("device", 4), Cyclic("at"), Category("user", 4)], [4]), Tower([Category("item", 4)])
    )
    model.learn(log)
    columns = event_columns(log, model.query_encoder(of_training=True).reads)
    assert columns == ["device", "at"]
    part = next(log.shuffled(0, 1, 64, columns))
    assert set(part.interactions.column_names) == {"device", "at"}
    Trainer(epochs=1, batch_size=64).fit(model, log)


def test_one_item_is_made_ahead() -> None:
    made: list[int] = []
    going_on = threading.Event()

    def numbers() -> Generator[int]:
        for number in range(4):
            made.append(number)
            yield number
            going_on.set()

    with one_ahead(numbers()) as items:
        for number in items:
            going_on.wait(timeout=10)
            assert made[-1] <= number + 1
    assert made == [0, 1, 2, 3]
    assert not threads()
