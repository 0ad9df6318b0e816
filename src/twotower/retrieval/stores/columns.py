"""Maps the catalogue's columns to a store's names and to the few types that all stores have, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.errors import DataError

LOWER = "__lower"
"""Suffix for the lower-case copy of a text column, which `contains` searches."""


@dataclass(frozen=True)
class StoredColumn:
    """A column in a store.

    Attributes:
        name: Its name in the catalogue.
        stored: Its name in the store.
        kind: Its type in the store: text, boolean, int64, float32 or float64, or a list of one of these.
    """

    name: str
    stored: str
    kind: pa.DataType

    @property
    def is_text(self) -> bool:
        """Whether it is text, and so has a lower-case copy."""
        return bool(pa.types.is_string(self.kind))

    @property
    def lower(self) -> str:
        """The name of its lower-case copy."""
        return self.stored + LOWER


def stored_kind(kind: pa.DataType) -> pa.DataType | None:
    """A type as stored: times and durations become integers in their unit; None if the type cannot be stored.

    Example:
        >>> stored_kind(pa.list_(pa.date32())), stored_kind(pa.binary())
        (ListType(list<item: int64>), None)
    """
    types = pa.types
    if types.is_list(kind):
        inner = stored_kind(kind.value_type)
        return None if inner is None or types.is_nested(inner) else pa.list_(inner)
    if types.is_integer(kind) or types.is_temporal(kind):
        return pa.int64()
    if types.is_boolean(kind) or types.is_floating(kind) or types.is_string(kind):
        return kind
    return None


def stored_columns(schema: pa.Schema, is_name: Callable[[str], bool]) -> list[StoredColumn]:
    """The catalogue columns that a store holds; columns of other types remain only in the bundle.

    Args:
        schema: The catalogue's schema.
        is_name: Whether the store accepts a column name; other columns are called `column_0`, `column_1` and so on.
    """
    found = []
    for place, column in enumerate(schema):
        kind = stored_kind(column.type)
        if kind is not None:
            usable = is_name(column.name + LOWER) and is_name(column.name) and not column.name.endswith(LOWER)
            usable = usable and not column.name.lower().startswith("column_")
            found.append(StoredColumn(column.name, column.name if usable else f"column_{place}", kind))
    return found


def kept_schema(schema: pa.Schema) -> pa.Schema:
    """The part of a catalogue's schema that a store holds."""
    return pa.schema([column for column in schema if stored_kind(column.type) is not None])


def to_stored(table: pa.Table, columns: list[StoredColumn]) -> pa.Table:
    """The table in a store's names and types, with a lower-case copy of each text column.

    Raises:
        DataError: A number is not finite, or an integer has more than 64 bits.
    """
    names, values = [], []
    for column in columns:
        own = _plain(table[column.name].combine_chunks(), column)
        names.append(column.stored)
        values.append(own)
        if column.is_text:
            names.append(column.lower)
            values.append(pc.utf8_lower(own))
    return pa.Table.from_arrays(values, names)


def from_stored(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column returned by a store, converted to the catalogue's type."""
    if values.type == kind:
        return values
    if pa.types.is_list(kind):
        return _of_lists(values, from_stored(values.flatten(), kind.value_type), kind)
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        return values.cast(pa.int32()).cast(kind)
    return values.cast(kind)


def _plain(values: pa.Array, column: StoredColumn) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    inner = values.flatten() if pa.types.is_list(values.type) else values
    if pa.types.is_floating(inner.type) and not pc.all(pc.is_finite(inner).fill_null(True), min_count=0).as_py():
        raise DataError(
            f"column {column.name!r} has a number that is not finite; a store holds finite numbers and nulls",
            column=column.name,
        )
    if values.type == column.kind:
        return values
    try:
        if pa.types.is_list(values.type):
            return _of_lists(values, _integers(inner), column.kind)
        return _integers(values)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"column {column.name!r}: {error}; a store holds 64-bit integers", column=column.name
        ) from error


def _integers(values: pa.Array) -> pa.Array:
    narrow = pa.types.is_date32(values.type) or pa.types.is_time32(values.type)
    return (values.cast(pa.int32()) if narrow else values).cast(pa.int64())


def _of_lists(lists: pa.Array, values: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same lists with other values."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values, type=kind, mask=lists.is_null())


def plain_value(value: pa.Scalar) -> bool | int | float | str:
    """A condition's constant as a plain value in the store's type.

    Example:
        >>> plain_value(pa.scalar("1970-01-03").cast(pa.date32())), plain_value(pa.scalar("tea"))
        (2, 'tea')
    """
    found: bool | int | float | str
    found = (_integers(pa.array([value.as_py()], value.type))[0] if pa.types.is_temporal(value.type) else value).as_py()
    return found
