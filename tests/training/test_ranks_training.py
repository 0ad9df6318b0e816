"""What a `Trainer` does, it does on ranks too: validation, early stopping, checkpoints, callbacks, streamed logs."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import distributed as dist

from rank_processes import Job, on_ranks, without_errors
from toy import groups_log, log_of, toy_model
from twotower.data import split_random, stream_parquet
from twotower.errors import ConfigError, SavedFolderError
from twotower.evaluation.history import TrainingHistory
from twotower.features import Category
from twotower.model import InBatchSoftmax, Tower, TwoTower
from twotower.ranks import ranks_of_process
from twotower.tasks import Ranking, Rating, Task
from twotower.training import Adagrad, AdamW, Callback, EarlyStopping, Trainer, TrainingState, exchange
from twotower.training import checkpoint as checkpoint_module

TRAIN, VALIDATION = split_random(groups_log(600))
TRAINER = Trainer(
    epochs=40, batch_size=64, optimizer=AdamW(0.05), early_stopping=EarlyStopping(patience=2), monitor="all.mrr"
)
SHORT = Trainer(epochs=4, batch_size=64, optimizer=Adagrad(0.1), loss=InBatchSoftmax(uniform=10), monitor="all.mrr")

STREAMED: dict[str, Task] = {"single events": Rating(target="at"), "lists": Ranking(target="at", sampled=3)}
"""Tasks that are trained on a streamed log."""


class Count(Callback):
    """Counts the steps that it hears of."""

    steps = 0

    def on_step(self, state: TrainingState) -> None:
        self.steps += 1


def numbers_of(model: TwoTower) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def stopped_early() -> tuple[TrainingHistory, dict[str, Any], int]:
    model, count = toy_model(dropout=0.2), Count()
    history = TRAINER.fit(model, TRAIN, VALIDATION, callbacks=[count])
    return history, numbers_of(model), count.steps


def test_all_ranks_stop_at_the_epoch_at_which_one_process_would(tmp_path: Path) -> None:
    expected, _, steps = stopped_early()
    found = without_errors(on_ranks(3, tmp_path, (stopped_early,))[0])
    for history, weights, counted in found:
        assert len(history.epochs) == len(expected.epochs) < 40
        assert history.restored == expected.restored
        assert history.epochs == found[0][0].epochs
        assert same(weights, found[0][1])
        assert counted in (0, steps)
    assert [one[2] > 0 for one in found] == [True, False, False]  # callbacks are the first rank's
    for one, other in zip(found[0][0].validated, expected.validated, strict=True):
        assert one[1].all == pytest.approx(other[1].all, rel=1e-3)
        assert one[1].unseen == pytest.approx(other[1].unseen, rel=1e-3)


def saved_after(folder: Path, epochs: int | None) -> dict[str, Any]:
    """Trains so many epochs, keeping a checkpoint after each."""
    checkpoint_module.EVERY_SECONDS = 0.0
    model = toy_model(dropout=0.2)
    SHORT.fit(model, TRAIN, VALIDATION, checkpoint=folder, stop_after=epochs)
    return numbers_of(model)


def killed(folder: Path, victim: int) -> None:
    """Trains until one of the ranks is killed in the middle of the third epoch."""
    checkpoint_module.EVERY_SECONDS = 0.0
    process = ranks_of_process().gather_messages(os.getpid())[victim]

    class Kill(Callback):
        def on_step(self, state: TrainingState) -> None:
            if len(state.history.epochs) == 2 and state.step == 3:
                os.kill(process, signal.SIGKILL)

    SHORT.fit(toy_model(dropout=0.2), TRAIN, VALIDATION, checkpoint=folder, callbacks=[Kill()])


def by_halves(folder: Path) -> dict[str, Any]:
    """Trains a part of the epochs, and then resumes."""
    saved_after(folder / "run", 2)
    if not dist.is_initialized() or dist.get_rank() == 0:
        shutil.copytree(folder / "run", folder / "half")
    return saved_after(folder / "run", None)


def of_another_training(folder: Path) -> None:
    Trainer(epochs=3, batch_size=64).fit(toy_model(), TRAIN, checkpoint=folder)


def differing(what: str) -> None:
    train, trainer, model = TRAIN, SHORT, toy_model()
    if dist.get_rank() == 1:
        if what == "data":
            train = TRAIN.take(np.arange(len(TRAIN) - 1))
        elif what == "settings":
            trainer = Trainer(epochs=5, batch_size=64)
        elif what == "model":
            model = toy_model((16,))
    with pytest.MonkeyPatch.context() as patch:
        if what == "twotower" and dist.get_rank() == 1:
            patch.setattr(exchange, "VERSION", "0.0.1")
        trainer.fit(model, train)


def normalised() -> None:
    towers = Tower([Category("user", 8)], [8, 8], norm="batch"), Tower([Category("item", 8)], [8])
    SHORT.fit(TwoTower(*towers), TRAIN)


class OwnDraws(Category):
    """A feature of a user's own that draws by itself."""

    kind = "draws"

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        return super().forward(encoded) + torch.rand(len(encoded), 1)


