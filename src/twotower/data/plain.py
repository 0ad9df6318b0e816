"""Plain types: converts the various Arrow types that libraries use for the same values to one type each, on input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.errors import DataError, DataWarning, warn

PIECE_BYTES = 1 << 30
"""Larger arrays are split in half before conversion, since a plain text array holds at most 2 GiB."""


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The plain type of a column.

    Dictionaries and run-end encodings become the type of their values; views and large offsets become plain text and
    lists; decimals become integers if they have no fraction, else floats; half floats become floats; and extension
    types become their storage type.

    Example:
        >>> plain_type(pa.large_list(pa.dictionary(pa.uint32(), pa.string_view())))
        ListType(list<item: string>)
    """
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_decimal(kind):
        return pa.float64() if kind.scale > 0 else pa.int64()
    if types.is_float16(kind):
        return pa.float32()
    if _is_list(kind):  # if all lists are empty, their values have the null type
        return pa.list_(pa.string() if types.is_null(kind.value_type) else plain_type(kind.value_type))
    if types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type), kind.list_size)
    if types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    return kind


def plain_schema(schema: pa.Schema, which: str = "table") -> pa.Schema:
    """The schema in plain types, nullable, without metadata and without an unnamed pandas index.

    Args:
        schema: The schema.
        which: Name of the table in warnings.

    Warns:
        DataWarning: The unnamed index holds text, times or anything else but integers, which are taken for row numbers.
    """
    for field in schema:
        if _is_row_number(field.name) and not pa.types.is_integer(field.type):
            warn(
                f"{which}: the index of the pandas table holds {plain_type(field.type)}, but has no name, so it is "
                f"left out; name it with table.rename_axis(…) to have it read as a column",
                DataWarning,
            )
    fields = (pa.field(field.name, plain_type(field.type)) for field in schema if not _is_row_number(field.name))
    return pa.schema(list(fields))


def plain_table(table: pa.Table, which: str = "table") -> pa.Table:
    """The table in plain types, with one chunk per column where that fits; see `plain_schema`.

    Args:
        table: The table; column names must be unique.
        which: Name of the table in errors.

    Raises:
        DataError: A column name is repeated or empty, or a value does not fit the plain type.
    """
    schema = plain_schema(table.schema, which)
    _refuse_twins(schema.names, which)
    _refuse_nameless(schema.names, which)
    columns = [plain_column(table[field.name], field.name, which) for field in schema]
    if not columns:
        return table.select([])
    return pa.table(columns, schema=schema).combine_chunks()


def plain_column(column: pa.ChunkedArray, name: str, which: str = "table") -> pa.ChunkedArray:
    """A column in its plain type; see `plain_type`.

    Raises:
        DataError: A value does not fit the plain type, such as a decimal of more than 64 bits.

    Example:
        >>> plain_column(pa.chunked_array([["a", "b", "a"]]).dictionary_encode(), "letter").type
        DataType(string)
    """
    kind = plain_type(column.type)
    if kind == column.type:
        return column
    try:
        pieces = [_converted(piece, kind) for chunk in column.chunks for piece in _pieces(chunk)]
    except pa.ArrowInvalid as error:
        raise DataError(f"{which}, column {name!r}: {error}; expected values that fit {kind}") from error
    return pa.chunked_array(pieces, kind)


def _pieces(array: pa.Array) -> Iterator[pa.Array]:
    if array.nbytes <= PIECE_BYTES or len(array) < 2:
        yield array
        return
    half = len(array) // 2
    yield from _pieces(array.slice(0, half))
    yield from _pieces(array.slice(half))


def _converted(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Converts an array to a plain type; Arrow's own cast supports neither dictionaries nor lists of views."""
    own = array.type
    if own == kind:
        return array
    if pa.types.is_run_end_encoded(own):
        return _converted(pc.run_end_decode(array), kind)
    if pa.types.is_dictionary(own):
        return _converted(array.dictionary, kind).take(array.indices)
    if isinstance(own, pa.BaseExtensionType):
        return _converted(array.storage, kind)
    if _is_list(own):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        values = _converted(array.flatten(), kind.value_type)
        return pa.ListArray.from_arrays(offsets, values, type=kind, mask=array.is_null())
    if pa.types.is_struct(own) and own.num_fields:
        parts = [_converted(part, field.type) for part, field in zip(array.flatten(), kind, strict=True)]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=array.is_null())
    return array.cast(kind)


def _is_list(kind: pa.DataType) -> bool:
    """Whether it is a list type of variable length."""
    types = pa.types
    checks = (types.is_list, types.is_large_list, types.is_list_view, types.is_large_list_view)
    return any(check(kind) for check in checks)


def _is_row_number(name: str) -> bool:
    """Whether the column is an unnamed pandas index, as filtered data frames have."""
    return name.startswith("__index_level_") and name.endswith("__")


def _refuse_twins(names: list[str], which: str) -> None:
    for name in names:
        if (count := names.count(name)) > 1:
            found = ", ".join(map(repr, names))
            raise DataError(f"{which}: column {name!r} appears {count} times; expected it once, found {found}")


def _refuse_nameless(names: list[str], which: str) -> None:
    for place, name in enumerate(names, 1):
        if not name.strip():
            raise DataError(f"{which}: column {place} of {len(names)} is called {name!r}; expected a name for each")
