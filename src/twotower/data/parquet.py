"""`ParquetRows`: the row groups of Parquet files as one long table, read into memory piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.data.checks import require_columns
from twotower.data.files import partition_values, refuse_mixtures, table_files
from twotower.data.origin import TableFile
from twotower.data.plain import plain_column, plain_schema
from twotower.data.sources import UNREADABLE, joint_schema
from twotower.errors import DataError

ParquetSource: TypeAlias = str | Path | Sequence[str | Path]
"""Path of a Parquet file or of a folder of them, a pattern with `*`, or several of these."""

BoolArray: TypeAlias = npt.NDArray[np.bool_]

INTERLEAVED_GROUPS = 8
"""Row groups open at a time when reading interleaved."""

ROW = "\x00row"
"""Name of the column of row numbers, counted over all files, that every read can ask for; no file has such a column."""

READ_BUFFER = 1 << 18
"""Bytes read from the file at a time per open column, so a whole row group is never in memory."""


@dataclass(frozen=True)
class RowGroup:
    """One row group.

    Attributes:
        path: Its file.
        number: Its number in the file.
        first_row: Row number of its first row, counted over all files.
        rows: Number of rows.
        partition: The columns from its folder names.
    """

    path: Path
    number: int
    first_row: int
    rows: int
    partition: dict[str, pa.Scalar] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.path}, row group {self.number} (rows {self.first_row} to {self.first_row + self.rows - 1})"


@dataclass(frozen=True)
class ParquetRows:
    """The rows of one or more Parquet files, one file after the other.

    Attributes:
        groups: The non-empty row groups, in order.
        schema: Names and plain types of the columns of all files, including those from folder names.
        kept: Mask of the rows that are part of this, `[rows of the files]`; None for all.
    """

    groups: tuple[RowGroup, ...]
    schema: pa.Schema
    kept: BoolArray | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, source: ParquetSource) -> ParquetRows:
        """Lists the row groups; files of a folder are sorted by name.

        Raises:
            DataError: A path does not exist, is not a Parquet file or cannot be read, or no path was given.
        """
        files = _files(source)
        groups: list[RowGroup] = []
        schemas, first_row = [], 0
        partitions = partition_values(files)
        for file, partition in zip(files, partitions, strict=True):
            try:
                with pq.ParquetFile(file.path) as opened:
                    schemas.append(plain_schema(opened.schema_arrow, "interactions"))
                    sizes = [opened.metadata.row_group(number).num_rows for number in range(opened.num_row_groups)]
            except UNREADABLE as error:
                raise DataError(f"interactions: {file.path} cannot be read: {error}") from error
            if min(sizes, default=0) < 0:
                raise DataError(f"interactions: {file.path} is damaged: it reports {min(sizes)} rows")
            own = {name: value for name, value in partition.items() if name not in schemas[-1].names}
            for number, rows in enumerate(sizes):
                if rows:
                    groups.append(RowGroup(file.path, number, first_row, rows, own))
                first_row += rows
        schema = joint_schema(schemas, files, "interactions")
        for name, value in partitions[0].items():
            if name not in schema.names:
                schema = schema.append(pa.field(name, value.type))
        return cls(tuple(groups), schema)

    def __len__(self) -> int:
        return self.in_files if self.kept is None else int(np.count_nonzero(self.kept))

    @property
    def in_files(self) -> int:
        """Number of rows in the files."""
        return sum(group.rows for group in self.groups)

    def whole(self) -> ParquetRows:
        """All rows of the files."""
        return replace(self, kept=None)

    def only(self, kept: BoolArray) -> ParquetRows:
        """Some rows of the files; skips row groups that have none of them.

        Args:
            kept: Mask of the rows, `[rows of the files]`.
        """
        return replace(self, kept=kept)

    def empty(self, columns: Sequence[str]) -> pa.Table:
        """An empty table with these columns."""
        return self._schema_of(columns).empty_table()

    def read(self, group: RowGroup, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """Reads one row group in pieces of at most `rows` rows.

        Raises:
            DataError: It cannot be read, lacks a column, or has a value that does not fit the column's type.
        """
        if self.kept is None:
            yield from self._read(group, columns, rows)
            return
        kept, first_row = self.kept[group.first_row : group.first_row + group.rows], 0
        if not kept.any():
            return
        for piece in self._read(group, columns, rows):
            wanted = kept[first_row : first_row + piece.num_rows]
            first_row += piece.num_rows
            if wanted.any():
                yield piece if wanted.all() else piece.filter(pa.array(wanted))

    def _read(self, group: RowGroup, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        schema, which, found = self._schema_of(columns), f"interactions, {group.path}", 0
        stored = [name for name in columns if name != ROW and name not in group.partition]
        try:
            with pq.ParquetFile(group.path, buffer_size=READ_BUFFER, pre_buffer=False) as file:
                # One thread, to leave the others to training.
                for batch in file.iter_batches(rows, [group.number], stored, use_threads=False):
                    piece = pa.Table.from_batches([batch])
                    require_columns(piece, stored, which)
                    first_row = group.first_row + found
                    made = {name: pa.repeat(value, len(batch)) for name, value in group.partition.items()}
                    made[ROW] = pa.array(np.arange(first_row, first_row + len(batch)))
                    found += len(batch)
                    yield pa.table(
                        [
                            (made[name] if name in made else plain_column(piece[name], name, which)).cast(kind)
                            for name, kind in zip(schema.names, schema.types, strict=True)
                        ],
                        schema=schema,
                    )
        except UNREADABLE as error:
            raise DataError(f"interactions: {group} cannot be read: {error}") from error
        if found != group.rows:
            raise DataError(
                f"interactions: {group} has {found} rows: it is damaged, or has changed since it was opened"
            )

    def in_order(self, columns: Sequence[str], rows: int) -> Iterator[tuple[int, pa.Table]]:
        """All rows in order, in tables of at most `rows` rows, each with the number of its first row."""
        waiting: list[pa.Table] = []
        first_row = held = 0
        for group in self.groups:
            for piece in self.read(group, columns, rows):
                if held + len(piece) > rows:
                    yield first_row, pa.concat_tables(waiting).combine_chunks()
                    waiting, first_row, held = [], first_row + held, 0
                waiting.append(piece)
                held += len(piece)
        if waiting:
            yield first_row, pa.concat_tables(waiting).combine_chunks()

    def interleaved(self, order: Sequence[int], columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """All rows in pieces of at most `rows` rows, alternating between the next few row groups of `order`.

        If groups are large and sorted by time or query, consecutive pieces thus come from different groups.
        """
        waiting = [self.read(self.groups[number], columns, rows) for number in reversed(order)]
        open_groups = [waiting.pop() for _ in range(min(INTERLEAVED_GROUPS, len(waiting)))]
        turn = 0
        while open_groups:
            turn %= len(open_groups)
            piece = next(open_groups[turn], None)
            if piece is not None:
                yield piece
                turn += 1
            elif waiting:
                open_groups[turn] = waiting.pop()
            else:
                del open_groups[turn]

    def _schema_of(self, columns: Sequence[str]) -> pa.Schema:
        own = (pa.field(ROW, pa.int64()) if name == ROW else self.schema.field(name) for name in columns)
        return pa.schema([field.with_nullable(True) for field in own])


def _files(source: ParquetSource) -> list[TableFile]:
    paths = [source] if isinstance(source, str | Path) else source
    files = [file for path in paths for file in table_files(path, "interactions", ("parquet",))]
    if not files:
        raise DataError("interactions: no path was given; expected at least one Parquet file")
    refuse_mixtures(files, "interactions")
    return files
