"""`SearchSpace`: converts a config's space to Optuna's distributions, and trial parameters to config values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import msgspec
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.errors import ConfigError, TwoTowerError
from twotower.experiments.plans import changed
from twotower.experiments.tuning.defaults import default_space, searched_by_recipe
from twotower.recipes.complete import complete
from twotower.recipes.config import Config
from twotower.recipes.overlay import value_at
from twotower.recipes.space import Choices, Dimension, Interval, Space
from twotower.training.trainer import Trainer, trainer_from_settings

Values = dict[str, Any]
"""Maps dotted config keys to values."""


class SearchSpace:
    """The configs that a tuning chooses from: a complete config with some values replaced.

    Choices are passed to Optuna as JSON text, so that lists and whole tables can be chosen as well as numbers.

    Args:
        base: The complete built-in config.
        dimensions: The range of each key.
    """

    def __init__(self, base: Config, dimensions: Space) -> None:
        self.base, self.dimensions = base, dimensions
        self.distributions = {key: _distribution(dimension) for key, dimension in dimensions.items()}

    @classmethod
    def of(cls, config: Config, train: Log, validation: Dataset | None = None) -> SearchSpace:
        """The space that a config declares, or the default one.

        Args:
            config: The config.
            train: The training split.
            validation: The validation part; None cuts it from train.

        Raises:
            ConfigError: `training` has an unknown key or a wrong value.
        """
        base = complete(config, train, validation)
        return cls(base, config.space() or default_space(base, train) | searched_by_recipe(config, train, validation))

    def suggest(self, trial: Trial) -> Values:
        """Draws the parameters of a trial."""
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Choices):
                trial.suggest_categorical(key, [_text(value) for value in dimension.choices])
            elif dimension.whole:
                trial.suggest_int(key, *_whole(dimension), step=int(dimension.step or 1), log=dimension.log)
            else:
                trial.suggest_float(key, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
        return self.values(trial.params)

    def values(self, params: Mapping[str, Any]) -> Values:
        """The config values for a trial's parameters."""
        return {
            key: msgspec.json.decode(param) if isinstance(self.dimensions[key], Choices) else param
            for key, param in params.items()
        }

    def config(self, values: Values) -> Config:
        """The complete config with these values.

        Raises:
            ConfigError: The values do not fit together.
        """
        return changed(self.base, values)

    def changes(self, values: Values) -> Values:
        """The values that differ from the built-in config."""
        return {key: value for key, value in values.items() if not self._is_base(key, value)}

    @cached_property
    def base_params(self) -> dict[str, Any] | None:
        """The parameters of the built-in config; None if one of its values is outside its range."""
        params: dict[str, Any] = {}
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Choices):
                params.update((key, _text(value)) for value in dimension.choices if self._is_base(key, value))
            elif (own := value_at(msgspec.to_builtins(self.base), key)) in dimension:
                params[key] = own
        return params if len(params) == len(self.dimensions) else None

    def check(self, train: Log) -> None:
        """Refuses values that the config, the trainer or the towers would refuse.

        Raises:
            ConfigError: A value is refused; the message names its key.
        """
        for key, dimension in self.dimensions.items():
            for value in dimension.probes():
                try:
                    config = self.config({key: value})
                    config.model.build(train, config.resolved_recipe(train))
                except TwoTowerError as error:
                    raise ConfigError(f"[tune] {key} = {_text(value)}: {error}") from error

    def _is_base(self, key: str, value: Any) -> bool:
        """Whether the value leaves the built-in config as it is, after filling in defaults."""
        try:
            changed = self.config({key: value})
            return changed.model == self.base.model and _trainer(changed) == _trainer(self.base)
        except (ConfigError, msgspec.ValidationError):
            return False


def _trainer(config: Config) -> Trainer:
    return trainer_from_settings(config.training)


def _whole(interval: Interval) -> tuple[int, int]:
    return int(interval.low), int(interval.high)


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choices):
        return CategoricalDistribution([_text(value) for value in dimension.choices])
    if dimension.whole:
        return IntDistribution(*_whole(dimension), step=int(dimension.step or 1), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, step=dimension.step, log=dimension.log)


def _text(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
