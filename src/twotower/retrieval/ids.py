"""`Ids`: looks up rows by id without a scan, one or many at a time, for ids of any type."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from numbers import Integral
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.errors import DataError
from twotower.retrieval.index import IntArray

LINEAR_SCAN_LIMIT = 64
"""Look up at most this many ids one by one; for more, build a hash table."""

CANNOT_CAST = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeError)


class Ids:
    """The ids of a table in ascending order, each with its row.

    Args:
        column: The table's id column: integers or text, unique and without nulls.
        name: Its name, for errors.

    Example:
        >>> ids = Ids(pa.chunked_array([["tea", "rum", "gin"]]), "drink")
        >>> ids.row("rum"), ids.row("ale"), ids.rows(["ale", "gin", "tea"]).tolist()
        (1, None, [0, 2])
    """

    def __init__(self, column: pa.ChunkedArray, name: str) -> None:
        self.name, self.kind = name, column.type
        self._values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        self._order = pc.array_sort_indices(self._values).to_numpy().astype(np.int64)
        self._is_text = not pa.types.is_integer(self.kind)
        self._range = range(0) if self._is_text else _range_of(self.kind)
        self._ascending: Any = (
            _TextInOrder(self._values, self._order) if self._is_text else self._values.to_numpy()[self._order]
        )

    def __len__(self) -> int:
        return len(self._order)

    def row(self, value: object) -> int | None:
        """Row of an id; None if the table lacks it. Among integer ids, non-numeric text counts as such an unknown id.

        Raises:
            DataError: The value cannot be an id; see `plain_id`.
        """
        read = self.read(value)
        if read is None:
            if isinstance(value, str) and _is_unicode(value):
                return None
            raise self._wrong(value)
        ascending = self._ascending
        place = bisect_left(ascending, read)
        if place == len(ascending) or ascending[place] != read:
            return None
        return int(self._order[place])

    def rows(self, values: Iterable[object]) -> IntArray:
        """Rows of these ids, ascending and without repeats; ids that the table lacks are ignored.

        Raises:
            DataError: A value cannot be such an id, or `values` is not a list.
        """
        wanted = self.listed(values)
        if len(wanted) > LINEAR_SCAN_LIMIT:
            found = pc.is_in(self._values, value_set=self._array(wanted))
            return np.flatnonzero(found.to_numpy(zero_copy_only=False)).astype(np.int64)
        rows = {self.row(self.required(value)) for value in wanted}
        return np.array(sorted(row for row in rows if row is not None), dtype=np.int64)

    def listed(self, values: Iterable[object]) -> list[object]:
        """The values as a list.

        Raises:
            DataError: It is a single value or a mapping.
        """
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise DataError(f"{values!r} is {type(values).__name__}; expected a list of {self.name} ids")
        return list(values)

    def value(self, row: int) -> int | str:
        """The id of a row."""
        found: int | str = self._values[row].as_py()
        return found

    def values(self, rows: IntArray) -> list[int | str]:
        """The ids of rows, in their order."""
        found: list[int | str] = self._values.take(pa.array(rows)).to_pylist()
        return found

    def read(self, value: object) -> int | str | None:
        """The value in the type of the ids; None if it cannot be converted."""
        plain = plain_id(value)
        if isinstance(plain, int) and not self._is_text:
            return plain if plain in self._range else None
        if plain is None or (self._is_text and isinstance(plain, str)):
            return plain
        try:
            read: int | str = pa.scalar(str(plain)).cast(self.kind).as_py()
        except CANNOT_CAST:
            return None
        return read

    def required(self, value: object) -> int | str:
        """The value in the type of the ids.

        Raises:
            DataError: It cannot be converted.
        """
        read = self.read(value)
        if read is None:
            raise self._wrong(value)
        return read

    def _array(self, values: list[object]) -> pa.Array:
        if not {bool, np.bool_} & set(map(type, values)):  # Arrow would accept a Boolean as an integer
            with suppress(*CANNOT_CAST, ValueError):
                read = pa.array(values)
                if not read.null_count and (pa.types.is_integer(read.type) or pa.types.is_string(read.type)):
                    return read.cast(self.kind)
        return pa.array([self.required(value) for value in values], self.kind)

    def _wrong(self, value: object) -> DataError:
        kind = "text" if self._is_text else f"a whole number ({self.kind})"
        return DataError(f"{self.name} {value!r} is {type(value).__name__}; expected an id, which is {kind}")


def plain_id(value: object) -> int | str | None:
    """An id as a Python `int` or `str`; None if it is neither text nor a whole number.

    Example:
        >>> plain_id(np.int64(7)), plain_id(7.0), plain_id("seven"), plain_id(True), plain_id(7.5)
        (7, 7, 'seven', None, None)
    """
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    if isinstance(value, str):
        return value if _is_unicode(value) else None
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float | np.floating | Decimal) and np.isfinite(float(value)) and value == int(value):
        return int(value)
    return None


def _range_of(kind: pa.DataType) -> range:
    """The integers that a type holds."""
    limits = np.iinfo(kind.to_pandas_dtype())
    return range(limits.min, limits.max + 1)


class _TextInOrder:
    """Text in ascending order, read from the column one value at a time instead of copied."""

    def __init__(self, values: pa.Array, order: IntArray) -> None:
        self.values, self.order = values, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> str:
        text: str = self.values[int(self.order[place])].as_py()
        return text


def _is_unicode(value: str) -> bool:
    return value.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in value)
