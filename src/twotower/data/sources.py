"""Reading tables from whatever a user has: Arrow, Polars, pandas, DuckDB; Parquet, CSV and JSON Lines files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from twotower.arguments import checks_arguments
from twotower.data.files import partition_values, table_files
from twotower.data.inference import inferred
from twotower.data.origin import Origin, TableFile
from twotower.data.plain import plain_table
from twotower.data.text_files import read_csv, read_json
from twotower.errors import ConfigError, DataError


class ArrowStream(Protocol):
    """Anything that speaks the Arrow C stream interface: pyarrow, Polars, pandas (2.2 on), DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """A capsule with the table's stream."""
        ...


TableSource: TypeAlias = ArrowStream | str | Path
"""A table; or the path of a Parquet, CSV or JSON Lines file, of a folder of such files, or a pattern with `*`.

Types become plain (see `twotower.data.plain`), and an empty cell of CSV is null. Folders named `column=value` below a
given folder, or from the first `*` on, give columns.
"""


@dataclass(frozen=True)
class Source:
    """A table that was read.

    Attributes:
        table: Its rows, in plain types.
        origin: The files that they are from.
        told_from_text: Whether the types of columns were told from text, as in CSV: then 42 may stand for "42".
    """

    table: pa.Table
    origin: Origin = field(default_factory=Origin)
    told_from_text: bool = False


@checks_arguments
def read_table(source: TableSource, which: str = "table", *, delimiter: str | None = None) -> pa.Table:
    """Reads `source` into an Arrow table of plain types.

    Args:
        source: A table or a path; see `TableSource`.
        which: What error messages call it.
        delimiter: What stands between the cells of CSV files; default: told from the header.

    Raises:
        ConfigError: The delimiter is not one character.
        DataError: The source is neither, the path names no file or its content cannot be read.

    Example:
        >>> read_table(pa.table({"what": pa.array(["tea", "rum"]).dictionary_encode()})).schema
        what: string
    """
    return read_source(source, which, delimiter=delimiter).table


def read_source(source: TableSource, which: str = "table", *, delimiter: str | None = None) -> Source:
    """`read_table`, and where the rows are from."""
    if delimiter is not None and len(delimiter) != 1:
        raise ConfigError(f"delimiter={delimiter!r}; expected one character, such as ';'")
    if isinstance(source, str | Path):
        return _read_files(table_files(source, which), which, delimiter)
    if isinstance(source, pa.Table):
        return Source(plain_table(source, which))
    if hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__"):
        try:
            return Source(plain_table(pa.table(source), which))
        except (pa.ArrowException, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{which}: the {type(source).__name__} cannot be read as Arrow: {error}") from error
    raise DataError(
        f"{which}: got {type(source).__name__}; expected an Arrow, Polars, pandas or DuckDB table, "
        f"or the path of a Parquet, CSV or JSON Lines file"
    )


def with_ids_like(source: Source, kind: pa.DataType, id_column: str) -> Source:
    """Ids in the type of another table's, where nothing is lost: as text if text is what they were told from, or wider.

    Args:
        source: The table whose ids they are.
        kind: The type that the other table has.
        id_column: Their column.
    """
    ids = source.table[id_column]
    told = source.told_from_text and pa.types.is_string(kind)
    if ids.type == kind or not pa.types.is_integer(ids.type) or not (told or pa.types.is_uint64(kind)):
        return source
    if not told and (pc.min(ids).as_py() or 0) < 0:
        return source
    table = source.table.set_column(source.table.column_names.index(id_column), id_column, ids.cast(kind))
    return replace(source, table=table)


def _read_files(files: Sequence[TableFile], which: str, delimiter: str | None) -> Source:
    """The rows of all files, one file after the other."""
    read, tables = [], []
    for file in files:
        if file.format == "csv":
            file, table = read_csv(file, which, delimiter)
        else:
            table = plain_table(read_json(file, which) if file.format == "json" else _read_parquet(file, which), which)
        read.append(file)
        tables.append(table)
    schema = joint_schema([table.schema for table in tables], files, which)
    whole = pa.concat_tables([_as(table, schema) for table in tables])
    told = files[0].format == "csv"
    if told:
        whole = pa.table([inferred(column) for column in whole.columns], names=whole.column_names)
    for name, column in _partition_columns(files, [len(table) for table in tables]).items():
        if name not in whole.column_names:  # a file that has the column knows better
            whole = whole.append_column(name, column)
    origin = Origin(tuple(zip(read, map(len, tables), strict=True)))
    return Source(whole.combine_chunks(), origin, told)


def _read_parquet(file: TableFile, which: str) -> pa.Table:
    try:
        return pa.parquet.ParquetFile(file.path).read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{which}: {file.path} cannot be read: {error}") from error


def joint_schema(schemas: Sequence[pa.Schema], files: Sequence[TableFile], which: str) -> pa.Schema:
    """The columns of several files; a type that holds the values of all where numbers are of several widths.

    Raises:
        DataError: A column has types that do not go together; names both files.
    """
    kinds: dict[str, pa.DataType] = {}
    origins: dict[str, Path] = {}
    for schema, file in zip(schemas, files, strict=True):
        for name, kind in zip(schema.names, schema.types, strict=True):
            both = [pa.schema([(name, one)]) for one in (kinds.get(name, kind), kind)]
            try:
                joint = pa.unify_schemas(both, promote_options="permissive").types[0]
            except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
                raise DataError(
                    f"{which}, column {name!r}: {kinds[name]} in {origins[name]} and {kind} in {file.path}; "
                    f"expected one type"
                ) from error
            if kinds.get(name) != joint:
                kinds[name], origins[name] = joint, file.path
    return pa.schema(list(kinds.items()))


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with these columns, those that it lacks null."""
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.chunked_array([pa.nulls(len(table), field.type)])
        for field in schema
    ]
    return pa.table(columns, schema=schema) if columns else table


def _partition_columns(files: Sequence[TableFile], sizes: Sequence[int]) -> dict[str, pa.ChunkedArray]:
    """The columns that the names of folders give, a value for each row."""
    values = partition_values(files)
    return {
        name: pa.chunked_array([pa.repeat(own[name], size) for own, size in zip(values, sizes, strict=True)])
        for name in values[0]
    }
