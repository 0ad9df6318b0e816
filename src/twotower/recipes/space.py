"""`[tune]` of a config: which keys `twotower tune` may change, and in which range."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from twotower.errors import ConfigError

Number = int | float

FIXED = ("device", "ks", "monitor", "seed")
"""Keys of `[training]` that all trials share: where and what they measure, and the seed, which is not a
hyperparameter."""


class Choices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of these values: numbers, names, lists or whole tables.

    Attributes:
        choices: The values, all different.
    """

    choices: list[Any]

    def __post_init__(self) -> None:
        if not self.choices:
            raise ConfigError("choices = []; expected at least one value")
        if repeated := [value for i, value in enumerate(self.choices) if value in self.choices[:i]]:
            raise ConfigError(f"choices contains {repeated[0]!r} twice; expected different values")

    def probes(self) -> list[Any]:
        """Values to check against the config."""
        return self.choices


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A number from `low` to `high`, both included; an integer if `low`, `high` and `step` are integers.

    Attributes:
        low: The lowest value.
        high: The highest value.
        log: Sample uniformly on a log scale, for rates whose order of magnitude is unknown.
        step: Distance between neighbouring values; default: 1 for integers, none for others.
    """

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, 1 if self.step is None else self.step)
        if not all(map(math.isfinite, numbers)) or self.low >= self.high:
            raise ConfigError(f"low = {self.low}, high = {self.high}; expected low below high, both finite")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ConfigError(f"step = {self.step}; expected a number above 0 and at most high − low")
        if self.step is not None and (_exact(self.high) - _exact(self.low)) % _exact(self.step):
            raise ConfigError(f"step = {self.step}; expected a whole number of steps from {self.low} to {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ConfigError("log = true; expected low above 0 and no step")

    @property
    def whole(self) -> bool:
        """Whether its values are integers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    def probes(self) -> list[Any]:
        """Values to check against the config."""
        return [self.low, self.high]

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else Number):
            return False
        if not self.low <= value <= self.high:
            return False
        return self.step is None or not (_exact(value) - _exact(self.low)) % _exact(self.step)


Dimension = Choices | Interval
Space = dict[str, Dimension]
"""Maps dotted keys of a config, such as `training.optimizer.learning_rate`, to their ranges."""

_NAMES = {*Choices.__struct_fields__, *Interval.__struct_fields__}


def parse_space(table: Mapping[str, Any], known: Mapping[str, Collection[str]]) -> Space:
    """Parses `[tune]`.

    Args:
        table: Its content. Keys may be quoted, `"model.dim"`, or nested by TOML, `model.dim`.
        known: The valid names in each table whose keys may be tuned: `model`, `training`.

    Raises:
        ConfigError: A key is unknown, or its value is not a range; the message names the key.

    Example:
        >>> parse_space({"model": {"dim": {"choices": [16, 32]}}}, {"model": ["dim"]})
        {'model.dim': Choices(choices=[16, 32])}
    """
    space: Space = {}
    for key, value in _leaves("", table):
        _check_key(key, known)
        if not isinstance(value, Mapping):
            raise ConfigError(f"[tune] {key} = {value!r}; expected {{choices = […]}} or {{low = …, high = …}}")
        try:
            kind: type[Dimension] = Choices if "choices" in value else Interval
            space[key] = msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise ConfigError(f"[tune] {key}: {error}") from error
    return space


def _exact(number: Number) -> Decimal:
    return Decimal(str(number))


def _leaves(prefix: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every (dotted key, range): a table is a range if it has any of the names that ranges use."""
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and not _NAMES & set(value):
            yield from _leaves(f"{key}.", value)
        else:
            yield key, value


def _check_key(key: str, known: Mapping[str, Collection[str]]) -> None:
    table, _, rest = key.partition(".")
    name = rest.split(".")[0]
    if table not in known or not name:
        tables = " or ".join(f"{table}.…" for table in known)
        raise ConfigError(f"[tune] has the unknown key {key!r}; expected {tables}")
    if name not in known[table]:
        raise ConfigError(f"[tune] has the unknown key {key!r}; [{table}] has {', '.join(known[table])}")
    if table == "training" and name in FIXED:
        raise ConfigError(f"[tune] {key}: every trial has the same {name}; set it in [training]")
