"""`prepared`: sorts a log on disk by query and time, once and out of core, into memory-mapped columns."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.arrow import content_digest
from twotower.data.dataset import Dataset
from twotower.data.fingerprints import Tables
from twotower.data.movielens import HOME_VARIABLE, data_home
from twotower.data.ordered import SortedEvents
from twotower.data.parquet import ROW, ParquetRows, RowGroup
from twotower.data.tables import LogTables
from twotower.errors import ConfigError, DataError
from twotower.extras import require
from twotower.files import sync_file, sync_folder, write_file
from twotower.locks import locked, partial_of
from twotower.processes import allowed_threads
from twotower.progress import ReportStep, no_report

FOLDER = "_twotower"
"""Folder beside the files of the log; names that begin with `_` are skipped when the log's folder is read."""

FORMAT, MANIFEST = 1, "prepared.json"

EVENTS_PER_FILE = 4_000_000
"""Approximate events per encoded file: the most work lost when the preparation is killed."""

BATCH_EVENTS = 500_000
"""Events encoded, sorted or written at a time."""

SORT_MEMORY = "1GB"
"""DuckDB's memory limit; it spills the rest to disk."""

EVENT_DTYPE = np.dtype([("query", "<i4"), ("candidate", "<i4"), ("time", "<f8"), ("row", "<i8")])
"""An encoded event: position of its query in id order, row of its candidate, time in seconds, row in the files."""

DTYPES = {"candidates": "<i4", "times": "<f8", "rows": "<i8"}


class Manifest(msgspec.Struct, frozen=True):
    """Manifest of a prepared folder.

    Attributes:
        format: Version of the folder's format.
        key: Key of the log; see `key_of`.
        events: Number of events.
        queries: Rows of the query table.
        timed: Whether the events have times.
    """

    format: int
    key: str
    events: int
    queries: int
    timed: bool


class PreparableLog(Tables, Protocol):
    """What preparation needs to know about a log."""

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    @property
    def time(self) -> str | None:
        """Name of the time column."""
        ...

    @property
    def tables(self) -> LogTables:
        """Its side tables, and how its columns are read."""
        ...

    @property
    def weight(self) -> str | None:
        """Name of the weight column."""
        ...


def prepared(
    log: PreparableLog,
    rows: ParquetRows,
    encode: Callable[[pa.Table], Dataset],
    report: ReportStep = no_report,
) -> SortedEvents:
    """All events of the files, sorted; reuses the folder of an earlier preparation if there is one.

    Preparation has two steps: it encodes the events into files of some millions each, then DuckDB sorts them. If the
    process is killed, the next call reuses the files that are complete.

    Args:
        log: The log.
        rows: All rows of its files.
        encode: Turns a table of ids, times and row numbers into events; it may drop some.
        report: Receives the progress.

    Raises:
        ConfigError: There is no writable folder for the prepared log.
        DataError: The files can no longer be read, or have changed.
        MissingExtraError: DuckDB is not installed.
    """
    key = key_of(log, rows)
    for home in _homes(rows):
        if (found := _opened(home / key, key)) is not None:
            return found
    require("duckdb", "large")
    target = _writable(_homes(rows), log.name) / key
    with locked(target):
        if (found := _opened(target, key)) is None:  # otherwise another process has prepared it meanwhile
            _prepare(_Preparation(log, rows, encode, report, key), target)
            found = _opened(target, key)
    if found is None:
        raise DataError(f"{target} was prepared but cannot be read; delete it and try again")
    return found


def key_of(log: PreparableLog, rows: ParquetRows) -> str:
    """Hash of the files' names, sizes and modification times, the column roles and the ids.

    Raises:
        DataError: A file no longer exists.
    """
    base = _base(rows)
    try:
        stats = {path.relative_to(base).as_posix(): path.stat() for path in _paths(rows)}
    except OSError as error:
        raise DataError(f"the files of {log.name!r} have changed since they were opened: {error}") from error
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()]
    ids = [content_digest(table.select([name])) for table, name in _sides(log)]
    roles = [log.query_id, log.candidate_id, log.time, log.tables.time_format, log.weight]
    return hashlib.sha256(msgspec.json.encode([FORMAT, files, roles, ids])).hexdigest()[:16]


def _sides(log: PreparableLog) -> Iterable[tuple[pa.Table, str]]:
    return (log.queries, log.query_id), (log.candidates, log.candidate_id)


