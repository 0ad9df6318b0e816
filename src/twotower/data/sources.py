"""Reading tables from whatever a user has: Arrow, Polars, pandas, DuckDB, Parquet and CSV paths."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeAlias

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet

from twotower.errors import DataError


class ArrowStream(Protocol):
    """Anything that speaks the Arrow C stream interface: pyarrow, Polars, pandas (2.2 on), DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """A capsule with the table's stream."""
        ...


TableSource: TypeAlias = ArrowStream | str | Path
"""A table, or the path of a Parquet or CSV file or of a folder of Parquet files."""


def read_table(source: TableSource, which: str = "table") -> pa.Table:
    """Reads `source` into an Arrow table.

    Args:
        source: A table or a path; see `TableSource`.
        which: What error messages call it.

    Raises:
        DataError: The source is neither, the path does not exist or its content cannot be read.
    """
    if isinstance(source, str | Path):
        return _normalised(_read_path(Path(source), which))
    if hasattr(source, "__arrow_c_stream__"):
        return _normalised(pa.table(source))
    raise DataError(
        f"{which}: got {type(source).__name__}; expected an Arrow, Polars, pandas or DuckDB table, "
        f"or the path of a Parquet or CSV file"
    )


def _read_path(path: Path, which: str) -> pa.Table:
    if not path.exists():
        raise DataError(f"{which}: {path} does not exist; expected a Parquet or CSV file or a folder of Parquet files")
    try:
        if path.is_dir():
            files = sorted(path.rglob("*.parquet"))
            if not files:
                raise DataError(f"{which}: the folder {path} holds no .parquet file")
            return pa.dataset.dataset([str(file) for file in files], format="parquet").to_table()
        if path.suffix in (".parquet", ".pq"):
            return pa.parquet.ParquetFile(path).read()
        if path.suffix in (".csv", ".tsv"):
            options = pa.csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
            return pa.csv.read_csv(path, parse_options=options)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise DataError(f"{which}: {path} cannot be read: {error}") from error
    raise DataError(f"{which}: {path} ends in {path.suffix!r}; expected .parquet, .csv, .tsv or a folder")


def _normalised(table: pa.Table) -> pa.Table:
    """One chunk a column, of the types of `plain_schema`."""
    return table.cast(plain_schema(table.schema)).combine_chunks()


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with plain text in place of the several ways libraries hold it."""
    fields = []
    for column in schema:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            kind = pa.string()
        fields.append(column.with_type(kind).with_nullable(True))
    return pa.schema(fields)
