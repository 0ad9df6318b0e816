"""How a store keeps the candidates' columns: their names there, the few types that all stores have, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.errors import DataError

LOWER = "__lower"
"""What the name of a text's lower-case twin ends with, in which `contains` looks."""


@dataclass(frozen=True)
class StoredColumn:
    """A column as a store keeps it.

    Attributes:
        name: Its name in the catalogue.
        stored: Its name in the store.
        kind: The type that the store keeps: text, boolean, int64, float32 or float64, or a list of one of these.
    """

    name: str
    stored: str
    kind: pa.DataType

    @property
    def is_text(self) -> bool:
        """Whether it has a lower-case twin."""
        return bool(pa.types.is_string(self.kind))

    @property
    def lower(self) -> str:
        """The name of its lower-case twin."""
        return self.stored + LOWER


def stored_kind(kind: pa.DataType) -> pa.DataType | None:
    """What a store keeps of a type: moments and durations are integers in their own unit; None where it keeps nothing.

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
    """The columns of a catalogue that a store keeps; those of other types stay in the bundle alone.

    Args:
        schema: The catalogue's.
        is_name: Whether a store can give a column this name; others are called `column_0`, `column_1` and so on.
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
    """The columns of a catalogue that a store keeps."""
    return pa.schema([column for column in schema if stored_kind(column.type) is not None])


def to_stored(table: pa.Table, columns: list[StoredColumn]) -> pa.Table:
    """The table as a store keeps it, under the store's names, each text with its lower-case twin.

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
    """A column that a store gave back, in the catalogue's type."""
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
            f"column {column.name!r} has a number that is not finite; a store keeps finite numbers and nulls",
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
            f"column {column.name!r}: {error}; a store keeps 64-bit integers", column=column.name
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
    """What a condition compares with, as a store keeps it.

    Example:
        >>> plain_value(pa.scalar("1970-01-03").cast(pa.date32())), plain_value(pa.scalar("tea"))
        (2, 'tea')
    """
    found: bool | int | float | str
    found = (_integers(pa.array([value.as_py()], value.type))[0] if pa.types.is_temporal(value.type) else value).as_py()
    return found
