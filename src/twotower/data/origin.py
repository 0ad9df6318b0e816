"""`Origin`: which file, and which line of it, a row of a table comes from."""

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
    """A file that holds rows of a table.

    Attributes:
        path: Where it is.
        format: How it is written.
        partition: Columns that the names of its folders give, as text: `day=2024-01-01`.
        delimiter: What stands between the cells of a CSV file; empty elsewhere.
    """

    path: Path
    format: Format
    partition: tuple[tuple[str, str | None], ...] = ()
    delimiter: str = ""


@dataclass(frozen=True)
class Origin:
    """The files of a table, in the order of its rows, each with its number of rows; none of a table in memory.

    Example:
        >>> Origin().of(7)
        ''
        >>> Origin(((TableFile(Path("a.parquet"), "parquet"), 5), (TableFile(Path("b.parquet"), "parquet"), 5))).of(7)
        ' (row 2 of b.parquet)'
    """

    files: tuple[tuple[TableFile, int], ...] = ()

    def of(self, row: int) -> str:
        """Where a row comes from, to follow its number in a message; empty where that says nothing more."""
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
    """The line of a text file on which a row begins; None where it cannot be read that far."""
    try:
        for place, (line, _) in enumerate(records(file)):
            if place == row:
                return line
    except (OSError, ValueError, csv.Error):
        return None
    return None


def records(file: TableFile) -> Iterator[tuple[int, Any]]:
    """The rows of a CSV file as lists of text, or those of a JSON Lines file parsed, each with its first line's number.

    Slow: it is for finding what is wrong. Blank lines are no rows, nor is the header.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is no UTF-8 or no JSON.
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
