"""Files of recommendations in Parquet, CSV or JSON Lines; existing ones are recognised before they are replaced."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from twotower.errors import ConfigError
from twotower.version import VERSION

MARK = b"twotower"
"""Key in a Parquet file's metadata that names the writer."""

WRITER = "twotower recommend"
RERANK_SCORES = "rerank_scores"
"""The column of the re-ranking head's outputs, if there is one."""


class _Mark(msgspec.Struct, frozen=True):
    writer: str
    library: str


class OutputFormat(Protocol):
    """A file format for answers, which come as tables of query, candidates, scores, basis and version."""

    def write(self, answers: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
        """Writes all answers to a new file."""

    def is_ours(self, path: Path, schema: pa.Schema) -> bool:
        """Whether `write` wrote the file, so that it may be replaced."""


class ParquetOutput:
    """One row per query, with lists of candidates and scores."""

    def write(self, answers: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
        """Writes all answers; the file's metadata names the writer."""
        mark = msgspec.json.encode(_Mark(WRITER, VERSION))
        with pq.ParquetWriter(path, schema.with_metadata({MARK: mark})) as writer:
            for table in answers:
                writer.write_table(table.cast(writer.schema))

    def is_ours(self, path: Path, schema: pa.Schema) -> bool:
        """By the mark."""
        del schema
        try:
            mark = (pq.read_metadata(path).metadata or {}).get(MARK, b"")
            return msgspec.json.decode(mark, type=_Mark).writer == WRITER
        except (pa.ArrowException, ValueError, msgspec.DecodeError):
            return False


class CsvOutput:
    """One row per recommendation: the query, the rank from 1, the candidate and its score."""

    def write(self, answers: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
        """Writes all answers under one header; a query without candidates has no row."""
        flat = _ranked_schema(schema)
        with csv.CSVWriter(str(path), flat) as writer:
            for table in answers:
                writer.write_table(_ranked(table, flat))

    def is_ours(self, path: Path, schema: pa.Schema) -> bool:
        """By the header."""
        sink = pa.BufferOutputStream()
        csv.write_csv(_ranked_schema(schema).empty_table(), sink)
        header = bytes(sink.getvalue())
        with path.open("rb") as file:
            found: bytes = file.read(len(header))
        return found == header


class JsonLinesOutput:
    """One object per query, with lists of candidates and scores."""

    def write(self, answers: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
        """Writes all answers, one per line."""
        del schema
        with path.open("wb") as file:
            for table in answers:
                file.writelines(msgspec.json.encode(row) + b"\n" for row in table.to_pylist())

    def is_ours(self, path: Path, schema: pa.Schema) -> bool:
        """By the keys of the first line."""
        with path.open("rb") as file:
            line = file.readline(1 << 26)
        try:
            keys = list(msgspec.json.decode(line, type=dict[str, object]))
        except (msgspec.DecodeError, ValueError, RecursionError):
            return False
        names: list[str] = schema.names
        return keys == names


FORMATS: dict[str, OutputFormat] = {".parquet": ParquetOutput(), ".csv": CsvOutput(), ".jsonl": JsonLinesOutput()}


def output_format(out: Path) -> OutputFormat:
    """The format for a file name.

    Raises:
        ConfigError: The name has another ending.

    Example:
        >>> output_format(Path("r.txt"))
        Traceback (most recent call last):
        twotower.errors.ConfigError: --out r.txt: expected a name that ends in .parquet, .csv or .jsonl
    """
    found = FORMATS.get(out.suffix.lower())
    if found is None:
        *others, last = FORMATS
        raise ConfigError(f"--out {out}: expected a name that ends in {', '.join(others)} or {last}")
    return found


def _ranked_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a CSV file: the query, then those of one recommendation."""
    query, candidates = schema.field(0), schema.field("candidates")
    columns = [query, ("rank", pa.int64()), ("candidate", candidates.type.value_type), ("score", pa.float32())]
    if RERANK_SCORES in schema.names:
        columns.append(("rerank_score", pa.float32()))
    return pa.schema([*columns, ("basis", pa.string()), ("version", pa.string())])


def _ranked(answers: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table of answers, flattened to one row per recommendation."""
    found = answers["candidates"].combine_chunks()
    rows = found.value_parent_indices()
    ranks = [rank for length in found.value_lengths().to_pylist() for rank in range(1, length + 1)]
    columns = [answers.column(0).take(rows), pa.array(ranks, pa.int64()), found.flatten()]
    columns += [
        answers[name].combine_chunks().flatten() for name in ("scores", RERANK_SCORES) if name in answers.schema.names
    ]
    columns += [answers[name].take(rows) for name in ("basis", "version")]
    return pa.Table.from_arrays(columns, schema=schema)
