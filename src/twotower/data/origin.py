"""`Origin`: the file and line that a row of a table comes from."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

Format = Literal["parquet", "csv", "json"]


@dataclass(frozen=True)
class TableFile:
    """A file with rows of a table.

    Attributes:
        path: Its path.
        format: Its format.
        partition: Columns from its folder names, as text, such as `day=2024-01-01`.
        delimiter: Delimiter of a CSV file; empty for other formats.
    """

    path: Path
    format: Format
    partition: tuple[tuple[str, str | None], ...] = ()
    delimiter: str = ""


@dataclass(frozen=True)
class Origin:
    """The files of a table in row order, each with its number of rows; empty for a table in memory.

    Example:
        >>> Origin().of(7)
        ''
        >>> Origin(((TableFile(Path("a.parquet"), "parquet"), 5), (TableFile(Path("b.parquet"), "parquet"), 5))).of(7)
        ' (row 2 of b.parquet)'
    """

    files: tuple[tuple[TableFile, int], ...] = ()

    def of(self, row: int) -> str:
        """Suffix for a row number in a message: where the row comes from; empty if that adds nothing."""
        first = 0
        for file, rows in self.files:
            if row < first + rows:
                return self._within(file, row - first)
            first += rows
        return ""

    def _within(self, file: TableFile, row: int) -> str:
        if file.format != "parquet" and (line := line_of(file, row)) is not None:
            return f" (line {line} of {file.path})"
        return f" (row {row} of {file.path})" if len(self.files) > 1 else ""


def line_of(file: TableFile, row: int) -> int | None:
    """The line of a text file on which a row begins; None if the file cannot be read that far."""
    try:
        for place, (line, _) in enumerate(records(file)):
            if place == row:
                return line
    except (OSError, ValueError, csv.Error):
        return None
    return None


def records(file: TableFile) -> Iterator[tuple[int, Any]]:
    """The rows of a CSV file as lists of text, or of a JSON Lines file as values, each with its first line number.

    Slow, so only for locating errors. Skips blank lines and the header.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is not UTF-8 or not JSON.
        csv.Error: A cell is too long.
    """
    with pa.input_stream(str(file.path), compression="detect") as stream:
        text = TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        if file.format == "json":
            for number, line in enumerate(text, start=1):
                if line.strip():
                    yield number, json.loads(line)
            return
        rows = csv.reader(text, delimiter=file.delimiter)
        next(_numbered(rows), None)  # the header
        yield from _numbered(rows)


def _numbered(rows: Any) -> Iterator[tuple[int, Sequence[str]]]:
    before = rows.line_num
    for cells in rows:
        if cells:
            yield before + 1, cells
        before = rows.line_num