def _paths(rows: ParquetRows) -> list[Path]:
    return list(dict.fromkeys(group.path.absolute() for group in rows.groups))


def _base(rows: ParquetRows) -> Path:
    """The deepest folder that contains all the files."""
    return Path(os.path.commonpath([path.parent for path in _paths(rows)]))


def _homes(rows: ParquetRows) -> list[Path]:
    """Possible folders for prepared logs: beside the log's files, or with the data sets."""
    return [_base(rows) / FOLDER, data_home() / "prepared"]


def _writable(homes: list[Path], name: str) -> Path:
    """The first writable folder."""
    refused = []
    for home in homes:
        try:
            home.mkdir(parents=True, exist_ok=True)
            Path(tempfile.mkdtemp(prefix=".try.", dir=home)).rmdir()
        except OSError as error:
            refused.append(f"{home} ({error.strerror})")
            continue
        return home
    raise ConfigError(
        f"{name!r} cannot be prepared: neither {' nor '.join(refused)} is writable; make one of them writable, "
        f"or set {HOME_VARIABLE} to a writable folder"
    )


def _opened(folder: Path, key: str) -> SortedEvents | None:
    """The events of a prepared folder; None if it is missing or incomplete."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        if (manifest.format, manifest.key) != (FORMAT, key):
            return None
        kinds = DTYPES if manifest.timed else {name: kind for name, kind in DTYPES.items() if name != "times"}
        lengths = dict.fromkeys(kinds, manifest.events) | {"queries": manifest.queries}
        kinds = kinds | {"queries": "<i8", "offsets": "<i8"}
        lengths["offsets"] = manifest.queries + 1
        found = {name: _mapped(folder / f"{name}.npy", kind, lengths[name]) for name, kind in kinds.items()}
    except (OSError, ValueError, UnicodeDecodeError, msgspec.DecodeError):
        return None
    return SortedEvents(
        queries=np.array(found["queries"]),
        offsets=np.array(found["offsets"]),
        candidates=found["candidates"],
        times=found.get("times"),
        rows=found["rows"],
        folder=folder.parent if os.access(folder.parent, os.W_OK) else None,
    )


def _mapped(path: Path, kind: str, length: int) -> npt.NDArray[Any]:
    array = np.load(path, mmap_mode="r")
    if array.dtype != np.dtype(kind) or array.shape != (length,):
        raise ValueError(f"{path} is {array.dtype} {array.shape}; expected {kind} ({length},)")
    # A plain array over the map: slices of a `memmap` are memmaps themselves, which makes them slower.
    return np.asarray(array)


class _Preparation:
    """A preparation in progress."""

    def __init__(
        self,
        log: PreparableLog,
        rows: ParquetRows,
        encode: Callable[[pa.Table], Dataset],
        report: ReportStep,
        key: str,
    ) -> None:
        self.log, self.rows, self.encode, self.report, self.key = log, rows, encode, report, key
        self.columns = [name for name in (log.query_id, log.candidate_id, log.time, ROW) if name is not None]
        self.order = pc.array_sort_indices(log.queries[log.query_id].combine_chunks()).to_numpy().astype(np.int64)
        self.place = np.empty(len(self.order), dtype=np.int32)
        self.place[self.order] = np.arange(len(self.order), dtype=np.int32)

    def units(self) -> Iterator[list[RowGroup]]:
        """The row groups in order, grouped into units of about `EVENTS_PER_FILE` events."""
        unit: list[RowGroup] = []
        for group in self.rows.groups:
            unit.append(group)
            if sum(one.rows for one in unit) >= EVENTS_PER_FILE:
                yield unit
                unit = []
        if unit:
            yield unit

    def encoded(self, group: RowGroup) -> Iterator[npt.NDArray[Any]]:
        """Encodes the events of a row group, in pieces."""
        for table in self.rows.read(group, self.columns, BATCH_EVENTS):
            events = self.encode(table)
            piece = np.empty(len(events), dtype=EVENT_DTYPE)
            piece["query"], piece["candidate"] = self.place[events.query_index], events.candidate_index
            piece["time"] = 0.0 if events.time is None else events.times
            piece["row"] = events.interactions[ROW].to_numpy()
            yield piece


def _prepare(work: _Preparation, target: Path) -> None:
    """Encodes and sorts the events, then moves the finished folder to `target`."""
    building = partial_of(target)
    try:
        building.mkdir(exist_ok=True)
        encoded = _encode(work, building)
        sorted_folder = building / "sorted"
        shutil.rmtree(sorted_folder, ignore_errors=True)
        sorted_folder.mkdir()
        _sort(work, encoded, sorted_folder)
        sync_folder(sorted_folder)
        shutil.rmtree(target, ignore_errors=True)  # incomplete, or it would have been opened
        sorted_folder.rename(target)
        shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"{work.log.name!r} cannot be prepared in {target.parent}: {error}") from error


def _encode(work: _Preparation, folder: Path) -> list[Path]:
    """Encodes all events into files of some millions each; keeps the files that exist."""
    paths, done = [], 0
    for unit in work.units():
        rows = sum(group.rows for group in unit)
        path = folder / f"encoded-{unit[0].first_row}-{rows}.bin"
        paths.append(path)
        if not path.exists():
            building = path.with_suffix(".building")
            with building.open("wb") as file:
                for group in unit:
                    for piece in work.encoded(group):
                        file.write(piece.tobytes())
                        work.report("encoding", (done + file.tell() / EVENT_DTYPE.itemsize) / max(1, len(work.rows)))
            sync_file(building)
            building.replace(path)
        done += rows
        work.report("encoding", done / max(1, len(work.rows)))
    return paths


def _sort(work: _Preparation, paths: list[Path], folder: Path) -> None:
    """Sorts the encoded events into columns; writes the manifest last."""
    events = sum(path.stat().st_size for path in paths) // EVENT_DTYPE.itemsize
    timed = work.log.time is not None
    kinds = DTYPES if timed else {name: kind for name, kind in DTYPES.items() if name != "times"}
    columns = {name: _new_column(folder / f"{name}.npy", kind, events) for name, kind in kinds.items()}
    counts, done = np.zeros(len(work.order), dtype=np.int64), 0
    work.report("sorting", 0.0)
    for batch in _sorted_batches(paths, folder.parent / "spilled"):
        place = slice(done, done + batch.num_rows)
        columns["candidates"][place] = batch["candidate"].to_numpy()
        columns["rows"][place] = batch["row"].to_numpy()
        if timed:
            columns["times"][place] = batch["time"].to_numpy()
        counts += np.bincount(batch["query"].to_numpy(), minlength=len(counts))
        done += batch.num_rows
        work.report("sorting", done / max(1, events))
    for column in columns.values():
        column.flush()
    _save(folder / "queries.npy", work.order)
    _save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    manifest = Manifest(FORMAT, work.key, events, len(work.order), timed)
    write_file(folder / MANIFEST, msgspec.json.encode(manifest))


def _new_column(path: Path, kind: str, events: int) -> np.memmap[Any, Any]:
    """A mapped `.npy` file whose space on disk is reserved: writing to a map on a full disk would kill the process."""
    column = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(events,))
    if hasattr(os, "posix_fallocate"):  # Linux
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return column


def _save(path: Path, array: npt.NDArray[np.int64]) -> None:
    """Writes a `.npy` file. `np.save` hides the reason of a failed write, such as a full disk."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).data)


