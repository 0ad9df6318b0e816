"""Translates conditions into Milvus expressions.

Milvus does not define the result of a test of a missing value within `not`, and not every version supports parameters.
So every test also requires that the value is present, negations are pushed down into the tests, and values are written
as literals with every character escaped that could end one.
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
"""The lowest integer; its literal would be the negation of a number that is out of range."""

STAND_IN_OF = {sign: chr(0xFDD0 + place) for place, sign in enumerate("%_\\\"'\n\r\t\0")}
"""Characters with a meaning in a pattern or literal, and their stand-ins in the lower-case copy: Unicode
noncharacters."""

MASK = str.maketrans(STAND_IN_OF | {stand_in: sign for sign, stand_in in STAND_IN_OF.items()})
STAND_INS = frozenset(STAND_IN_OF.values())


def masked(text: str) -> str:
    """A lower-case text in which characters with a meaning in a pattern are swapped with their stand-ins."""
    return text.translate(MASK)


def expression(node: Node, columns: Mapping[str, StoredColumn], key: str, is_true: bool = True) -> str:
    """A condition as a Milvus expression.

    Args:
        node: The condition.
        columns: The stored columns by name.
        key: The stored name of the primary key, which is never missing.
        is_true: Whether to match if the condition is true; otherwise, match if it is false.

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
            return _present(name, key, _compared(name, sign if is_true else OPPOSITES[sign], plain_value(value), key))
        case Among(column, values):
            name = columns[column.name].stored
            return _present(name, key, among(name, [plain_value(value) for value in values], is_true))
        case Contains(column, value):
            return _present(
                columns[column.name].stored, key, _contains(columns[column.name], plain_value(value), is_true, key)
            )


def among(name: str, values: Sequence[bool | int | float | str], is_true: bool = True) -> str:
    """A test whether a column has one of several values, or none of them.

    Example:
        >>> among("id", ["a", "b"], False)
        'id not in ["a", "b"]'
    """
    finite = [value for value in values if not isinstance(value, float) or math.isfinite(value)]
    return f"{name} {'in' if is_true else 'not in'} [{', '.join(map(literal, finite))}]"


def literal(value: bool | int | float | str) -> str:
    """A value as a Milvus literal."""
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
        test = f"array_contains_any({column.stored}, [{literal(value)}])"  # a list literal may hold negative numbers
    elif value == "":
        return _always(key) if is_true else _never(key)
    elif STAND_INS & set(str(value)):
        return _never(key) if is_true else _always(key)
    else:
        test = f'{column.lower} like "%{masked(lower(str(value)))}%"'
    return test if is_true else f"not ({test})"


def _present(name: str, key: str, test: str) -> str:
    return test if name == key else f"({name} is not null and {test})"


def _never(key: str) -> str:
    return f"{key} in []"


def _always(key: str) -> str:
    return f"{key} not in []"
