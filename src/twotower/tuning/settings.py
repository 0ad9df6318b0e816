"""Configs as settings by dotted key: complete ones, and ones with some values changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import msgspec

from twotower.data.dataset import Dataset
from twotower.errors import ConfigError
from twotower.study.config import Config


def complete(config: Config, train: Dataset, validation: Dataset | None = None) -> Config:
    """The same config with all that its recipe decides for this data written out, and nothing to tune."""
    recipe = config.resolved_recipe(train, validation)
    model = {
        name: getattr(recipe, name)
        for name in config.model.__struct_fields__
        if getattr(config.model, name) is None and hasattr(recipe, name)
    }
    training: dict[str, Any] = without_none(msgspec.to_builtins(recipe.trainer))
    return msgspec.structs.replace(
        config, model=msgspec.structs.replace(config.model, **model), training=training, tune={}
    )


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with other values at dotted keys; a whole table is set before a key in it.

    Raises:
        ConfigError: It has no such key, or cannot have such a value there.

    Example:
        >>> with_values(Config(), {"model.dim": 16, "training.optimizer.kind": "adamw"}).training
        {'optimizer': {'kind': 'adamw'}}
    """
    settings = msgspec.to_builtins(config)
    for key in sorted(values):
        *tables, name = key.split(".")
        table = settings
        for inner in tables:
            table = table.setdefault(inner, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{key}: {inner} is no table")
        table[name] = copy.deepcopy(values[key])
    try:
        return msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from error


def value_at(config: Config, key: str) -> Any:
    """What a config has at a dotted key, as TOML would hold it; None where it says nothing.

    Example:
        >>> value_at(Config(), "model.layers")
        [64, 32]
    """
    value = msgspec.to_builtins(config)
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return list(value) if isinstance(value, tuple) else value


def without_none(value: Any) -> Any:
    """The same lists and tables without the keys that have no value."""
    if isinstance(value, dict):
        return {name: without_none(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [without_none(inner) for inner in value]
    return value