def _sorted_batches(paths: list[Path], spilled: Path) -> Iterator[pa.RecordBatch]:
    """The encoded events sorted by query, time and row, in batches; DuckDB spills to disk what exceeds its memory."""
    duckdb = require("duckdb", "large")
    shutil.rmtree(spilled, ignore_errors=True)
    schema = pa.schema({"query": pa.int32(), "candidate": pa.int32(), "time": pa.float64(), "row": pa.int64()})
    settings = {
        "memory_limit": SORT_MEMORY,
        "temp_directory": str(spilled),
        "threads": allowed_threads(),
        "preserve_insertion_order": False,
    }
    try:
        with duckdb.connect(config=settings) as connection:
            connection.register("events", pa.RecordBatchReader.from_batches(schema, _batches(paths, schema)))
            yield from connection.sql("SELECT * FROM events ORDER BY query, time, row").to_arrow_reader(BATCH_EVENTS)
    except duckdb.Error as error:
        reason = str(error).partition(" Detail: ")[0]  # without the traceback of an error in `_batches`
        raise ConfigError(f"the events cannot be sorted in {spilled.parent}: {reason}") from error
    shutil.rmtree(spilled, ignore_errors=True)


def _batches(paths: list[Path], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for path in paths:
        with path.open("rb") as file:
            while len(events := np.fromfile(file, dtype=EVENT_DTYPE, count=BATCH_EVENTS)):
                columns = [np.ascontiguousarray(events[name]) for name in schema.names]
                yield pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=schema)
