from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from toy import groups_log, toy_model
from twotower.data import Dataset, split_random
from twotower.errors import ConfigError, MissingExtraError, TwoTowerError
from twotower.training import (
    LOGGERS,
    AdamW,
    Callback,
    Epoch,
    Logger,
    MLflow,
    TensorBoard,
    Trainer,
    TrainingState,
    WandB,
)


@pytest.fixture(scope="module")
def parts() -> tuple[Dataset, Dataset]:
    train, test = split_random(groups_log(events=400))
    return train, test


TRAINER = Trainer(epochs=3, batch_size=128, validate_every=2, ks=(1, 5), monitor="all.top_5", optimizer=AdamW(0.01))


class Kept(Logger):
    """Keeps what it is told."""

    kind = "kept"

    def __init__(self, name: str = "training") -> None:
        super().__init__(name)
        self.said: list[Any] = []

    def open(self, settings: Mapping[str, Any]) -> None:
        self.said.append(settings)

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        self.said.append((epoch, dict(figures)))

    def close(self, failed: bool) -> None:
        self.said.append(failed)


def test_a_logger_is_told_the_settings_and_every_epoch(parts: tuple[Dataset, Dataset]) -> None:
    logger = Kept()
    history = TRAINER.fit(toy_model(), *parts, callbacks=[logger])
    settings, *epochs, failed = logger.said
    assert settings["training"]["optimizer"]["learning_rate"] == 0.01
    assert settings["model"]["query"]["layers"] == [8]
    json.dumps(settings)
    assert [epoch for epoch, _ in epochs] == [1, 2, 3]
    assert [figures["training/loss"] for _, figures in epochs] == [epoch.loss for epoch in history.epochs]
    assert ["all/top_5" in figures for _, figures in epochs] == [False, True, True]
    assert epochs[2][1]["all/top_5"] == history.validated[-1][1].all["top_5"]
    assert failed is False


def test_a_resumed_training_is_logged_whole(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    TRAINER.fit(toy_model(), *parts, checkpoint=tmp_path / "state", stop_after=2)
    logger = Kept()
    TRAINER.fit(toy_model(), *parts, checkpoint=tmp_path / "state", callbacks=[logger])
    assert [epoch for epoch, _ in logger.said[1:-1]] == [1, 2, 3]


class Breaks(Callback):
    def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        raise TwoTowerError("broken")


def test_a_failure_is_told(parts: tuple[Dataset, Dataset]) -> None:
    logger = Kept()
    with pytest.raises(TwoTowerError, match="broken"):
        TRAINER.fit(toy_model(), *parts, callbacks=[logger, Breaks()])
    assert logger.said[-1] is True


def test_only_logs_that_were_started_are_ended(parts: tuple[Dataset, Dataset]) -> None:
    class Refuses(Kept):
        def open(self, settings: Mapping[str, Any]) -> None:
            raise TwoTowerError("the server is away")

    first, refusing, never = Kept(), Refuses(), Kept()
    with pytest.raises(TwoTowerError, match="the server is away"):
        TRAINER.fit(toy_model(), *parts, callbacks=[first, refusing, never])
    assert (first.said[-1], refusing.said, never.said) == (True, [], [])


def test_a_missing_library_is_named_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.extras.find_spec", lambda _: None)
    for make, extra in ((lambda: TensorBoard("x"), "tensorboard"), (MLflow, "mlflow"), (WandB, "wandb")):
        with pytest.raises(MissingExtraError, match=rf"pip install 'twotower\[{extra}\]'"):
            make()


def test_a_training_has_a_name() -> None:
    with pytest.raises(ConfigError, match="expected a name for the training"):
        Kept("")


def test_tensorboard_reads_what_was_written(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = None
    for seed in (1, 2):  # the second of a name replaces the first
        logger = TensorBoard(tmp_path, name="layers: [8]/wide")
        trainer = Trainer(epochs=3 - seed + 1, batch_size=128, ks=(1, 5), monitor="all.top_5", seed=seed)
        history = trainer.fit(toy_model(), *parts, callbacks=[logger])
    assert history is not None
    events = EventAccumulator(str(tmp_path / "layers_ [8]_wide"))
    events.Reload()
    losses = events.Scalars("training/loss")
    assert [event.step for event in losses] == [1, 2]
    assert [event.value for event in losses] == pytest.approx([epoch.loss for epoch in history.epochs])
    assert events.Scalars("all/mrr")[-1].value == pytest.approx(history.validated[-1][1].all["mrr"])
    assert b'"seed": 2' in events.Tensors("settings/text_summary")[-1].tensor_proto.string_val[0]


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_keeps_runs(parts: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    history = TRAINER.fit(toy_model(), *parts, callbacks=[MLflow("tests", uri, name="one")])
    with pytest.raises(TwoTowerError):
        TRAINER.fit(toy_model(), *parts, callbacks=[MLflow("tests", uri, name="two"), Breaks()])
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("tests").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert {name: run.info.status for name, run in runs.items()} == {"one": "FINISHED", "two": "FAILED"}
    kept = client.get_metric_history(runs["one"].info.run_id, "training/loss")
    assert [(metric.step, metric.value) for metric in kept] == [(one.epoch, one.loss) for one in history.epochs]
    assert runs["one"].data.params["training.optimizer.learning_rate"] == "0.01"
    assert runs["one"].data.metrics["unseen/mrr"] == history.validated[-1][1].unseen["mrr"]


@pytest.mark.filterwarnings("ignore")  # wandb's own
def test_wandb_writes_a_run_to_be_sent_later(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    TRAINER.fit(toy_model(), *parts, callbacks=[WandB("tests", tmp_path, "offline", name="one")])
    (written,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    waited_until = time.monotonic() + 10
    while b"all/top_5" not in written.read_bytes():  # wandb's own process may still be writing
        assert time.monotonic() < waited_until
        time.sleep(0.02)
    assert b"training/loss" in written.read_bytes()


def test_users_loggers_are_found_by_their_kind() -> None:
    LOGGERS.register(Kept)
    assert LOGGERS.make({"kind": "kept", "name": "mine"}).name == "mine"
