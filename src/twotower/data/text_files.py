"""Reads CSV and JSON Lines files, compressed or not; errors name the line."""

from __future__ import annotations

import csv
import json
from codecs import getincrementaldecoder
from dataclasses import replace
from io import BufferedReader, StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from twotower.data.origin import TableFile, records
from twotower.errors import DataError

BLOCK_BYTES = 1 << 24
"""Bytes parsed at a time, and the maximum length of a row."""

DELIMITERS = (",", ";", "\t", "|")

WITHOUT_BRACKETS = ", without brackets around them all"

SNIFFED_BYTES = 1 << 16
"""Bytes read from the beginning of a file to detect its delimiter."""


def read_csv(file: TableFile, which: str, delimiter: str | None = None) -> tuple[TableFile, pa.Table]:
    """Reads a CSV file with a header: all cells as text, empty ones (quoted or not) as null.

    Columns without a name, such as the index that pandas writes, are skipped.

    Args:
        file: The file.
        which: Name of the table in errors.
        delimiter: The delimiter; default: a tab in `.tsv` files, else the one of `DELIMITERS` that splits the header
            into the most cells.

    Returns:
        The file with its delimiter, and its rows.

    Raises:
        DataError: The file is empty or not UTF-8, a row has more or fewer cells than the header, or a column name
            is repeated.
    """
    try:
        beginning = _beginning(file.path, which)
        delimiter = delimiter or _delimiter_of(file.path, beginning)
        file = replace(file, delimiter=delimiter)
        names = [name for name in _header(beginning, delimiter) if name.strip()]
        if not names:
            raise DataError(f"{which}: no column of {file.path} has a name; expected a header with the column names")
        for name in names:
            if names.count(name) > 1:
                raise DataError(f"{which}: {file.path} has the column {name!r} {names.count(name)} times; expected one")
        table = pa.csv.read_csv(
            file.path,
            read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=names,
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, OSError, ValueError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{which}: {_csv_fault(file) or f'{file.path} cannot be read: {error}'}") from error
    return file, table


def read_json(file: TableFile, which: str) -> pa.Table:
    """Reads a JSON Lines file: one object per line, with columns as keys.

    Raises:
        DataError: The file is empty, a line is not an object, or the values of a column differ in kind.
    """
    try:
        return pa.json.read_json(file.path, read_options=pa.json.ReadOptions(block_size=BLOCK_BYTES))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{which}: {_json_fault(file) or f'{file.path} cannot be read: {error}'}") from error


def _beginning(path: Path, which: str) -> str:
    """The beginning of a file, as text."""
    with pa.input_stream(str(path), compression="detect") as stream:
        beginning = bytes(stream.read(SNIFFED_BYTES))
    if beginning[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{which}: {path} is UTF-16; expected UTF-8")
    text = getincrementaldecoder("utf-8-sig")().decode(beginning)  # the bytes may end in the middle of a character
    if not text.strip():
        raise DataError(f"{which}: {path} is empty; expected a header with the column names")
    return text


def _header(beginning: str, delimiter: str) -> list[str]:
    """The cells of the first row that is not blank."""
    return next(cells for cells in csv.reader(StringIO(beginning, newline=""), delimiter=delimiter) if cells)


def _delimiter_of(path: Path, beginning: str) -> str:
    if ".tsv" in [ending.lower() for ending in path.suffixes]:
        return "\t"
    return max(DELIMITERS, key=lambda one: len(_header(beginning, one)))  # ties: the first in DELIMITERS


def _csv_fault(file: TableFile) -> str | None:
    """A message about the first line that is not UTF-8 or does not match the header; None if there is none."""
    try:
        if (bad := _first_non_utf8_line(file.path)) is not None:
            return f"{file.path}, line {bad} is not UTF-8; expected a file saved as UTF-8"
        cells = len(_header(_beginning(file.path, ""), file.delimiter))
        for line, row in records(file):
            if len(row) != cells:
                return (
                    f"{file.path}, line {line} has {len(row)} cells, but the header has {cells}; expected the same "
                    f"number, and quotes around cells that contain {file.delimiter!r}"
                )
    except (OSError, ValueError, csv.Error):
        pass
    return None


def _json_fault(file: TableFile) -> str | None:
    """A message about the first line that is not a JSON object, or has a value of another kind than an earlier one."""
    kinds: dict[str, tuple[str, int]] = {}
    line = 0
    try:
        if (bad := _first_non_utf8_line(file.path)) is not None:
            return f"{file.path}, line {bad} is not UTF-8; expected a file saved as UTF-8"
        for line, row in records(file):
            if not isinstance(row, dict):
                hint = WITHOUT_BRACKETS if isinstance(row, list) else ""
                return f"{file.path}, line {line} is not a JSON object; expected one on every line{hint}"
            for name, value in row.items():
                if value is None:
                    continue
                kind, before = kinds.setdefault(name, (_kind_of(value), line))
                if kind != _kind_of(value):
                    return (
                        f"{file.path}, line {line}: {name!r} is {_kind_of(value)}, {json.dumps(value)[:80]}, but "
                        f"{kind} in line {before}; expected the same kind on every line"
                    )
    except json.JSONDecodeError as error:
        fault = f"{error.msg.removesuffix(' at')} at character {error.colno}"
        hint = WITHOUT_BRACKETS if error.doc.lstrip().startswith("[") else ""
        return f"{file.path}, line {line + 1}: {fault}; expected a JSON object on every line{hint}"
    except (OSError, ValueError):
        return None
    return f"{file.path} is empty; expected a JSON object on every line" if line == 0 else None


def _kind_of(value: object) -> str:
    """The kind of a JSON value, for messages."""
    kinds = ((bool, "true or false"), (int | float, "a number"), (str, "text"), (list, "a list"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "an object")


def _first_non_utf8_line(path: Path) -> int | None:
    """Number of the first line that is not UTF-8; None if all are."""
    with pa.input_stream(str(path), compression="detect") as stream:
        for number, line in enumerate(BufferedReader(stream), start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None
