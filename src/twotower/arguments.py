"""Checks arguments against their annotations, so that a wrong type fails at the call."""

from __future__ import annotations

import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import msgspec
import numpy as np

from twotower.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")

MAX_SHOWN_CHARACTERS = 200
"""Error messages cut values off after this many characters."""


class Follows:
    """In an annotation: also accept any object that implements this protocol.

    Args:
        protocol: A runtime-checkable protocol.
    """

    def __init__(self, protocol: type) -> None:
        self.protocol = protocol


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A struct whose fields are always type-checked; plain msgspec structs check only what they decode.

    Subclasses check ranges in `check`, which is called after the types are checked.

    Raises:
        ConfigError: A field's value has the wrong type, or is not a finite number.

    Example:
        >>> class Rounds(Settings, frozen=True):
        ...     count: int = 1
        >>> Rounds(count="3")
        Traceback (most recent call last):
        twotower.errors.ConfigError: Rounds: count='3'; expected a whole number
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self), include_extras=True)
        for name in self.__struct_fields__:
            value = checked(type(self).__name__, name, getattr(self, name), hints[name])
            msgspec.structs.force_setattr(self, name, value)
        self.check()

    def check(self) -> None:
        """Raise if a value is out of range. By default, accepts everything."""


def checks_arguments(function: Callable[P, R], owner: str | None = None) -> Callable[P, R]:
    """Wrap a function so that its arguments are checked against their annotations; others are not checked.

    Args:
        function: The function, or the `__init__` of a class.
        owner: Its name in errors; default: the name of its class or of the function.

    Example:
        >>> @checks_arguments
        ... def repeat(word: str, times: int = 2) -> str:
        ...     return word * times
        >>> repeat("ha", times=2.5)
        Traceback (most recent call last):
        twotower.errors.ConfigError: repeat: times=2.5; expected a whole number
    """
    signature = inspect.signature(function)
    name_in_errors = owner or function.__qualname__.removesuffix(".__init__").rpartition("<locals>.")[2]
    hints: dict[str, Any] | None = None

    @functools.wraps(function)
    def checking(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal hints
        if hints is None:
            hints = _hints_of(function)  # at the first call, since annotations may name what is defined later
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:  # Python's own message says which function it was
            raise TypeError(f"{name_in_errors}() {error}") from None
        for name, value in bound.arguments.items():
            if name in hints and signature.parameters[name].kind not in _VARIADIC:
                bound.arguments[name] = checked(name_in_errors, name, value, hints[name])
        return function(*bound.args, **bound.kwargs)

    return checking


def checked(owner: str, name: str, value: Any, hint: Any) -> Any:
    """Convert a value to its annotated type: int to float, list to tuple, NumPy scalar to Python scalar.

    Raises:
        ConfigError: It has the wrong type, or is not a finite number.
    """
    try:
        return _as(value, hint)
    except _MismatchError:
        raise ConfigError(f"{owner}: {name}={shortened(value)}; expected {described(hint)}") from None


def refuse_below(least: float, owner: str, **numbers: float) -> None:
    """Check that every number is at least `least`.

    Raises:
        ConfigError: A number is below it; the message names the argument.
    """
    for name, number in numbers.items():
        if number < least:
            raise ConfigError(f"{owner}: {name}={number}; expected at least {least:g}", field=name)


def refuse_nameless(owner: str, **columns: str | Sequence[str] | None) -> None:
    """Check that no column name is empty or blank.

    Raises:
        ConfigError: A name is; the message names the argument.
    """
    for name, given in columns.items():
        names = [given] if isinstance(given, str) else given or ()
        if not all(column.strip() for column in names):
            raise ConfigError(f"{owner}: {name}={given!r}; expected the name of a column", field=name)


def described(hint: Any) -> str:
    """Describe what an annotation accepts.

    Example:
        >>> described(tuple[int, ...] | None)
        'a sequence, each a whole number, or None'
    """
    hint, protocols = _unwrapped(hint)
    if _is_union(hint):
        options = [described(member) for member in get_args(hint)]
        options += [f"an object that implements {protocol.__name__}" for protocol in protocols]
        comma = "," if len(options) > 2 or "," in options[0] else ""
        return f"{', '.join(options[:-1])}{comma} or {options[-1]}" if len(options) > 1 else options[0]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(repr(option) for option in args)}"
    if origin is tuple and args[-1] is not Ellipsis:
        return f"{len(args)} values: {', '.join(described(member) for member in args)}"
    if origin in (tuple, list, Sequence):
        return f"a sequence, each {described(args[0])}"
    if hint in _WORDS:
        return _WORDS[hint]
    kind = origin or hint
    name = getattr(kind, "__name__", str(kind))
    return f"{name}(…)" if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else f"a {name}"


def shortened(value: Any) -> str:
    """The value's `repr` for an error message, truncated if long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}…"


_WORDS: dict[Any, str] = {
    NoneType: "None",
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    Path: "a path",
}

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class _MismatchError(Exception):
    """A value does not match its annotation."""


def _as(value: Any, hint: Any) -> Any:
    hint, protocols = _unwrapped(hint)
    if any(isinstance(value, protocol) and not isinstance(value, type) for protocol in protocols):
        return value
    if _is_union(hint):
        return _as_one_of(value, get_args(hint))
    if isinstance(value, np.generic):
        value = value.item()
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _require(value, any(type(value) is type(option) and value == option for option in args))
    if origin in (tuple, list, Sequence):
        return _as_sequence(value, origin, args)
    if hint in (bool, int, str, NoneType):
        return _require(value, type(value) is hint or (hint is str and isinstance(value, str)))
    if hint is float:
        _require(value, isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))
        return float(value)
    if hint is Path:
        return Path(_require(value, isinstance(value, str | Path)))
    kind = origin or hint
    if not isinstance(kind, type) or (getattr(kind, "_is_protocol", False) and not _is_runtime(kind)):
        return value  # cannot be checked, e.g. a type variable
    # A class passes isinstance against a protocol, since it has the methods, but only unbound.
    is_class = getattr(kind, "_is_protocol", False) and isinstance(value, type)
    return _require(value, isinstance(value, kind) and not is_class)


def _as_one_of(value: Any, members: Sequence[Any]) -> Any:
    for member in members:
        try:
            return _as(value, member)
        except _MismatchError:
            continue
    raise _MismatchError


def _as_sequence(value: Any, origin: Any, args: Sequence[Any]) -> Any:
    """Convert a sequence, member by member; text and mappings do not count as sequences."""
    is_plain = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes | Mapping)
    _require(value, is_plain)
    if origin is tuple and args[-1] is not Ellipsis:
        _require(value, len(value) == len(args))
        return tuple(_as(member, hint) for member, hint in zip(value, args, strict=True))
    members = [_as(member, args[0]) for member in value]
    return tuple(members) if origin is tuple else members


def _require(value: Any, is_right: bool) -> Any:
    if not is_right:
        raise _MismatchError
    return value


def _unwrapped(hint: Any) -> tuple[Any, list[type]]:
    """The annotation without `Annotated`, and the protocols that are also accepted."""
    if get_origin(hint) is not Annotated:
        return hint, []
    inner, *extras = get_args(hint)
    return inner, [extra.protocol for extra in extras if isinstance(extra, Follows)]


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _is_runtime(protocol: type) -> bool:
    return bool(getattr(protocol, "_is_runtime_protocol", False))


def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's annotations; empty if a name in them no longer resolves, such as a local class."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError:
        return {}
    return {name: hint for name, hint in hints.items() if name != "return"}
