from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from twotower.errors import ConfigError
from twotower.recipes.config import Config, read_config
from twotower.recipes.space import Choices, Interval

TOML = """
data.name = "simulated"
[tune]
model.layers = { choices = [[64, 32], [128]] }
"model.dim" = { low = 8, high = 64, step = 8 }
training.optimizer.learning_rate = { low = 0.001, high = 0.1, log = true }
[tune.training.loss]
choices = [{ kind = "full_softmax" }, { kind = "in_batch_softmax", log_q = false }]
"""


def test_a_config_says_what_may_be_tuned(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(TOML)
    assert read_config(tmp_path / "config.toml").space() == {
        "model.layers": Choices([[64, 32], [128]]),
        "model.dim": Interval(low=8, high=64, step=8),
        "training.optimizer.learning_rate": Interval(low=0.001, high=0.1, log=True),
        "training.loss": Choices([{"kind": "full_softmax"}, {"kind": "in_batch_softmax", "log_q": False}]),
    }


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"model": {"dmi": {"choices": [1]}}}, r"\[tune\] has the unknown key 'model.dmi'; \[model\] has query, .*dim"),
        ({"modle": {"dim": {"choices": [1]}}}, r"unknown key 'modle.dim'; expected model\.… or training\.…"),
        ({"dim": {"choices": [1]}}, "unknown key 'dim'"),
        ({"model": {"choices": [1]}}, "unknown key 'model'"),
        ({"training": {"seed": {"choices": [1, 2]}}}, "training.seed: every trial has the same seed"),
        ({"training": {"monitor": {"choices": ["all.mrr"]}}}, "training.monitor: every trial has the same monitor"),
        ({"model": {"dim": 8}}, r"\[tune\] model.dim = 8; expected \{choices"),
        ({"model": {"dim": {}}}, "model.dim: Object missing required field `low`"),
        ({"model": {"dim": {"choices": []}}}, "model.dim: choices = \\[\\]; expected at least one value"),
        ({"model": {"dim": {"choices": [8, 8]}}}, "model.dim: choices contains 8 twice"),
        ({"model": {"dim": {"choices": [8], "low": 1}}}, "model.dim: Object contains unknown field `low`"),
        ({"model": {"dim": {"low": 8, "hi": 9}}}, "model.dim: Object .*`h"),
        ({"model": {"dim": {"low": 9, "high": 8}}}, "model.dim: low = 9, high = 8; expected low below high"),
        ({"model": {"dim": {"low": 1, "high": float("inf")}}}, "both finite"),
        ({"model": {"dim": {"low": 1, "high": 8, "step": 2}}}, "step = 2; expected a whole number of steps from 1"),
        ({"model": {"dim": {"low": 1, "high": 8, "step": 0}}}, "step = 0; expected a number above 0"),
        ({"model": {"dropout": {"low": 0.0, "high": 0.5, "log": True}}}, "log = true; expected low above 0"),
        ({"model": {"dim": {"low": "1", "high": 8}}}, "model.dim: Expected `int | float`"),
    ],
)
def test_mistakes_are_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(tune=table)


def test_a_mistake_in_a_file_names_the_file_and_the_key(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(TOML.replace("model.layers", "model.layer"))
    with pytest.raises(ConfigError, match=r"config\.toml: \[tune\] has the unknown key 'model\.layer'"):
        read_config(tmp_path / "config.toml")


@pytest.mark.parametrize(
    ("interval", "within", "without"),
    [
        (Interval(low=1, high=9, step=4), [1, 5, 9], [0, 2, 5.0, 10, True, None]),
        (Interval(low=0.0, high=0.3, step=0.1), [0, 0.1, 0.2, 0.3], [0.05, 0.4, -0.1]),
        (Interval(low=0.1, high=1, log=True), [0.1, 0.37, 1], [0.0999, 1.1, "0.5"]),
    ],
)
def test_an_interval_holds_what_it_can_draw(interval: Interval, within: list[Any], without: list[Any]) -> None:
    assert all(value in interval for value in within)
    assert not any(value in interval for value in without)
