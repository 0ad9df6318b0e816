"""Models and schedules among which the validation part decides: the best is trained on all of train and said so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from twotower.evaluation.history import Epoch, TrainingHistory
from twotower.evaluation.metrics import Scores
from twotower.experiments.orders import ModelRun, Order, SearchRun
from twotower.experiments.plans import StudyPlan, grid
from twotower.experiments.results import ModelOutcome, Study
from twotower.experiments.run import train_by_recipe
from twotower.experiments.study import run_study
from twotower.experiments.train import train
from twotower.features import Category
from twotower.model.tower_module import features_of
from twotower.progress import Display
from twotower.recipes.config import Config, DataConfig
from twotower.recipes.parts import Parts
from twotower.retrieval import Retriever
from twotower.training.callbacks import Progress, ProgressBar


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A log of six events a query."""
    draw, queries = np.random.default_rng(0), 80
    log = {
        "user": np.tile(np.arange(queries), 6),
        "item": draw.integers(30, size=6 * queries),
        "at": np.repeat(np.arange(6), queries),
    }
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    pq.write_table(pa.table(log), path)
    data = DataConfig(interactions=str(path), query_id="user", candidate_id="item", time="at")
    return Config(data=data, training={"epochs": 2}, baselines="none")


STEPS: list[str] = []


class Steps(Display):
    """Keeps what it is asked to show."""

    def show(self, label: str, step: str, share: float | None = None, source: int = 0) -> None:
        STEPS.append(f"{label}: {step}")
        super().show(label, step, share, source)


