"""Arguments checked against their annotations: a wrong type is refused where it is given."""

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

LONGEST_SHOWN = 200
"""Characters of a value that an error shows."""


class Follows:
    """In an annotation: an object of one's own that follows this protocol is accepted as well.

    Args:
        protocol: A runtime-checkable protocol.
    """

    def __init__(self, protocol: type) -> None:
        self.protocol = protocol


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A struct whose fields are checked however it is made; msgspec alone checks what it decodes.

    A subclass checks ranges in `check`, which sees values of the annotated types.

    Raises:
        ConfigError: A field has a value of another type, or a number that is not finite.

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
        """Refuses what is out of range; default: nothing is."""


def checks_arguments(function: Callable[P, R], owner: str | None = None) -> Callable[P, R]:
    """Checks what a function is called with against its annotations; arguments without one are taken as they are.

    Args:
        function: The function, or the `__init__` of a class.
        owner: What errors call it; default: its class, or its own name.

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
            hints = _hints_of(function)  # now, as names may be defined after the function
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in hints and signature.parameters[name].kind not in _VARIADIC:
                bound.arguments[name] = checked(name_in_errors, name, value, hints[name])
        return function(*bound.args, **bound.kwargs)

    return checking


def checked(owner: str, name: str, value: Any, hint: Any) -> Any:
    """A value as its annotation says: whole numbers become floats, lists tuples, NumPy's scalars Python's.

    Raises:
        ConfigError: It is of another type, or a number that is not finite.
    """
    try:
        return _as(value, hint)
    except _MismatchError:
        raise ConfigError(f"{owner}: {name}={shortened(value)}; expected {described(hint)}") from None


def refuse_below(least: float, owner: str, **numbers: float) -> None:
    """Refuses numbers below the least that they may be.

    Raises:
        ConfigError: One is; the message names it.
    """
    for name, number in numbers.items():
        if number < least:
            raise ConfigError(f"{owner}: {name}={number}; expected at least {least:g}", field=name)


def refuse_nameless(owner: str, **columns: str | Sequence[str] | None) -> None:
    """Refuses names of columns that are empty, or nothing but spaces.

    Raises:
        ConfigError: One is; the message names the argument.
    """
    for name, given in columns.items():
        names = [given] if isinstance(given, str) else given or ()
        if not all(column.strip() for column in names):
            raise ConfigError(f"{owner}: {name}={given!r}; expected the name of a column", field=name)


def described(hint: Any) -> str:
    """What an annotation accepts, in words.

    Example:
        >>> described(tuple[int, ...] | None)
        'a sequence, each a whole number, or None'
    """
    hint, protocols = _unwrapped(hint)
    if _is_union(hint):
        options = [described(member) for member in get_args(hint)]
        options += [f"what follows the protocol {protocol.__name__}" for protocol in protocols]
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
    """A value as an error shows it: not all of a table."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


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
    """A value is not of an annotation's type."""


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
        return value  # nothing that can be looked at, such as a type variable
    is_class = getattr(kind, "_is_protocol", False) and isinstance(value, type)  # which has its methods, unbound
    return _require(value, isinstance(value, kind) and not is_class)


def _as_one_of(value: Any, members: Sequence[Any]) -> Any:
    for member in members:
        try:
            return _as(value, member)
        except _MismatchError:
            continue
    raise _MismatchError


def _as_sequence(value: Any, origin: Any, args: Sequence[Any]) -> Any:
    """A list or tuple, as it is where its members are; neither text nor a mapping is a sequence here."""
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
    """An annotation without its `Annotated`, and the protocols that are accepted beside it."""
    if get_origin(hint) is not Annotated:
        return hint, []
    inner, *extras = get_args(hint)
    return inner, [extra.protocol for extra in extras if isinstance(extra, Follows)]


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _is_runtime(protocol: type) -> bool:
    return bool(getattr(protocol, "_is_runtime_protocol", False))


def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's annotations; none where one names what cannot be found any more, such as a local class."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError:
        return {}
    return {name: hint for name, hint in hints.items() if name != "return"}