def drawing() -> None:
    Trainer(epochs=1, batch_size=101).fit(TwoTower(Tower([OwnDraws("user", 8)]), Tower([Category("item", 8)])), TRAIN)


def streamed(path: Path, task: Task) -> tuple[list[float], dict[str, Any]]:
    whole = groups_log(600)
    log = stream_parquet(
        path,
        query_id="user",
        candidate_id="item",
        time="at",
        queries=whole.queries,
        candidates=whole.candidates,
        buffer=200,
    )
    model = toy_model(dropout=0.2)
    trainer = Trainer(epochs=2, batch_size=64, optimizer=Adagrad(0.1, tables="lazy"), tasks=(task,))
    history = trainer.fit(model, log)
    return [epoch.loss for epoch in history.epochs], numbers_of(model)


def fitted_before() -> dict[str, Any]:
    """Each rank has trained a model of its own before: what the first one has counts."""
    log = log_of([(0, 1), (1, 0), (2, 2), (0, 0)] * 8, 3, 3)
    model = toy_model().learn(log, seed=dist.get_rank())
    Trainer(epochs=1, batch_size=8).fit(model, log)
    return numbers_of(model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log, and a checkpoint of one process."""
    folder = tmp_path_factory.mktemp("ranks")
    whole = groups_log(600)
    events = {"user": whole.query_index, "item": whole.candidate_index, "at": whole.times.astype(np.int64)}
    pq.write_table(pa.table(events), folder / "log.parquet", row_group_size=90)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
        saved_after(folder / "alone", 1)
    (folder / "halves").mkdir()
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> dict[str, list[Any]]:
    """What each job gave on both ranks."""
    jobs: dict[str, Job] = {
        "whole": (saved_after, folder / "whole", None),
        "halves": (by_halves, folder / "halves"),
        "resumed": (saved_after, folder / "alone", None),
        "another": (of_another_training, folder / "whole"),
        "data": (differing, "data"),
        "settings": (differing, "settings"),
        "model": (differing, "model"),
        "twotower": (differing, "twotower"),
        "normalised": (normalised,),
        "drawing": (drawing,),
        **{name: (streamed, folder / "log.parquet", task) for name, task in STREAMED.items()},
        "fitted": (fitted_before,),
    }
    return dict(zip(jobs, on_ranks(2, folder, *jobs.values()), strict=True))


def test_a_checkpoint_resumes_to_the_same_bits(ranks: dict[str, list[Any]]) -> None:
    whole = without_errors(ranks["whole"])
    assert same(*whole)
    assert all(same(one, whole[0]) for one in without_errors(ranks["halves"]))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_killed_in_the_middle_costs_no_bit(victim: int, ranks: dict[str, list[Any]], tmp_path: Path) -> None:
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
    (left,) = on_ranks(2, tmp_path / "first", (killed, tmp_path / "run", victim))
    assert isinstance(left[victim], ProcessLookupError)
    assert "has lost contact with the other ranks" in str(left[1 - victim])
    assert (tmp_path / "run" / "state.json").exists()
    (found,) = on_ranks(2, tmp_path / "second", (saved_after, tmp_path / "run", None))
    assert all(same(one, ranks["whole"][0]) for one in without_errors(found))


def test_a_checkpoint_resumes_with_any_number_of_ranks(
    ranks: dict[str, list[Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    (whole, _), (resumed, _) = without_errors(ranks["whole"]), without_errors(ranks["resumed"])
    by_one = saved_after(folder / "halves" / "half", None)
    for name, weights in whole.items():
        for found in (by_one, resumed):
            np.testing.assert_allclose(found[name], weights, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("what", ["data", "settings", "model", "twotower"])
def test_ranks_that_differ_are_refused(what: str, ranks: dict[str, list[Any]]) -> None:
    for one in ranks[what]:
        assert isinstance(one, ConfigError)
        assert "rank 1 and rank 0 differ in" in str(one)
        assert what in str(one)


@pytest.mark.parametrize(
    ("job", "kind", "said"),
    [
        ("another", SavedFolderError, "from another training"),
        ("normalised", ConfigError, "norm='layer'"),
        ("drawing", ConfigError, r"randomness\.uniform"),
    ],
)
def test_what_cannot_be_trained_is_refused_on_every_rank(
    job: str, kind: type[Exception], said: str, ranks: dict[str, list[Any]]
) -> None:
    for one in ranks[job]:
        with pytest.raises(kind, match=said):
            raise one


@pytest.mark.parametrize("name", STREAMED)
def test_a_streamed_log_gives_what_it_gives_one_process(name: str, ranks: dict[str, list[Any]], folder: Path) -> None:
    losses, weights = streamed(folder / "log.parquet", STREAMED[name])
    for own, theirs in without_errors(ranks[name]):
        assert own == pytest.approx(losses, rel=1e-5)
        for one in weights:
            np.testing.assert_allclose(theirs[one], weights[one], rtol=1e-4, atol=1e-5, err_msg=one)


def test_ranks_begin_with_the_weights_of_the_first(ranks: dict[str, list[Any]]) -> None:
    assert same(*without_errors(ranks["fitted"]))
