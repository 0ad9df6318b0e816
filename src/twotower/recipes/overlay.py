"""`overlay`: the only way to change a config or a part of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from twotower.errors import ConfigError

Settings = dict[str, Any]
"""A table of a config as in TOML: tables, lists, text, numbers, booleans."""


def overlay(base: Mapping[str, Any], change: Mapping[str, Any]) -> Settings:
    """Merges `change` over `base`.

    Tables merge key by key. A table with a `kind` replaces the one in `base`, since another kind's settings do not
    apply to it; without a `kind`, it changes only the keys it names. Lists and plain values are replaced. Neither
    argument is modified.

    Args:
        base: The settings to change.
        change: The changes; a key may be dotted, `model.dim`.

    Raises:
        ConfigError: A dotted key leads through a value that is not a table.

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
    for key in sorted(change, key=lambda key: key.count(".")):  # whole tables before keys inside them
        *path, name = key.split(".")
        _put(_table_at(result, path, key), name, change[key])
    return result


def value_at(settings: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None if it is not set.

    Example:
        >>> value_at({"model": {"layers": [64, 32]}}, "model.layers")
        [64, 32]
    """
    value: Any = settings
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return list(value) if isinstance(value, tuple) else value


def without_none(value: Any) -> Any:
    """Copies tables and lists without keys whose value is None, which TOML cannot represent."""
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
