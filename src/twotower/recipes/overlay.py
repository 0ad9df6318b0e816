"""`overlay`: the one way in which a config, or a part of it, is changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from twotower.errors import ConfigError

Settings = dict[str, Any]
"""A table of a config as TOML holds it: tables, lists, text, numbers, booleans."""


def overlay(base: Mapping[str, Any], change: Mapping[str, Any]) -> Settings:
    """`base` with what `change` says put over it.

    Tables merge key by key. A table that names a `kind` replaces the one below it, since the settings of another kind
    mean nothing to it; without a `kind`, it changes the keys it names. Lists and plain values replace. Neither argument
    is changed.

    Args:
        base: The settings below.
        change: The settings above; a key may be dotted, `model.dim`.

    Raises:
        ConfigError: A dotted key leads through a value that is no table.

    Example:
        >>> base = {"epochs": 10, "optimizer": {"kind": "adamw", "learning_rate": 0.01}}
        >>> overlay(base, {"optimizer": {"learning_rate": 0.1}})
        {'epochs': 10, 'optimizer': {'kind': 'adamw', 'learning_rate': 0.1}}
        >>> overlay(base, {"optimizer": {"kind": "adagrad"}, "epochs": 3})
        {'epochs': 3, 'optimizer': {'kind': 'adagrad'}}
        >>> overlay(base, {"optimizer.learning_rate": 0.5})["optimizer"]
        {'kind': 'adamw', 'learning_rate': 0.5}
    """
    result = copy.deepcopy(dict(base))
    for key in sorted(change, key=lambda key: key.count(".")):  # a whole table before a key in it
        *path, name = key.split(".")
        _put(_table_at(result, path, key), name, change[key])
    return result


def value_at(settings: Mapping[str, Any], key: str) -> Any:
    """What settings have at a dotted key; None where they say nothing.

    Example:
        >>> value_at({"model": {"layers": [64, 32]}}, "model.layers")
        [64, 32]
    """
    value: Any = settings
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return list(value) if isinstance(value, tuple) else value


def without_none(value: Any) -> Any:
    """The same tables and lists without the keys that have no value, which TOML cannot write."""
    if isinstance(value, Mapping):
        return {name: without_none(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [without_none(inner) for inner in value]
    return value


def _table_at(settings: Settings, path: list[str], key: str) -> Settings:
    table = settings
    for name in path:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{key}: {name} is {table!r}; expected a table")
    return table


def _put(table: Settings, name: str, value: Any) -> None:
    below = table.get(name)
    if isinstance(value, Mapping) and isinstance(below, Mapping) and "kind" not in value:
        table[name] = overlay(below, value)
    else:
        table[name] = copy.deepcopy(value)
