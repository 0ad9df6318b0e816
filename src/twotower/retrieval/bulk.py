"""Recommendations for a whole file of queries, part by part: memory stays flat and finished parts are never lost."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from twotower.data.files import format_of
from twotower.data.plain import plain_table, plain_type
from twotower.data.sources import UNREADABLE, CsvFormat, read_source
from twotower.errors import ConfigError, DataError, SavedFolderError
from twotower.files import MarkedFolder, check_file_target, remove_marked, sync_file, write_file, writing
from twotower.interruption import Interruption
from twotower.locks import unfinished
from twotower.ranks import Ranks, current_ranks
from twotower.retrieval.answers import Filters, Ranked
from twotower.retrieval.outputs import RERANK_SCORES, OutputFormat, output_format
from twotower.retrieval.requests import Request
from twotower.retrieval.retriever import Retriever
from twotower.saved import read_json
from twotower.threads import adapted_threads

PART = 16_384
"""Write at most this many queries to a part; an interruption loses at most one part."""

BLOCK = 256
"""Search this many queries at once."""


class _Job(msgspec.Struct, frozen=True):
    """Identifies the run that finished parts belong to."""

    bundle: str
    queries: str
    k: int
    filters: Filters
    csv: CsvFormat = CsvFormat()


@dataclass(frozen=True)
class _Part:
    """Consecutive queries of the file; `first` is the row of the first one."""

    number: int
    first: int
    size: int


def recommend_all(
    retriever: Retriever,
    queries: Path,
    out: Path,
    k: int = 10,
    *,
    filters: Filters | None = None,
    csv: CsvFormat | None = None,
    restart: bool = False,
    console: Console | None = None,
) -> int:
    """Recommends to every row of a file and writes the answers to another file, in the same order.

    A Parquet file has one row per query: its id (its row number if the file has no ids), the list columns
    `candidates` and `scores`, best first, `rerank_scores` if the list was re-ranked, `basis` and `version`; see
    `Answer`. JSON Lines have the same fields, one object per query. CSV has one row per recommendation with its
    `rank`, `candidate` and `score`. The file appears when everything is done; until then, finished parts are kept in
    `OUT.partial`, and repeating the call resumes after them.

    Under a distributed launch, every rank calls this with the same arguments. The ranks share the queries, and the
    first one writes the same file that a single process would write.

    Args:
        retriever: The retriever to use.
        queries: The Parquet, CSV or JSON Lines file, with columns that a request may have; a null counts as missing.
        out: The file to write, `.parquet`, `.csv` or `.jsonl`; an existing file is replaced if it holds such answers.
        k: How many candidates per query.
        filters: Which candidates are eligible, the same for all queries.
        csv: How the queries are written, if they are a CSV file; default: as in the training config.
        restart: Discard the finished parts of an earlier run.
        console: Where to show progress.

    Returns:
        The number of queries.

    Raises:
        ConfigError: A request cannot have one of the columns, k is below 1, a condition cannot be parsed, or `out` has
            another ending, is the query file, holds something else, or cannot be written.
        DataError: The file or one of its values cannot be read; the error names the row.
        SavedFolderError: `OUT.partial` belongs to a different run, or another process is using it.
    """
    filters, ranks = Filters() if filters is None else filters, current_ranks()
    csv = retriever.details.notes.csv_format() if csv is None else csv
    form = output_format(out)
    with _opened(queries, csv) as file:
        columns = _columns(file, retriever, queries)
        schema = _schema(retriever, columns, file, filters)
        job = _Job(retriever.version, _fingerprint(queries), k, filters, csv)
        work = _Work(retriever, file, columns, schema, job, queries, ranks)
        if ranks.size > 1:
            ranks.require_same(msgspec.to_builtins(job), "expected the same bundle, file and options on all ranks")
        if not ranks.is_first:
            work.help()
            return int(file.metadata.num_rows)
        _check_out(out, queries, form, schema)
        with unfinished(out, PARTIAL) as folder:
            _claim(folder, job, restart)
            try:
                parts = _write_parts(work, folder, console)
            except DataError:
                if not any(folder.glob("*.parquet")):  # nothing to resume: the corrected file is another job
                    remove_marked(folder, PARTIAL.marker)
                raise
            _join(folder, parts, schema, form, _check_out(out, queries, form, schema))
            remove_marked(folder, PARTIAL.marker)
        return int(file.metadata.num_rows)


def _write_parts(work: _Work, folder: Path, console: Console | None) -> list[_Part]:
    """Answers the parts that are not in the folder yet and writes them there; returns all parts."""
    parts = [part for group in _parts_of(work.file) for part in group]
    missing = [part.number for part in parts if not _file_of(folder, part).exists()]
    with Interruption() as interruption, _bar(console) as bar:
        done = sum(part.size for part in parts if part.number not in missing)
        task = bar.add_task(f"top {work.job.k} for queries", total=work.file.metadata.num_rows, completed=done)
        for part, answers in work.answers(missing, interruption):
            write_file(_file_of(folder, part), _encoded(answers))
            bar.advance(task, part.size)
    return parts


@dataclass(frozen=True)
class _Work:
    """Answers the queries of a file; every rank takes a share of each part."""

    retriever: Retriever
    file: pq.ParquetFile
    columns: list[str]
    schema: pa.Schema
    job: _Job
    path: Path
    ranks: Ranks

    def help(self) -> None:
        """Runs on every rank but the first while the first one iterates over `answers`."""
        with Interruption() as interruption:
            for _ in self.answers([], interruption):
                pass

    def answers(self, wanted: Sequence[int], interruption: Interruption) -> Iterator[tuple[_Part, pa.Table]]:
        """The answers to each wanted part, in order.

        Args:
            wanted: Numbers of the parts; all ranks use the first rank's.
            interruption: Checked after each block.
        """
        numbers = set(self.ranks.from_first(lambda: list(wanted), list[int]))
        for group, parts in enumerate(_parts_of(self.file)):
            if not numbers.isdisjoint(part.number for part in parts):
                tables = _tables(self.file, self.columns, group, parts, self.path)
                for part, table in zip(parts, tables, strict=True):
                    if part.number in numbers:
                        yield part, self._part(table, part, interruption)

    def _part(self, table: pa.Table, part: _Part, interruption: Interruption) -> pa.Table:
        """The answers to one part; each rank takes whole blocks, so the answers equal those of a single process."""
        blocks = range(0, len(table), BLOCK)
        own = blocks[self.ranks.counted(len(blocks))]
        found = self.ranks.together(lambda: self._answered(table, part, own, interruption))
        if self.ranks.size == 1:
            return found
        each = self.ranks.gather_bytes(_encoded(found))
        tables = [pq.read_table(pa.BufferReader(raw), schema=self.schema) for raw in each]
        return pa.concat_tables(tables).combine_chunks()

    def _answered(self, table: pa.Table, part: _Part, blocks: range, interruption: Interruption) -> pa.Table:
        """The answers to the queries of some blocks, each given by its first row within the part."""
        if not blocks:
            return self.schema.empty_table()
        retriever, ranked = self.retriever, list[Ranked]()
        with adapted_threads() as pace:
            for start in blocks:
                rows = table.slice(start, BLOCK).to_pylist()
                requests = [{name: value for name, value in row.items() if value is not None} for row in rows]
                with pace.step(len(rows)):
                    ranked += _ranked(retriever, requests, self.job, self.path, part.first + start)
                interruption.raise_if_asked()
        query_id, candidate_id = retriever.details.query_id, retriever.details.candidate_id
        begin, end = blocks[0], blocks[0] + len(ranked)
        ids = (
            table[query_id].combine_chunks()[begin:end]
            if query_id in table.column_names
            else pa.array(np.arange(part.first + begin, part.first + end))
        )
        ends = np.cumsum([0, *(len(one.scores) for one in ranked)]).astype(np.int32)
        catalogue = retriever.candidates.select([candidate_id]).combine_chunks()
        found = pa.concat_arrays([one.ids(catalogue, candidate_id) for one in ranked])
        scores = np.concatenate([one.scores for one in ranked]).astype(np.float32)
        columns = {
            self.schema.names[0]: ids,
            "candidates": pa.ListArray.from_arrays(ends, found),
            "scores": pa.ListArray.from_arrays(ends, scores),
            RERANK_SCORES: pa.ListArray.from_arrays(ends, _answers_of(ranked)),
            "basis": pa.array([one.basis for one in ranked]),
            "version": pa.array([retriever.version] * len(ranked)),
        }
        return pa.Table.from_arrays([columns[name] for name in self.schema.names], schema=self.schema)


def _answers_of(ranked: Sequence[Ranked]) -> pa.Array:
    """Outputs of the re-ranking head, null where a list was not re-ranked."""
    parts = [
        pa.nulls(len(one.scores), pa.float32()) if one.rerank_scores is None else pa.array(one.rerank_scores)
        for one in ranked
    ]
    return pa.concat_arrays([pa.nulls(0, pa.float32()), *parts])


def _ranked(retriever: Retriever, requests: Sequence[Request], job: _Job, path: Path, first: int) -> list[Ranked]:
    """Candidates for a block of requests; an error names the row it comes from."""
    filters = job.filters.arguments
    try:
        return retriever.rank(requests, job.k, **filters)
    except DataError as error:
        if error.field not in (None, "query"):
            raise
        where = f"row {first + error.row}" if error.row is not None else f"rows {first} to {first + len(requests) - 1}"
        raise DataError(f"{path}, {where}: {error}", column=error.column) from error


def _opened(path: Path, csv: CsvFormat) -> pq.ParquetFile:
    """Opens a Parquet file; converts any other table to Parquet in memory."""
    if format_of(path) not in (None, "parquet"):
        return pq.ParquetFile(pa.BufferReader(_encoded(read_source(path, "queries", csv).table)))
    try:
        return pq.ParquetFile(path)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def _columns(file: pq.ParquetFile, retriever: Retriever, path: Path) -> list[str]:
    """The file's columns, checked to be columns that a request may have."""
    names = list(file.schema_arrow.names)
    known = retriever.requests.columns
    for name in names:
        if name not in known or names.count(name) > 1:
            what = "duplicated" if name in known else "not a query column"
            raise ConfigError(f"{path}: column {name!r} is {what}; expected columns among {', '.join(known)}")
    if not names:
        raise ConfigError(f"{path} has no columns; expected some among {', '.join(known)}")
    return names


