"""The syntax tree of a condition, and its translation into an Arrow expression.

Every store translates this same tree into its own query language. A test of a missing value is neither true nor false.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

OPPOSITES = {"=": "!=", "!=": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
"""The negation of each comparison."""


@dataclass(frozen=True)
class Column:
    """A column that a test reads.

    Attributes:
        name: Its name.
        kind: The type of its values or, for a list column, of the elements.
        has_lists: Whether its values are lists.
    """

    name: str
    kind: pa.DataType
    has_lists: bool = False


@dataclass(frozen=True)
class Missing:
    """Whether a column has no value."""

    column: Column


@dataclass(frozen=True)
class Compared:
    """Whether a column's value compares as stated with a constant.

    Attributes:
        column: The column.
        sign: One of `COMPARISONS`.
        value: The constant.
    """

    column: Column
    sign: str
    value: pa.Scalar


@dataclass(frozen=True)
class Among:
    """Whether a column's value is one of several; `values` may be empty."""

    column: Column
    values: tuple[pa.Scalar, ...]


@dataclass(frozen=True)
class Contains:
    """Whether a list has an element, or a text contains a substring, ignoring case."""

    column: Column
    value: pa.Scalar


@dataclass(frozen=True)
class Not:
    """Whether a test is false."""

    inner: Node


@dataclass(frozen=True)
class All:
    """Whether all parts are true; there is at least one."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """Whether one of the parts is true; there is at least one."""

    parts: tuple[Node, ...]


Node: TypeAlias = Missing | Compared | Among | Contains | Not | All | Either


@dataclass(frozen=True)
class Contained:
    """A test whether a list has an element; its result becomes a separate column, `name`."""

    name: str
    column: str
    value: pa.Scalar

    def of(self, table: pa.Table) -> pa.Array:
        """Whether each row's list has the element; null where the list is null."""
        lists = table[self.column].combine_chunks()
        hit = pc.equal(lists.flatten(), self.value).fill_null(False).to_numpy(zero_copy_only=False)
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()  # `flatten` skips null lists
        parents = np.repeat(np.arange(len(lists)), lengths)
        found = np.zeros(len(lists), dtype=bool)
        found[parents[hit]] = True
        return pa.array(found, mask=lists.is_null().to_numpy(zero_copy_only=False))


def compared(column: Column, sign: str, value: pa.Scalar) -> Node:
    """A comparison; an integer column compared with a fraction or an out-of-range number is rewritten with an integer.

    No store then has to compare numbers of two types.

    Example:
        >>> year = Column("year", pa.int16())
        >>> compared(year, "<", pa.scalar(1990.5)).sign, compared(year, "<", pa.scalar(1990.5)).value.as_py()
        ('<=', 1990)
        >>> compared(year, "=", pa.scalar(1990.5)) == Among(year, ())
        True
    """
    if not pa.types.is_integer(column.kind) or pa.types.is_integer(value.type):
        return Compared(column, sign, value)
    lowest, highest = _range(column.kind)
    number = value.as_py()
    number = Fraction(number) if math.isfinite(number) else math.copysign(1, number) * 10**30  # beyond all integers
    never = Among(column, ())
    if sign in ("=", "!="):
        is_held = number == int(number) and lowest <= number <= highest
        node = Compared(column, "=", pa.scalar(int(number), column.kind)) if is_held else never
        return Not(node) if sign == "!=" else node
    if sign in (">", ">="):
        return Not(compared(column, "<=" if sign == ">" else "<", value))
    most = math.floor(number) if sign == "<=" else math.ceil(number) - 1
    if most >= highest:
        return Not(never)
    return never if most < lowest else Compared(column, "<=", pa.scalar(most, column.kind))


def among(column: Column, values: Sequence[pa.Scalar]) -> Among:
    """A test for several values; an integer column drops the values that it cannot hold."""
    tests = [compared(column, "=", value) for value in values]
    return Among(column, tuple(test.value for test in tests if isinstance(test, Compared)))


def _range(kind: pa.DataType) -> tuple[int, int]:
    """The lowest and the highest integer of a type."""
    signed = pa.types.is_signed_integer(kind)
    return (-(1 << kind.bit_width - 1), (1 << kind.bit_width - 1) - 1) if signed else (0, (1 << kind.bit_width) - 1)


@dataclass
class ArrowWords:
    """Translates a tree into an Arrow expression.

    Attributes:
        schema: Schema of the tables.
        contained: Tests of lists met so far; Arrow has no expression for these.
    """

    schema: pa.Schema
    contained: list[Contained] = field(default_factory=list)

    def expression(self, node: Node) -> pc.Expression:
        """The node as an expression over the table's columns and those of `contained`."""
        match node:
            case Missing(column):
                return pc.field(column.name).is_null()
            case Compared(column, sign, value):
                return COMPARISONS[sign](self._field(column), value)
            case Among(column, ()):
                return self._field(column) != self._field(column)
            case Among(column, values):
                own = self._field(column)
                return _joined(operator.or_, [own == value for value in values])
            case Contains(column, value) if column.has_lists:
                test = Contained(f" list {len(self.contained)}", column.name, value)
                self.contained.append(test)
                return pc.field(test.name)
            case Contains(column, value):
                return pc.match_substring(pc.utf8_lower(self._field(column)), lower(value.as_py()))
            case Not(inner):
                return ~self.expression(inner)
            case All(parts):
                return _joined(operator.and_, [self.expression(part) for part in parts])
            case Either(parts):
                return _joined(operator.or_, [self.expression(part) for part in parts])

    def _field(self, column: Column) -> pc.Expression:
        own = pc.field(column.name)
        return own.cast(column.kind) if pa.types.is_dictionary(self.schema.field(column.name).type) else own


def lower(text: str) -> str:
    """A text in lower case, the same in all stores.

    Example:
        >>> lower("Straße ÉTÉ")
        'straße été'
    """
    lowered: str = pc.utf8_lower(pa.scalar(text, pa.string())).as_py()
    return lowered


def _joined(join: Callable[[Any, Any], Any], parts: Sequence[pc.Expression]) -> pc.Expression:
    """The parts joined as a balanced tree, so that many parts do not make a deep expression."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return join(_joined(join, parts[:half]), _joined(join, parts[half:]))
