"""Training with exposed negatives on a log that stays on disk: the guarantees of every training, as in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from interrupting import InterruptAfter
from rank_processes import on_ranks, without_errors
from shown_fixtures import ROLES, assert_same, model, shown_rows, trained, weights_of
from twotower.data import Dataset, ParquetLog, TimeSplit, from_tables, split_log, stream_parquet
from twotower.evaluation import ModelScorer, measure
from twotower.features import Category
from twotower.model import FullSoftmax, InBatchSoftmax, Tower, TwoTower
from twotower.tasks import Ranking, Retrieval, Task
from twotower.training import Adagrad, AdamW, Trainer
from twotower.training import checkpoint as checkpoint_module

pytest.importorskip("duckdb")

LOSSES: dict[str, Any] = {
    "in batch": InBatchSoftmax(exposed_negatives=3, uniform=10),
    "full": FullSoftmax(exposed_negatives=2, exposed_weight=10.0),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    rows = shown_rows(400)
    draw = np.random.default_rng(1)
    rows = rows.append_column("stars", pa.array(draw.integers(1, 6, size=rows.num_rows).astype(float)))
    pq.write_table(rows.take(pa.array(draw.permutation(rows.num_rows))), path, row_group_size=300)
    return path


@pytest.fixture(scope="module")
def log(path: Path) -> ParquetLog:
    return stream_parquet(path, **ROLES, buffer=1024)


@pytest.fixture(scope="module")
def whole(path: Path) -> Dataset:
    return from_tables(path, **ROLES)


def plain_model() -> TwoTower:
    return TwoTower(
        Tower([Category("user", 8, unknown_rate=0.0)], [8]),
        Tower([Category("item", 8, unknown_rate=0.0)]),
        temperature=0.5,
    )


@pytest.mark.parametrize("others", [[], [Ranking(target="stars", name="stars")]], ids=["alone", "with lists"])
@pytest.mark.parametrize("kind", [InBatchSoftmax, FullSoftmax])
def test_the_loss_of_all_events_in_one_step_is_that_in_memory(
    kind: Any, others: list[Task], log: ParquetLog, whole: Dataset
) -> None:
    losses = []
    for events, count in ((log, 3), (whole, 3), (log, 0)):
        tasks = (Retrieval(loss=kind(exposed_negatives=count, exposed_weight=5.0)), *others)
        one = plain_model().learn(whole, seed=3)
        history = Trainer(epochs=1, batch_size=len(log), optimizer=Adagrad(0.1), tasks=tasks).fit(one, events)
        losses.append(history.epochs[0].losses["retrieval"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] > losses[2] * 1.01


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_one_seed_gives_one_result_and_a_resumed_training_equals_an_uninterrupted_one(
    loss: Any, path: Path, log: ParquetLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    expected = trained(log, loss=loss)
    assert_same(expected, trained(stream_parquet(path, **ROLES, buffer=1024), loss=loss))
    trainer = Trainer(epochs=3, batch_size=64, optimizer=Adagrad(0.1), loss=loss)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(model(), log, checkpoint=tmp_path / "run", callbacks=[InterruptAfter(2)])
    resumed = model()
    trainer.fit(resumed, stream_parquet(path, **ROLES, buffer=1024), checkpoint=tmp_path / "run")
    assert_same(expected, weights_of(resumed))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_ranks_end_where_one_process_does(loss: Any, path: Path, log: ParquetLog, tmp_path: Path) -> None:
    expected = trained(log, loss=loss)
    (found,) = on_ranks(2, tmp_path, (trained_on_rank, path, loss))
    for weights in without_errors(found):
        for name, values in weights.items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


def trained_on_rank(path: Path, loss: Any) -> dict[str, npt.NDArray[np.float32]]:
    torch.set_num_threads(1)
    return trained(stream_parquet(path, **ROLES, buffer=1024), loss=loss)


def test_they_teach_what_a_query_does_not_choose_when_it_is_shown(tmp_path: Path) -> None:
    pq.write_table(shown_rows(2000), tmp_path / "log.parquet", row_group_size=1000)
    train, test = split_log(stream_parquet(tmp_path / "log.parquet", **ROLES), TimeSplit(0.2))
    assert isinstance(test, Dataset)
    found = []
    for count in (0, 3):
        one = model()
        loss = InBatchSoftmax(exposed_negatives=count, exposed_weight=10.0)
        Trainer(epochs=10, batch_size=64, optimizer=AdamW(0.01), loss=loss).fit(one, train)
        found.append(measure(ModelScorer(one), test, train.events_of(test)).scores)
    without, explicit = found
    assert explicit.exposed["top_1"] > 0.85
    assert explicit.exposed["top_1"] > without.exposed["top_1"]