def _schema(retriever: Retriever, columns: list[str], file: pq.ParquetFile, filters: Filters) -> pa.Schema:
    n = retriever.reranked_by_default if filters.rerank == "default" else filters.rerank
    query, candidate = retriever.details.query_id, retriever.details.candidate_id
    named = query in columns
    return pa.schema(
        [
            pa.field(
                query if named else "row", plain_type(file.schema_arrow.field(query).type) if named else pa.int64()
            ),
            pa.field("candidates", pa.list_(retriever.candidates.schema.field(candidate).type)),
            pa.field("scores", pa.list_(pa.float32())),
            *([] if n is None else [pa.field(RERANK_SCORES, pa.list_(pa.float32()))]),
            pa.field("basis", pa.string()),
            pa.field("version", pa.string()),
        ]
    )


def _fingerprint(path: Path) -> str:
    """SHA-256 of the whole file; different files can have the same footer."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parts_of(file: pq.ParquetFile) -> list[list[_Part]]:
    """The parts of each row group."""
    groups: list[list[_Part]] = []
    number = first = 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        own = [
            _Part(number + place, first + start, min(PART, rows - start))
            for place, start in enumerate(range(0, rows, PART))
        ]
        groups.append(own)
        number, first = number + len(own), first + rows
    return groups


def _tables(
    file: pq.ParquetFile, columns: list[str], group: int, parts: Sequence[_Part], path: Path
) -> Iterator[pa.Table]:
    """The rows of each part of a row group; the group is decoded once, batch by batch."""
    held = plain_table(pa.Table.from_batches([], file.schema_arrow).select(columns), str(path))
    remaining = iter(parts)
    part = next(remaining, None)
    try:
        for piece in file.iter_batches(PART, row_groups=[group], columns=columns):
            held = pa.concat_tables([held, plain_table(pa.Table.from_batches([piece]), str(path))])
            while part is not None and len(held) >= part.size:
                yield held.slice(0, part.size)
                held, part = held.slice(part.size), next(remaining, None)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read in row group {group}: {error}") from error


def _check_out(out: Path, queries: Path, form: OutputFormat, schema: pa.Schema) -> Path:
    """The file to write, with links resolved.

    Raises:
        ConfigError: It is the query file, holds anything but such answers, or cannot be written.
    """
    if os.path.exists(out) and out.samefile(queries):  # noqa: PTH110 (Path.exists raises for some names)
        raise ConfigError(f"--out {out} is the --queries file; expected another file")
    plain = pa.schema([field for field in schema if field.name != RERANK_SCORES])
    place = plain.get_field_index("scores") + 1
    reranked = plain.insert(place, pa.field(RERANK_SCORES, pa.list_(pa.float32())))

    def is_ours(path: Path) -> bool:
        return form.is_ours(path, plain) or form.is_ours(path, reranked)

    return check_file_target(out, is_ours, "a file of such recommendations")


def _is_job(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw, type=_Job)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return False
    return True


PARTIAL = MarkedFolder("unfinished work of `twotower recommend`", "job.json", _is_job, ("[0-9]*.parquet", "whole"))


def _claim(folder: Path, job: _Job, restart: bool) -> None:
    """Marks the folder of finished parts as belonging to a run.

    Raises:
        SavedFolderError: It belongs to an interrupted run with other arguments.
    """
    mark = folder / PARTIAL.marker
    if restart:
        remove_marked(folder, PARTIAL.marker)
    if not mark.exists():
        write_file(mark, msgspec.json.encode(job))
        return
    left = read_json(mark, _Job)
    if left != job:
        different = [name for name in _Job.__struct_fields__ if getattr(left, name) != getattr(job, name)]
        raise SavedFolderError(
            f"{folder} is left over from an interrupted run with different {', '.join(different)}; finish that run, "
            f"or pass --restart to start over"
        )


def _file_of(folder: Path, part: _Part) -> Path:
    return folder / f"{part.number:06}.parquet"


def _encoded(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def _join(folder: Path, parts: list[_Part], schema: pa.Schema, form: OutputFormat, out: Path) -> None:
    """Joins all parts into one file, written beside its target and then renamed over it."""
    building = folder / "whole"
    with writing(out):
        form.write((pq.read_table(_file_of(folder, part), schema=schema) for part in parts), schema, building)
        sync_file(building)
        building.replace(out)


def _bar(console: Console | None) -> Progress:
    shown = console is not None and console.is_terminal
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    return Progress(*columns, console=console, disable=not shown)
