"""Conditions in Milvus's expressions.

Milvus does not promise what a test of a missing value is within `not`, and has no parameters on every version. So the
expression says for each test that the value is there, negations are carried into the tests, and values are written as
literals, each sign that could end one escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from twotower.retrieval.condition_tree import (
    COMPARISONS,
    OPPOSITES,
    All,
    Among,
    Compared,
    Contains,
    Either,
    Missing,
    Node,
    Not,
    lower,
)
from twotower.retrieval.stores.columns import StoredColumn, plain_value

LOWEST = -(1 << 63)
"""The lowest integer, whose literal would be the negation of one that is none."""

WILD = {sign: chr(0xFDD0 + place) for place, sign in enumerate("%_\\\"'\n\r\t\0")}
"""Signs with a meaning in a pattern or a literal, and what stands for each in the lower-case twin: no characters."""

TAME = str.maketrans(WILD | {stand_in: sign for sign, stand_in in WILD.items()})
STAND_INS = frozenset(WILD.values())


def tamed(text: str) -> str:
    """A lower-case text in which signs with a meaning in a pattern have changed places with what no text has."""
    return text.translate(TAME)


def expression(node: Node, columns: Mapping[str, StoredColumn], key: str, is_true: bool = True) -> str:
    """A condition as Milvus reads it.

    Args:
        node: The condition.
        columns: The stored columns by name.
        key: The stored name of the primary key, which is never missing.
        is_true: Whether it has to be true; else, to be false.

    Example:
        >>> import pyarrow as pa
        >>> columns = {"year": StoredColumn("year", "year", pa.int64())}
        >>> from twotower.retrieval.condition_tree import Column
        >>> expression(Not(Compared(Column("year", pa.int64()), "<", pa.scalar(1990))), columns, "id")
        '(year is not null and year >= 1990)'
    """
    match node:
        case Not(inner):
            return expression(inner, columns, key, not is_true)
        case All(parts) | Either(parts):
            word = " and " if isinstance(node, All) == is_true else " or "
            return "(" + word.join(expression(part, columns, key, is_true) for part in parts) + ")"
        case Missing(column):
            name = columns[column.name].stored
            if name == key:
                return _never(key) if is_true else _always(key)
            return f"{name} is null" if is_true else f"{name} is not null"
        case Compared(column, sign, value):
            name = columns[column.name].stored
            return _there(name, key, _compared(name, sign if is_true else OPPOSITES[sign], plain_value(value), key))
        case Among(column, values):
            name = columns[column.name].stored
            return _there(name, key, among(name, [plain_value(value) for value in values], is_true))
        case Contains(column, value):
            return _there(
                columns[column.name].stored, key, _contains(columns[column.name], plain_value(value), is_true, key)
            )


def among(name: str, values: Sequence[bool | int | float | str], is_true: bool = True) -> str:
    """A test for some values.

    Example:
        >>> among("id", ["a", "b"], False)
        'id not in ["a", "b"]'
    """
    finite = [value for value in values if not isinstance(value, float) or math.isfinite(value)]
    return f"{name} {'in' if is_true else 'not in'} [{', '.join(map(literal, finite))}]"


def literal(value: bool | int | float | str) -> str:
    """A value as Milvus reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + '"'
    return repr(float(value) if isinstance(value, float) else int(value))


def _compared(name: str, sign: str, value: bool | int | float | str, key: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return _always(key) if COMPARISONS[sign](0.0, value) else _never(key)
    if value == LOWEST and not isinstance(value, float):
        if sign in ("<", ">="):
            return _never(key) if sign == "<" else _always(key)
        return f"{name} {'<' if sign in ('=', '<=') else '>='} {LOWEST + 1}"
    return f"{name} {'==' if sign == '=' else sign} {literal(value)}"


def _contains(column: StoredColumn, value: bool | int | float | str, is_true: bool, key: str) -> str:
    if not column.is_text:
        test = f"array_contains_any({column.stored}, [{literal(value)}])"  # of a list, numbers may be negative
    elif value == "":
        return _always(key) if is_true else _never(key)
    elif STAND_INS & set(str(value)):
        return _never(key) if is_true else _always(key)
    else:
        test = f'{column.lower} like "%{tamed(lower(str(value)))}%"'
    return test if is_true else f"not ({test})"


def _there(name: str, key: str, test: str) -> str:
    return test if name == key else f"({name} is not null and {test})"


def _never(key: str) -> str:
    return f"{key} in []"


def _always(key: str) -> str:
    return f"{key} not in []"
