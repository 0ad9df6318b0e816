"""The examples of examples/extending pass the suites, and work where configs and saved folders name them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import msgspec
import pyarrow as pa
import pytest
import torch

from commands import run_python
from twotower import Category, Evaluation, Retriever, Tower, Trainer, TwoTower, evaluate, testing
from twotower.data import Dataset, split_random
from twotower.errors import ConfigError, SavedFolderError
from twotower.evaluation import BASELINES
from twotower.evaluation.baselines.names import check_baselines
from twotower.experiments.tuning.defaults import default_space
from twotower.model.two_tower import MODELS
from twotower.recipes.complete import complete
from twotower.recipes.config import read_config
from twotower.recipes.imports import import_modules
from twotower.recipes.space import Choices
from twotower.retrieval import INDEXES

FOLDER = Path(__file__).parents[2] / "examples" / "extending"
NAMES = ("own_feature", "own_tower", "own_model", "own_loss", "own_metric", "own_baseline", "own_index")
CONFIG = f"""
imports = [{", ".join(f'"{FOLDER / name}.py"' for name in NAMES)}]
baselines = ["popularity", "latest"]
[data.simulated]
queries = 30
candidates = 40
interactions = 900
[model]
query = [{{kind = "category", column = "user_id", dim = 8}}, {{kind = "hour", column = "timestamp"}}]
tower = {{kind = "gated", hidden = 8, width = 4}}
two_tower = {{kind = "bilinear", start = 0.5}}
[training]
epochs = 2
loss = {{kind = "hinge", margin = 0.5}}
monitor = "all.log_rank"
"""


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The examples, imported as `--import` does."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    import_modules(str(FOLDER / f"{name}.py") for name in NAMES)
    yield {name: sys.modules[name] for name in NAMES}
    for name in NAMES:
        del sys.modules[name]


def test_each_passes_its_suite(own: dict[str, ModuleType]) -> None:
    log = testing.small_log()
    testing.check_feature(own["own_feature"].Hour("at"), pa.array([0.0, 7300.0, 1e9, None]))
    testing.check_tower(own["own_tower"].Gated([Category("movie_id", 4)]), log)
    towers = (Tower([Category(name, 8)], [4]) for name in ("user_id", "movie_id"))
    testing.check_model(own["own_model"].Bilinear(*towers, start=0.5, normalize=True), log)
    testing.check_loss(own["own_loss"].Hinge(margin=0.5))
    testing.check_metric(own["own_metric"].LogRank)
    testing.check_baseline(own["own_baseline"].Latest)
    testing.check_index(own["own_index"].Cells())


def test_a_config_names_them_all(own: dict[str, ModuleType], tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(CONFIG)
    config = read_config(tmp_path / "own.toml")
    parts = config.parts()
    fitted, validation = parts.fitted_and_validation()
    assert isinstance(fitted, Dataset)
    recipe = config.resolved_recipe(fitted, validation)
    assert recipe.trainer.loss == own["own_loss"].Hinge(margin=0.5)
    assert msgspec.to_builtins(recipe.trainer)["loss"] == {"kind": "hinge", "margin": 0.5}
    model = config.model.build(fitted, recipe)
    assert [type(tower).__name__ for tower in (model.query, model.candidate)] == ["Gated", "Gated"]
    assert type(model) is own["own_model"].Bilinear
    assert model.settings()["start"] == 0.5
    assert config.model.columns(fitted, recipe).query[1].read_as == "hour of the day"
    losses = default_space(complete(config, fitted, validation), fitted)["training.loss"]
    assert isinstance(losses, Choices)
    assert losses.choices[0] == {"kind": "hinge", "margin": 0.5}
    history = msgspec.structs.replace(recipe.trainer, epochs=2).fit(model, fitted, validation)
    assert history.best.validation is not None
    assert history.best.validation.value("all.log_rank") < 0


def test_an_evaluation_shows_the_metric_and_the_baseline(own: dict[str, ModuleType]) -> None:
    train, test = split_random(testing.small_log(), test=0.2)
    found: Evaluation = evaluate(BASELINES["popularity"](train), test, train, baselines=["popularity", "latest"])
    assert list(found.rows) == ["model", "popularity", "latest"]
    assert "−log2 rank" in str(found)
    assert "latest first" in str(found)
    assert any("latest first" in comparison for comparison in found.notes)
    check_baselines(["latest"])


def test_a_bundle_with_an_index_of_ones_own_needs_its_module(
    own: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = testing.small_log()
    model = own["own_model"].Bilinear(*(Tower([Category(name, 4)]) for name in ("user_id", "movie_id")))
    Trainer(epochs=1).fit(model, log)
    made = Retriever.build(model, log.candidates, seen=log, index=own["own_index"].Cells(probes=8), parity=None)
    made.save(tmp_path / "bundle")
    loaded = Retriever.load(tmp_path / "bundle")
    assert loaded.index.kind == "cells"
    assert type(loaded.model) is own["own_model"].Bilinear
    query = {"user_id": 3, "timestamp": 1e9}
    assert loaded.recommend(query, k=5) == made.recommend(query, k=5)
    for kinds, message in ((INDEXES, "index kind 'cells' is unknown"), (MODELS, "model kind 'bilinear' is unknown")):
        with monkeypatch.context() as without:
            without.setattr(kinds, "_classes", {name: kinds[name] for name in kinds if name not in kinds.own})
            with pytest.raises(SavedFolderError, match=f"{message}.*--import MODULE"):
                Retriever.load(tmp_path / "bundle")
    assert isinstance(loaded.model, TwoTower)


def test_a_kind_that_is_not_imported_is_named_with_the_way_to_import_it(tmp_path: Path) -> None:
    config = CONFIG[CONFIG.index("[data") :]
    (tmp_path / "own.toml").write_text(config.replace("all.log_rank", "all.mrr"))
    read = read_config(tmp_path / "own.toml")
    parts = read.parts()
    with pytest.raises(ConfigError, match=r"loss kind 'hinge' is unknown.*--import MODULE"):
        read.resolved_recipe(*parts.fitted_and_validation())
    training = {"loss": {"kind": "full_softmax"}}
    recipe = msgspec.structs.replace(read, training=training).resolved_recipe(*parts.fitted_and_validation())
    model = msgspec.structs.replace(read.model, query=[], tower={})
    with pytest.raises(ConfigError, match=r"model kind 'bilinear' is unknown.*--import MODULE"):
        model.build(parts.train, recipe)
    (tmp_path / "own.toml").write_text('baselines = ["latest"]\n' + config)
    with pytest.raises(ConfigError, match="baseline 'latest' is unknown"):
        read_config(tmp_path / "own.toml")


def test_a_config_makes_the_model_with_what_else_it_says(own: dict[str, ModuleType]) -> None:
    config = read_config(FOLDER / "own_model.toml")
    log = testing.small_log()
    recipe = config.resolved_recipe(log)
    model = msgspec.structs.replace(config.model, layers=(4,), normalize=True).build(log, recipe)
    assert type(model) is own["own_model"].Bilinear
    assert (model.normalize, model.initial_temperature, model.width) == (True, recipe.temperature, 4)
    torch.testing.assert_close(model.learn(log).between.weight, torch.eye(4) / 2)  # type: ignore[union-attr]
    wrong = msgspec.structs.replace(config.model, two_tower={"kind": "bilinear", "begin": 2})
    with pytest.raises(ConfigError, match="begin"):
        wrong.build(log, recipe)


def test_a_command_and_its_workers_import_them(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(CONFIG)
    done = run_python("-m", "twotower", "train", tmp_path / "own.toml", "--out", tmp_path / "own.tower")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "latest first" in done.stdout
    assert "−log2 rank" in done.stdout
