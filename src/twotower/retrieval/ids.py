"""`Ids`: finds rows by id without a scan, one at a time or many, whatever type the ids come in."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.errors import DataError
from twotower.retrieval.index import IntArray

FEW = 64
"""Ids that are looked up one by one; of more, a hash table is made."""

CANNOT_CAST = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeError)


class Ids:
    """The ids of a table in ascending order, each with its row.

    Args:
        column: The table's id column: integers or text, each once and none null.
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
        self._ascending: Any = (
            _TextInOrder(self._values, self._order) if self._is_text else self._values.to_numpy()[self._order]
        )

    def __len__(self) -> int:
        return len(self._order)

    def row(self, value: object) -> int | None:
        """Row of an id; None where the table lacks it, or the value cannot be such an id."""
        read = self.read(value)
        if read is None:
            return None
        ascending = self._ascending
        place = int(bisect_left(ascending, read) if self._is_text else np.searchsorted(ascending, read))
        if place == len(ascending) or ascending[place] != read:
            return None
        return int(self._order[place])

    def rows(self, values: Iterable[object]) -> IntArray:
        """Rows of those ids that the table has, ascending and each once.

        Raises:
            DataError: A value cannot be such an id.
        """
        wanted = list(values)
        if len(wanted) > FEW:
            found = pc.is_in(self._values, value_set=self._array(wanted))
            return np.flatnonzero(found.to_numpy(zero_copy_only=False)).astype(np.int64)
        for value in wanted:
            if self.read(value) is None:
                raise self._wrong(value)
        rows = {self.row(value) for value in wanted}
        return np.array(sorted(row for row in rows if row is not None), dtype=np.int64)

    def value(self, row: int) -> int | str:
        """The id of a row."""
        found: int | str = self._values[row].as_py()
        return found

    def values(self, rows: IntArray) -> list[int | str]:
        """The ids of rows, in their order."""
        found: list[int | str] = self._values.take(pa.array(rows)).to_pylist()
        return found

    def read(self, value: object) -> int | str | None:
        """The value in the type of the ids; None where it cannot be read so."""
        if value is None or isinstance(value, bool):
            return None
        if isinstance(value, str) and self._is_text:
            return value if _is_unicode(value) else None
        if isinstance(value, int) and not self._is_text:
            return value if -(2**63) <= value < 2**63 else None
        try:
            read: int | str | None = pa.scalar(value).cast(self.kind).as_py()
        except CANNOT_CAST:
            return None
        return read

    def _array(self, values: list[object]) -> pa.Array:
        try:
            read = pa.array(values)
            if not pa.types.is_boolean(read.type) and not read.null_count:
                return read.cast(self.kind)
        except CANNOT_CAST:
            pass
        one_by_one = [self.read(value) for value in values]
        for value, read in zip(values, one_by_one, strict=True):
            if read is None:
                raise self._wrong(value)
        return pa.array(one_by_one, self.kind)

    def _wrong(self, value: object) -> DataError:
        return DataError(f"{self.name} {value!r} is {type(value).__name__}; expected ids that are {self.kind}")


class _TextInOrder:
    """Text in ascending order, read from the column one value at a time, so that no copy is held."""

    def __init__(self, values: pa.Array, order: IntArray) -> None:
        self.values, self.order = values, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> str:
        text: str = self.values[int(self.order[place])].as_py()
        return text


def _is_unicode(value: str) -> bool:
    return value.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in value)
