"""Error messages for invalid configs, which name the key, its value and what was expected."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

import msgspec

from twotower.errors import ConfigError

WHERE = re.compile(r" - at `\$(?P<path>[^`]*)`$")
EXPECTED = {
    "array": "a list in brackets",
    "object": "a table",
    "int": "a whole number",
    "float": "a number",
    "str": "text in quotes",
    "bool": "true or false",
}
"""msgspec's names of types, in TOML's terms."""

Keys = list[str]
"""The path to a value: names of tables and keys; positions in lists as `[3]`."""


def mistake(
    error: msgspec.ValidationError, settings: Any, kind: type, *, table: str = "", where: str = ""
) -> ConfigError:
    """The error for a failed `msgspec.convert`: the key as written in TOML, its value and what was expected.

    Args:
        error: The error that `convert` raised.
        settings: The settings that were converted.
        kind: The target type.
        table: Name of the table that holds the settings.
        where: Prefix of the message, such as `config FILE: `.

    Returns:
        An error whose `field` is the key, dotted, such as `training.optimizer.kind`.

    Example:
        >>> class Model(msgspec.Struct):
        ...     layers: list[int]
        >>> try:
        ...     msgspec.convert({"layers": "64,32"}, Model)
        ... except msgspec.ValidationError as error:
        ...     found = mistake(error, {"layers": "64,32"}, Model, table="model")
        ...     print(found.field, "|", found)
        model.layers | [model] layers = '64,32'; expected a list in brackets
    """
    found = WHERE.search(str(error))
    what = str(error) if found is None else str(error)[: found.start()]
    keys: Keys = [] if found is None else re.findall(r"\w+|\[\d+\]", found["path"])
    shown = [*([table] if table else []), *keys]
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    field = ".".join([*shown, *unknown.groups()] if unknown else shown).replace(".[", "[")
    return ConfigError(f"{where}{_explained(what, settings, kind, keys, shown)}", field=field or None)


def _explained(what: str, settings: Any, kind: type, keys: Keys, shown: Keys) -> str:
    """The message for a mistake at `keys`; `shown` are the same keys with the table in front."""
    if not _is_there(settings, keys):  # below a key of a map, which the path does not name
        return f"{what}, at {_key(shown)}"
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what):
        known = _fields(_kind_at(kind, settings, keys), _value_at(settings, keys))
        return _unknown_key(unknown[1], shown, known) + ("" if shown else _home(unknown[1], kind))
    choices = _choices(_kind_at(kind, settings, keys))
    if what.startswith("Invalid value") and keys[-1:] == ["kind"]:
        choices = _tags(_kind_at(kind, settings, keys[:-1]))
    if what.startswith("Invalid") and choices:
        return f"{_key(shown)} = {_value_at(settings, keys)!r}; expected {', '.join(map(repr, choices))}"
    if wanted := re.fullmatch(r"Expected `(.*)`, got `.*`", what):
        value = _value_at(settings, keys)
        kinds = [EXPECTED.get(one, one) for one in wanted[1].split(" | ") if one != "null"]
        tags = _tags(_kind_at(kind, settings, keys))
        such_as = f", such as {{kind = {tags[0]!r}}}" if tags else ""
        return f"{_key(shown)} = {value!r}; expected {' or '.join(kinds)}{such_as}"
    if isinstance(_value_at(settings, keys), dict):
        return f"[{'.'.join(shown)}] {what}" if shown else what
    return f"{_key(shown)}: {what}"


def unknown_key(name: str, table: str, known: Sequence[str]) -> ConfigError:
    """The error for a key that does not exist in a table.

    Example:
        >>> print(unknown_key("epoch", "training", ["epochs", "seed"]))
        [training] has the unknown key 'epoch', did you mean 'epochs'? expected epochs, seed
    """
    return ConfigError(_unknown_key(name, [table], known), field=f"{table}.{name}")


def _unknown_key(name: str, table: Keys, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, cutoff=0.7)
    guess = f", did you mean {near[0]!r}? expected " if near else "; expected "
    where = f"[{'.'.join(table)}] has " if table else "it has "
    return f"{where}the unknown key {name!r}{guess}{', '.join(known)}" if known else f"{where}the unknown key {name!r}"


def _home(name: str, kind: type) -> str:
    """A hint for a key that stands above all tables, although it belongs in one."""
    tables = [table for table, own in typing.get_type_hints(kind).items() if name in _fields(own, {})]
    return f"; put {name} below the line [{tables[0]}]" if tables else ""


def _key(keys: Keys) -> str:
    """A key with its table in front: `[model] layers[0]`."""
    places = "".join(key for key in keys if key.startswith("["))
    *tables, name = [key for key in keys if not key.startswith("[")]
    return f"[{'.'.join(tables)}] {name}{places}" if tables else f"{name}{places}"


def _value_at(settings: Any, keys: Keys) -> Any:
    value = settings
    for key in keys:
        value = value[int(key[1:-1])] if key.startswith("[") else value[key]
    return value


def _is_there(settings: Any, keys: Keys) -> bool:
    try:
        _value_at(settings, keys)
    except (LookupError, TypeError):
        return False
    return True


def _kind_at(kind: Any, settings: Any, keys: Keys) -> Any:
    """The type of the value at these keys, as far as structs define it."""
    for place, key in enumerate(keys):
        struct = _struct(kind, _value_at(settings, keys[:place]))
        if struct is None:
            return None
        kind = typing.get_type_hints(struct).get(key)
    return kind


def _struct(kind: Any, value: Any) -> type[msgspec.Struct] | None:
    """The struct that a value converts to: the only one, or the one that matches the value's `kind`."""
    structs = [one for one in _members(kind) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    if len(structs) > 1 and isinstance(value, dict):
        structs = [one for one in structs if one.__struct_config__.tag == value.get("kind")]
    return structs[0] if len(structs) == 1 else None


def _members(kind: Any) -> tuple[Any, ...]:
    """The members of a union."""
    union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    return typing.get_args(kind) if union else (kind,)


def _fields(kind: Any, value: Any) -> list[str]:
    struct = _struct(kind, value)
    return [] if struct is None else list(struct.__struct_fields__)


def _tags(kind: Any) -> list[Any]:
    """The values of `kind` that distinguish the structs of a union."""
    structs = [one for one in _members(kind) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    return [one.__struct_config__.tag for one in structs if one.__struct_config__.tag is not None]


def _choices(kind: Any) -> list[Any]:
    return [choice for one in _members(kind) if typing.get_origin(one) is typing.Literal for choice in one.__args__]
