"""Reads tables from Arrow, Polars, pandas or DuckDB, or from Parquet, CSV or JSON Lines files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args

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

UNREADABLE = pa.ArrowException, OSError, UnicodeDecodeError
"""What a damaged Parquet file raises; the last, if the name of a column is not UTF-8."""


class ArrowStream(Protocol):
    """Anything with the Arrow C stream interface: pyarrow, Polars, pandas (2.2 or later), DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """A capsule with the table's stream."""
        ...


TableSource: TypeAlias = ArrowStream | str | Path
"""A table; or the path of a Parquet, CSV or JSON Lines file or of a folder of them, or a pattern with `*`.

Types become plain (see `twotower.data.plain`), and an empty CSV cell is null. Folders named `column=value` add columns
if they are below a given folder, or at or after the first `*`.
"""


Decimal: TypeAlias = Literal[".", ","]
"""The decimal mark of numbers in CSV files."""


@dataclass(frozen=True)
class CsvFormat:
    """How CSV files are written.

    Attributes:
        delimiter: The delimiter; None: detected from the header of each file.
        decimal: The decimal mark.

    Raises:
        ConfigError: The delimiter is not a single character, or the decimal mark is neither `.` nor `,`.
    """

    delimiter: str | None = None
    decimal: Decimal = "."

    def __post_init__(self) -> None:
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise ConfigError(f"delimiter={self.delimiter!r}; expected one character, such as ';'")
        if self.decimal not in get_args(Decimal):
            raise ConfigError(f"decimal={self.decimal!r}; expected '.' or ','")


@dataclass(frozen=True)
class Source:
    """A table that was read.

    Attributes:
        table: Its rows, in plain types.
        origin: The files that they come from.
        inferred_from_text: Whether column types were inferred from text, as in CSV; if so, 42 may stand for "42".
    """

    table: pa.Table
    origin: Origin = field(default_factory=Origin)
    inferred_from_text: bool = False


@checks_arguments
def read_table(
    source: TableSource, which: str = "table", *, delimiter: str | None = None, decimal: Decimal = "."
) -> pa.Table:
    """Reads `source` into an Arrow table of plain types.

    Args:
        source: A table or a path; see `TableSource`.
        which: Name of the table in error messages.
        delimiter: Delimiter of CSV files; default: detected from the header.
        decimal: Decimal mark of CSV files: `.` or `,`.

    Raises:
        ConfigError: The delimiter is not a single character.
        DataError: The source is neither a table nor a path, there is no such file, or it cannot be read.

    Example:
        >>> read_table(pa.table({"what": pa.array(["tea", "rum"]).dictionary_encode()})).schema
        what: string
    """
    return read_source(source, which, CsvFormat(delimiter, decimal)).table


def read_source(source: TableSource, which: str = "table", csv: CsvFormat | None = None) -> Source:
    """`read_table`, with the origin of the rows."""
    if isinstance(source, str | Path):
        return _read_files(table_files(source, which), which, csv or CsvFormat())
    if isinstance(source, pa.Table):
        return Source(plain_table(source, which))
    if hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__"):
        try:
            return Source(plain_table(pa.table(_with_named_range(source)), which))
        except (pa.ArrowException, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{which}: the {type(source).__name__} cannot be read as Arrow: {error}") from error
    raise DataError(
        f"{which}: got {type(source).__name__}; expected an Arrow, Polars, pandas or DuckDB table, "
        f"or the path of a Parquet, CSV or JSON Lines file"
    )


def _with_named_range(source: Any) -> Any:
    """A pandas table with its index as a column, if the index is a range and has a name; else the source itself.

    pandas exports any other index that has a name. After `set_index`, ids may be a range or not, depending on their
    values.
    """
    index, columns = getattr(source, "index", None), getattr(source, "columns", None)
    name = getattr(index, "name", None)
    if type(index).__name__ != "RangeIndex" or not isinstance(name, str) or columns is None or name in columns:
        return source
    return source.assign(**{name: index})


def with_ids_like(source: Source, kind: pa.DataType, id_column: str) -> Source:
    """Converts ids to another table's id type if that is lossless: to text if they were inferred from it, or to uint64.

    Args:
        source: The table with the ids.
        kind: Id type of the other table.
        id_column: The id column.
    """
    ids = source.table[id_column]
    to_text = source.inferred_from_text and pa.types.is_string(kind)
    if ids.type == kind or not pa.types.is_integer(ids.type) or not (to_text or pa.types.is_uint64(kind)):
        return source
    if not to_text and (pc.min(ids).as_py() or 0) < 0:
        return source
    table = source.table.set_column(source.table.column_names.index(id_column), id_column, ids.cast(kind))
    return replace(source, table=table)


def _read_files(files: Sequence[TableFile], which: str, csv: CsvFormat) -> Source:
    """Reads and concatenates the rows of all files."""
    read, tables = [], []
    for file in files:
        if file.format == "csv":
            file, table = read_csv(file, which, csv.delimiter)
        else:
            table = plain_table(read_json(file, which) if file.format == "json" else _read_parquet(file, which), which)
        read.append(file)
        tables.append(table)
    schema = joint_schema([table.schema for table in tables], files, which)
    whole = pa.concat_tables([_as(table, schema) for table in tables])
    is_text = files[0].format == "csv"
    if is_text:
        whole = pa.table([inferred(column, csv.decimal) for column in whole.columns], names=whole.column_names)
    for name, column in _partition_columns(files, [len(table) for table in tables]).items():
        if name not in whole.column_names:  # a column in the files takes precedence
            whole = whole.append_column(name, column)
    origin = Origin(tuple(zip(read, map(len, tables), strict=True)))
    return Source(whole.combine_chunks(), origin, is_text)


def _read_parquet(file: TableFile, which: str) -> pa.Table:
    try:
        return pa.parquet.ParquetFile(file.path).read()
    except UNREADABLE as error:
        raise DataError(f"{which}: {file.path} cannot be read: {error}") from error


def joint_schema(schemas: Sequence[pa.Schema], files: Sequence[TableFile], which: str) -> pa.Schema:
    """The columns of several files; integers of different widths get a type that holds all values.

    Raises:
        DataError: A column has incompatible types in two files; names both.
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
    """The table with these columns; missing ones are filled with nulls."""
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.chunked_array([pa.nulls(len(table), field.type)])
        for field in schema
    ]
    return pa.table(columns, schema=schema) if columns else table


def _partition_columns(files: Sequence[TableFile], sizes: Sequence[int]) -> dict[str, pa.ChunkedArray]:
    """The columns from folder names, with a value for each row."""
    values = partition_values(files)
    return {
        name: pa.chunked_array([pa.repeat(own[name], size) for own, size in zip(values, sizes, strict=True)])
        for name in values[0]
    }
