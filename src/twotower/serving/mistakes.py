"""Messages about bodies and parameters that do not fit their struct: the field, what it is and what was expected."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from typing import Any

import msgspec

from twotower.arguments import MAX_SHOWN_CHARACTERS
from twotower.errors import unknown_among
from twotower.serving.messages import Value
from twotower.serving.refusals import Refusal

EXPECTED = {
    "array": "a list",
    "object": "an object",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "null": "null",
}
"""msgspec's names of types, in JSON's terms."""

QUERY = "an object with the query's columns"

WHERE = re.compile(r" - at `(?:key in )?\$(?P<path>[^`]*)`$")
UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
MISSING = re.compile(r"Object missing required field `(.*)`")
WRONG_TYPE = re.compile(r"Expected `(.*)`, got `.*`")
LIMIT = re.compile(r"Expected `(\w+)` (of length )?(>=|<=) (\S+)")

Place = list[str | int]
"""The path to a value: names of fields, and positions in lists."""


def invalid(error: msgspec.ValidationError, values: Any, kind: type) -> Refusal:
    """The refusal for values that do not fit their struct.

    Args:
        error: Why they do not.
        values: The values as plain objects.
        kind: The struct.

    Example:
        >>> class Body(msgspec.Struct):
        ...     k: int
        >>> try:
        ...     msgspec.convert({"k": "ten"}, Body)
        ... except msgspec.ValidationError as error:
        ...     found = invalid(error, {"k": "ten"}, Body)
        ...     print(found.field, "|", found.message)
        k | k is "ten"; expected a whole number
    """
    found = WHERE.search(str(error))
    what = str(error) if found is None else str(error)[: found.start()]
    place = _place(found["path"] if found else "", values)
    message = _message(what, place, _value_at(values, place), kind)
    named = UNKNOWN.fullmatch(what) or MISSING.fullmatch(what)
    return Refusal(400, "invalid", message, _field([*place, named[1]] if named else place) or None)


def _message(what: str, place: Place, value: Any, kind: type) -> str:
    """The message for a mistake at a place."""
    field = _field(place)
    shown = f"{field or 'the body'} is {_shown(value)}"
    if unknown := UNKNOWN.fullmatch(what):
        known = _fields_at(kind, place)
        expected = unknown_among(unknown[1], known) if known else "; expected none"
        return f"unknown field {unknown[1]!r}{f' in {field}' if field else ''}{expected}"
    if missing := MISSING.fullmatch(what):
        return f"{_field([*place, missing[1]])} is missing; expected it in {field or 'the body'}"
    if wrong := WRONG_TYPE.fullmatch(what):
        is_query = place[:1] in (["query"], ["queries"]) and wrong[1] == "object"
        expected = QUERY if is_query else _joined([EXPECTED.get(one, one) for one in wrong[1].split(" | ")])
        return f"{shown}; expected {expected}"
    if limit := LIMIT.fullmatch(what):
        bound = f"at {'least' if limit[3] == '>=' else 'most'} {float(limit[4]):g}"
        if limit[2]:
            unit = "characters" if limit[1] == "str" else "items"
            return f"{field} has {len(value)} {unit}; expected {bound}"
        return f"{shown}; expected {EXPECTED[limit[1]]}, {bound}"
    if choices := _choices_at(kind, place):
        return f"{shown}; expected {_joined([_shown(choice) for choice in choices])}"
    return f"{shown}: {what[:1].lower()}{what[1:]}"


def _place(path: str, values: Any) -> Place:
    """The place that msgspec's path names; a key of a dictionary, which it does not name, is looked up."""
    place: Place = []
    for name, position in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path):
        if name:
            place.append(name)
        elif position != "...":
            place.append(int(position))
        else:
            place += [key for key, value in _value_at(values, place).items() if not _is_value(value)][:1]
    return place


def _is_value(value: Any) -> bool:
    try:
        msgspec.convert(value, Value)
    except msgspec.ValidationError:
        return False
    return True


def _value_at(values: Any, place: Place) -> Any:
    for step in place:
        values = values[step]
    return values


def _field(place: Place) -> str:
    """A place as text: `queries[3].age`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")


def _shown(value: Any) -> str:
    """A value as JSON, cut if long."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}…"


def _joined(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _hint_at(kind: Any, place: Place) -> Any:
    """The annotation of the value at a place, as far as structs define it."""
    for step in place:
        structs = [one for one in _members(kind) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
        kind = typing.get_type_hints(structs[0]).get(str(step)) if structs else None
    return kind


def _members(kind: Any) -> tuple[Any, ...]:
    """The members of a union."""
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


def _fields_at(kind: Any, place: Place) -> list[str]:
    hints = _members(_hint_at(kind, place))
    return [name for one in hints for name in getattr(one, "__struct_fields__", ())]


def _choices_at(kind: Any, place: Place) -> list[Any]:
    hints = _members(_hint_at(kind, place))
    return [choice for one in hints if typing.get_origin(one) is typing.Literal for choice in typing.get_args(one)]
