"""Models among which the validation part decides: all are tried, the best is trained on all of train and said so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from twotower.experiments.plans import StudyPlan, grid
from twotower.experiments.results import Study
from twotower.experiments.study import run_study
from twotower.experiments.train import train
from twotower.features import Category
from twotower.model.tower_module import features_of
from twotower.progress import Display
from twotower.recipes.config import Config, DataConfig
from twotower.retrieval import Retriever


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


def test_a_choice_that_the_config_makes_is_not_made_again(config: Config, tmp_path: Path) -> None:
    variants = grid({"model.read_id": [True], "model.layers": [[8]]}, {})
    plan = StudyPlan(config=config, variants=variants, split_seeds=[42], seeds=[0], workers=1)
    study = run_study(plan, tmp_path / "out", command="study", console=Console(quiet=True))
    assert study.runs[0].outcome.choices == []
