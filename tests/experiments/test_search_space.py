"""A config's space as the search sees it."""

from __future__ import annotations

from typing import Any

import msgspec
import optuna
import pytest

from toy import groups_log, log_of
from twotower.errors import ConfigError
from twotower.experiments.plans import changed as with_values
from twotower.experiments.tuning.space import SearchSpace
from twotower.model import FullSoftmax, InBatchSoftmax
from twotower.recipes.complete import complete
from twotower.recipes.config import Config, ModelConfig
from twotower.recipes.overlay import value_at
from twotower.recipes.parts import SplitConfig
from twotower.recipes.recipe import RecipeName
from twotower.recipes.space import Choices

LOG = groups_log(events=200)


def space_of(tune: dict[str, Any], **config: Any) -> SearchSpace:
    return SearchSpace.of(Config(tune=tune, **config), LOG)


@pytest.mark.parametrize("recipe", ["tuned", "tutorial"])
def test_a_complete_config_trains_as_its_recipe_says(recipe: RecipeName) -> None:
    config = Config(recipe=recipe, training={"epochs": 3})
    whole = complete(config, LOG)
    assert whole.resolved_recipe(LOG) == config.resolved_recipe(LOG)
    assert (whole.model.inputs, whole.model.temperature) == {"tuned": ("all", 0.5), "tutorial": ("tutorial", 1.0)}[
        recipe
    ]
    assert complete(whole, LOG) == whole


def test_any_key_of_model_and_training_can_be_set() -> None:
    base = complete(Config(), LOG)
    changed = with_values(
        base,
        {
            "training.loss.hard_negatives": 5,
            "training.loss": {"kind": "in_batch_softmax"},  # a table goes before a key in it, whatever their order
            "model.layers": [8],
            "training.early_stopping.patience": 7,
        },
    )
    trainer = changed.resolved_recipe(LOG).trainer
    assert trainer.loss == InBatchSoftmax(hard_negatives=5)
    assert trainer.early_stopping is not None
    assert trainer.early_stopping.patience == 7
    assert changed.model == msgspec.structs.replace(base.model, layers=(8,))
    assert value_at(msgspec.to_builtins(changed), "model.layers") == [8]
    assert value_at(msgspec.to_builtins(changed), "training.clip_norm") is None


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"training.loss.hard": {"choices": [1]}}, r"\[tune\] training.loss.hard = 1: .*has the unknown key 'hard'"),
        ({"model.activation": {"choices": ["relu", "swish"]}}, r"model.activation = \"swish\": .*'swish'"),
        ({"training.optimizer.learning_rate": {"low": -0.5, "high": 0.1}}, r"learning_rate = -0.5: .*above 0"),
        ({"model.dropout": {"low": 0.0, "high": 1.5}}, r"model.dropout = 1.5: "),
        ({"model.layers": {"choices": [[0]]}}, r"model.layers = \[0\]: "),
        ({"model.dim.size": {"choices": [1]}}, r"model.dim.size = 1: .*expected a table"),
    ],
)
def test_values_that_would_be_refused_later_are_refused_before(tune: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of(tune).check(LOG)


@pytest.mark.parametrize("recipe", ["tuned", "tutorial"])
@pytest.mark.parametrize("model", [ModelConfig(), ModelConfig(layers=(48,), dropout=0.15, temperature=0.07)])
def test_the_default_space_is_valid_and_holds_the_config_itself(recipe: RecipeName, model: ModelConfig) -> None:
    space = space_of({}, recipe=recipe, model=model)
    space.check(LOG)
    assert space.base_params is not None
    values = space.values(space.base_params)
    assert space.config(values).model == space.base.model
    assert space.changes(values) == {}
    for key in ("model.layers", "model.dim", "model.inputs", "training.loss", "training.optimizer.learning_rate"):
        assert key in space.dimensions


def test_the_default_space_fits_the_config_and_the_catalogue() -> None:
    features = [{"kind": "category", "column": "user"}]
    given = space_of({}, model=ModelConfig(query=features, candidate=[{"kind": "category", "column": "item"}]))
    assert not {"model.dim", "model.inputs"} & set(given.dimensions)
    large = SearchSpace.of(Config(), log_of([(0, 0)] * 5, 1, 30_000))
    losses = {len(one.dimensions["training.loss"].probes()) for one in (given, large)}
    assert losses == {2, 3}
    assert FullSoftmax() == given.base.resolved_recipe(LOG).trainer.loss


def test_a_choice_is_the_configs_own_however_it_is_written() -> None:
    kinds = [{"kind": "in_batch_softmax"}, {"kind": "full_softmax"}]
    space = space_of({"training.loss": {"choices": kinds}, "model.dropout": {"choices": [0.2, 0]}})
    assert space.base_params == {"training.loss": '{"kind":"full_softmax"}', "model.dropout": "0"}
    tutorial = space_of({"training.loss": {"choices": kinds}}, recipe="tutorial")
    assert tutorial.base_params is None  # its loss sums, and does not correct for popularity
    assert tutorial.changes({"training.loss": kinds[0]}) == {"training.loss": kinds[0]}


def test_what_is_drawn_are_values_of_the_config() -> None:
    space = space_of(
        {
            "model.layers": {"choices": [[8], [16, 8]]},
            "model.dim": {"low": 4, "high": 12, "step": 4},
            "model.dropout": {"low": 0.0, "high": 0.5},
            "model.residual": {"choices": [False, True]},
        }
    )
    study = optuna.create_study()
    drawn = [space.suggest(study.ask()) for _ in range(20)]
    for values in drawn:
        space.config(values).model.build(LOG, space.base.resolved_recipe(LOG))
        assert values["model.layers"] in ([8], [16, 8])
        assert values["model.dim"] in (4, 8, 12)
    assert study.trials[0].distributions == space.distributions


def test_the_default_space_searches_what_a_training_would() -> None:
    """The length of the schedule, and whether the query's id is read, unless the config says."""
    config = Config(split=SplitConfig("last-out"))
    found = SearchSpace.of(config, LOG).dimensions
    assert found["training.epochs"] == Choices([3, 6, 12, 24])
    assert found["model.read_id"] == Choices([False, True])
    given = with_values(config, {"training.epochs": 2, "model.read_id": True})
    assert not {"training.epochs", "model.read_id"} & set(SearchSpace.of(given, LOG).dimensions)
    assert "training.epochs" not in SearchSpace.of(Config(split=SplitConfig("random")), LOG).dimensions
