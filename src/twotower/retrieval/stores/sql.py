"""Translates conditions into SQL with a placeholder for every value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import pyarrow as pa

from twotower.retrieval.condition_tree import All, Among, Column, Compared, Contains, Either, Missing, Node, Not, lower
from twotower.retrieval.stores.columns import StoredColumn, plain_value

Sql: TypeAlias = tuple[str, list[Any]]
"""SQL text with `%s` for each value, and the values."""


LONGEST_NAME = 63
"""PostgreSQL truncates names that are longer than this many bytes."""


def is_name(name: str) -> bool:
    """Whether a column can have this name, and a statement with placeholders can contain it."""
    return 0 < len(name.encode()) <= LONGEST_NAME and not set("%\0") & set(name)


def quoted(name: str) -> str:
    """A quoted SQL identifier.

    Example:
        >>> quoted('the "best" one')
        '"the ""best"" one"'
    """
    return '"' + name.replace('"', '""') + '"'


def defined(name: str, kind: pa.DataType) -> str:
    """A column definition; text is ordered by code point, as in Arrow.

    Example:
        >>> defined("title", pa.string())
        '"title" text COLLATE "C"'
    """
    kept = sql_type(kind)
    return f"{quoted(name)} {kept}" + (' COLLATE "C"' if kept.startswith("text") else "")


def sql_type(kind: pa.DataType) -> str:
    """PostgreSQL's type for a stored column.

    Example:
        >>> sql_type(pa.list_(pa.string()))
        'text[]'
    """
    if pa.types.is_list(kind):
        return sql_type(kind.value_type) + "[]"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "bigint"
    if pa.types.is_string(kind):
        return "text"
    return "real" if pa.types.is_float32(kind) else "double precision"


def where(node: Node, columns: Mapping[str, StoredColumn]) -> Sql:
    """A condition as PostgreSQL's SQL.

    Text is compared by code point, which is the collation of the table's columns.

    Args:
        node: The condition.
        columns: The stored columns by name.

    Example:
        >>> columns = {"year": StoredColumn("year", "year", pa.int64())}
        >>> where(Compared(Column("year", pa.int64()), "<", pa.scalar(1990)), columns)
        ('"year" < %s::bigint', [1990])
    """
    match node:
        case Missing(column):
            return f"{quoted(columns[column.name].stored)} IS NULL", []
        case Compared(column, sign, value):
            return _compared(quoted(columns[column.name].stored), sign, plain_value(value), column)
        case Among(column, several):
            return _among(quoted(columns[column.name].stored), [plain_value(value) for value in several], column)
        case Contains(column, value):
            return _contains(columns[column.name], plain_value(value))
        case Not(inner):
            text, values = where(inner, columns)
            return f"(NOT {text})", values
        case All(parts):
            return _joined(" AND ", parts, columns)
        case Either(parts):
            return _joined(" OR ", parts, columns)


def _compared(name: str, sign: str, value: Any, column: Column) -> Sql:
    if isinstance(value, str) and "\0" in value:  # PostgreSQL text cannot hold \0, which sorts first
        if sign in ("=", "!="):
            return (_never(name), []) if sign == "=" else (f"(NOT {_never(name)})", [])
        return f"{name} {'<=' if sign in ('<', '<=') else '>'} %s::text", [value.partition("\0")[0]]
    return f"{name} {'<>' if sign == '!=' else sign} %s::{_type(column)}", [value]


def _among(name: str, values: list[Any], column: Column) -> Sql:
    values = [value for value in values if not isinstance(value, str) or "\0" not in value]
    if not values:
        return _never(name), []
    return f"{name} = ANY(%s::{_type(column)}[])", [values]


def _contains(column: StoredColumn, value: Any) -> Sql:
    if isinstance(value, str) and "\0" in value:
        return (f"(CASE WHEN {quoted(column.stored)} IS NULL THEN NULL ELSE FALSE END)", [])
    if column.is_text:
        return f"position(%s::text IN {quoted(column.lower)}) > 0", [lower(value)]
    return f"{quoted(column.stored)} @> ARRAY[%s]::{sql_type(column.kind)}", [value]


def _type(column: Column) -> str:
    """The type of values that are compared with a column; fractions are compared in double precision."""
    if pa.types.is_boolean(column.kind) or pa.types.is_string(column.kind):
        return sql_type(column.kind)
    return "double precision" if pa.types.is_floating(column.kind) else "bigint"


def _never(name: str) -> str:
    """A test that is false for every value, and null if there is none."""
    return f"({name} <> {name})"


def _joined(word: str, parts: tuple[Node, ...], columns: Mapping[str, StoredColumn]) -> Sql:
    texts, values = zip(*(where(part, columns) for part in parts), strict=True)
    return f"({word.join(texts)})", [value for some in values for value in some]