@pytest.fixture(scope="module")
def study(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    plan = StudyPlan(config=config, variants=grid({"model.layers": [[8]]}, {}), split_seeds=[42], seeds=[0], workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twotower.experiments.study.Display", Steps)
        yield run_study(plan, tmp_path_factory.mktemp("study") / "out", command="study", console=Console(quiet=True))


def test_progress_says_which_choice_is_searched(study: Study) -> None:
    del study
    trainings = {step.partition(" epoch ")[0] for step in STEPS if " epoch " in step}
    assert trainings == {"[8]: histories,", "[8]: histories and the id,", "[8]: on all of train,"}


def test_every_choice_is_tried_and_the_best_goes_on(study: Study) -> None:
    (run,) = study.runs
    names = ["histories", "histories and the id"]
    assert [one.name for one in run.outcome.choices] == names
    assert [one.model for one in run.outcome.choices] == [{"read_id": False}, {"read_id": True}]
    chosen = run.outcome.chosen
    assert chosen is not None
    assert chosen.value == max(one.value for one in run.outcome.choices)
    assert run.outcome.best_epoch == chosen.best_epoch
    assert run.outcome.seconds.train > sum(one.seconds.train for one in run.outcome.choices)
    assert any(f"[8]: On the validation part, {chosen.name} was best" in sentence for sentence in study.verdicts)


def test_a_bundle_is_of_the_model_that_was_chosen(config: Config, study: Study, tmp_path: Path) -> None:
    trained = train(config, tmp_path / "shop", console=Console(quiet=True))
    loaded = Retriever.load(tmp_path / "shop")
    (note,) = [remark for remark in loaded.details.notes.remarks if "validation part" in remark]
    assert loaded.details.notes.config is not None
    reads_id = any(isinstance(one, Category) for one in features_of(trained.retriever.bundle.model.query))
    assert loaded.details.notes.config["model"]["read_id"] is reads_id
    assert ("histories and the id was best" in note) is reads_id


def test_the_config_of_a_bundle_has_the_schedule_that_was_chosen(config: Config, tmp_path: Path) -> None:
    details = train(open_to_lengths(config), tmp_path / "shop", console=Console(quiet=True)).retriever.details
    (note,) = [remark for remark in details.notes.remarks if "validation part" in remark]
    assert details.notes.config is not None
    assert f"with a schedule of {details.notes.config['training']['epochs']} epochs was best" in note


def test_a_choice_that_the_config_makes_is_not_made_again(config: Config, tmp_path: Path) -> None:
    variants = grid({"model.read_id": [True], "model.layers": [[8]]}, {})
    plan = StudyPlan(config=config, variants=variants, split_seeds=[42], seeds=[0], workers=1)
    study = run_study(plan, tmp_path / "out", command="study", console=Console(quiet=True))
    assert study.runs[0].outcome.choices == []


@pytest.mark.parametrize(
    ("by_length", "searched", "best"),
    [
        ({3: 0.2, 6: 0.1}, [3, 3, 6], 3),
        ({3: 0.2, 6: 0.2}, [3, 3, 6], 3),
        ({3: 0.2, 6: 0.3, 12: 0.1}, [3, 3, 6, 12], 6),
        ({3: 0.2, 6: 0.3, 12: 0.4, 24: 0.5}, [3, 3, 6, 12, 24], 24),
    ],
    ids=["shorter is better", "no gain", "a gain", "always better"],
)
def test_schedules_are_lengthened_while_that_pays(
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by_length: dict[int, float],
    searched: list[int],
    best: int,
) -> None:
    """With the model that is better with the shortest one."""
    asked: list[tuple[bool, int]] = []

    def search(run: SearchRun, order: Order, parts: Parts, progress: Progress) -> TrainingHistory:
        del order, parts, progress
        reads_id, length = bool(run.config.model.read_id), run.config.training["epochs"]
        asked.append((reads_id, length))
        value = by_length[length] + (0.01 if reads_id else 0.0)
        scores = Scores({"ndcg_10": value}, {"ndcg_10": value}, new={"ndcg_10": value})
        return TrainingHistory(monitor="new.ndcg_10", epochs=[Epoch(2, 1.0, 0.1, 1.0, validation=scores)])

    monkeypatch.setattr("twotower.experiments.run.search_epochs", search)
    free = open_to_lengths(config)
    run = ModelRun(free)
    order = Order(run, str(tmp_path), "data")
    trained = train_by_recipe(run, order, "key", free.parts(), ProgressBar(Console(quiet=True)))
    assert [length for _, length in asked] == searched
    assert [reads_id for reads_id, _ in asked] == [False, *[True] * (len(searched) - 1)]
    assert trained.best_epoch == 2
    chosen = max(trained.choices, key=lambda one: one.value)
    assert (chosen.model, chosen.training) == ({"read_id": True}, {"epochs": best})
    assert chosen.name == f"histories and the id with a schedule of {best} epochs"
    assert any(isinstance(one, Category) for one in features_of(trained.model.query))
    assert len(trained.choices) == len(searched)


def test_errors_are_minimised(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {(False, 3): 0.9, (True, 3): 0.8, (True, 6): 0.5, (True, 12): 0.6}

    def search(run: SearchRun, order: Order, parts: Parts, progress: Progress) -> TrainingHistory:
        del order, parts, progress
        error = errors[bool(run.config.model.read_id), run.config.training["epochs"]]
        scores = Scores({}, {}, tasks={"rating": {"rmse": error}})
        return TrainingHistory(monitor="rating.rmse", epochs=[Epoch(1, 1.0, 0.1, 1.0, validation=scores)])

    monkeypatch.setattr("twotower.experiments.run.search_epochs", search)
    free = open_to_lengths(config)
    order = Order(ModelRun(free), str(tmp_path), "data")
    trained = train_by_recipe(ModelRun(free), order, "key", free.parts(), ProgressBar(Console(quiet=True)))
    assert [one.value for one in trained.choices] == list(errors.values())
    outcome = ModelOutcome(
        recipe="tuned",
        parameters=1,
        epochs=1,
        best_epoch=1,
        curve=[],
        losses=[],
        seconds=trained.seconds,
        scores=Scores({}, {}),
        choices=trained.choices,
    )
    assert outcome.chosen is not None
    assert outcome.chosen.training == {"epochs": 6}
    assert any(isinstance(one, Category) for one in features_of(trained.model.query))


def open_to_lengths(config: Config) -> Config:
    """The config without epochs."""
    return msgspec.structs.replace(config, training={})


@pytest.mark.parametrize("on", ["test", "validation"])
def test_the_best_schedule_is_trained(config: Config, tmp_path: Path, on: Literal["test", "validation"]) -> None:
    """Also where the validation part is what is measured, on which the best epoch's weights are kept."""
    split = msgspec.structs.replace(config.split, on=on)
    free = msgspec.structs.replace(open_to_lengths(config), split=split)
    plan = StudyPlan(config=free, variants=grid({"model.layers": [[8]]}, {}), split_seeds=[42], seeds=[0], workers=1)
    study = run_study(plan, tmp_path / "free", command="study", console=Console(quiet=True))
    (run,) = study.runs
    chosen = run.outcome.chosen
    assert chosen is not None
    lengths = [one.training["epochs"] for one in run.outcome.choices]
    assert lengths in ([3, 3, 6], [3, 3, 6, 12], [3, 3, 6, 12, 24])
    fixed = msgspec.structs.replace(
        free,
        training=chosen.training,
        model=msgspec.structs.replace(free.model, **chosen.model),
    )
    again = run_study(
        msgspec.structs.replace(plan, config=fixed), tmp_path / "fixed", command="study", console=Console(quiet=True)
    )
    assert again.runs[0].outcome.choices == []
    assert again.runs[0].outcome.scores == run.outcome.scores
    assert again.runs[0].outcome.best_epoch == run.outcome.best_epoch == chosen.best_epoch
