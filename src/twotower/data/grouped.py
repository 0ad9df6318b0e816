"""`GroupedEvents`: a log on disk, read so that all events of a group, such as one request, are in memory together."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO
from weakref import finalize

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.dataset import Dataset, IntArray, concat
from twotower.data.fingerprints import mixed
from twotower.data.log import Log
from twotower.errors import ConfigError, DataError
from twotower.progress import ReportStep, no_report

BUCKETS_PER_POOL = 4
"""A pool of events is read from about this many buckets; which ones differs in each epoch."""

QUERY, CANDIDATE = "\x00query", "\x00candidate"
"""Names of the columns of row numbers in the file; no log has columns of these names."""


@dataclass(frozen=True)
class Grouping:
    """How events are grouped.

    Attributes:
        column: A column of the interactions; events without a value are in no group. None groups by query.
    """

    column: str | None

    def numbers(self, events: Dataset) -> IntArray:
        """Group of each event, negative for events without one, `[N]`; the same group has another number elsewhere."""
        if self.column is None:
            return events.query_index
        values = _encoded(events, self.column)
        numbers: IntArray = values.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return numbers

    def keys(self, events: Dataset, first: int) -> npt.NDArray[np.uint64]:
        """Hash of each event's group, `[N]`; of an event without a group, hash of its number in the log.

        Args:
            events: Consecutive events.
            first: Number of the first of them.
        """
        if self.column is None:
            return mixed(events.query_index.astype(np.uint64), np.uint64(1))
        values, numbers = _encoded(events, self.column), self.numbers(events)
        texts = values.dictionary.cast(pa.string()).to_pylist()
        hashes = np.array([zlib.crc32(text.encode()) for text in [*texts, ""]], dtype=np.uint64)
        alone = np.arange(first, first + len(events), dtype=np.uint64)
        return mixed(np.where(numbers < 0, alone, hashes[numbers]), np.uint64(1))


def _encoded(events: Dataset, column: str) -> pa.DictionaryArray:
    values = events.interactions[column].combine_chunks()
    if pa.types.is_nested(values.type):
        raise DataError(
            f"column {column!r} is {values.type}; expected single values to group events by, such as request ids",
            column=column,
        )
    return pc.dictionary_encode(values)


class GroupedEvents:
    """The events of a log in an unnamed file, in buckets that contain whole groups.

    The file takes as much space in the system's temporary folder as the columns do uncompressed, and disappears with
    this object or the process.

    Args:
        log: The log.
        grouping: How its events are grouped.
        batch_size: Events per step.
        columns: Columns of the interactions to keep besides time and weight.
        report: Receives the progress.

    Raises:
        ConfigError: There is no room for the file, or the log's buffer is too small for the batch size.
        DataError: The log can no longer be read, or the column holds lists.
    """

    def __init__(
        self,
        log: Log,
        grouping: Grouping,
        batch_size: int,
        columns: Iterable[str] = (),
        report: ReportStep = no_report,
    ) -> None:
        self.grouping, self.batch_size = grouping, batch_size
        own = [] if grouping.column is None else [grouping.column]
        self._chunks: list[list[tuple[int, int]]] = []
        try:
            self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
            finalize(self, self._file.close)
            done = 0
            for part in log.shuffled(0, 0, batch_size, [*columns, *own]):
                if not self._chunks:  # the first part is as large as a pool
                    self._pool, self._template = len(part), part.take(np.zeros(0, dtype=np.int64))
                    self._chunks = [[] for _ in range(-(-len(log) * BUCKETS_PER_POOL // len(part)))]
                self._append(part, done)
                done += len(part)
                report("grouping events", done / len(log))
        except OSError as error:
            raise ConfigError(f"{tempfile.gettempdir()} has no room for the grouped events: {error}") from error

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Dataset, IntArray]]:
        """All events once, in an order determined by (seed, epoch), in parts that contain whole groups.

        Each part comes with the order of the events to train on: whole batches, except in the last part. Events left
        over, and the others of their groups, are in the next part again. In every part that contains a group, its
        events come in the same order.
        """
        draw = np.random.default_rng([seed, epoch])
        carried, waiting = self._template, np.zeros(0, dtype=bool)
        held, pool = 0, list[Dataset]()
        buckets = draw.permutation(len(self._chunks)).tolist()
        for place, bucket in enumerate(buckets, start=1):
            pool.append(self._read(bucket))
            held += len(pool[-1])
            if place < len(buckets) and held < self._pool:
                continue
            events, is_new = concat([carried, *pool]), np.ones(held, dtype=bool)
            pool, held = [], 0
            rows = draw.permutation(np.flatnonzero(np.concatenate([waiting, is_new])))
            whole = len(rows) if place == len(buckets) else len(rows) - len(rows) % self.batch_size
            carried, waiting = self._carried(events, rows[whole:])
            if whole:
                yield events, rows[:whole]

    def _carried(self, events: Dataset, rest: IntArray) -> tuple[Dataset, npt.NDArray[np.bool_]]:
        """The groups of the events left over, and a mask of these events among them."""
        groups, is_left = self.grouping.numbers(events), np.zeros(len(events), dtype=bool)
        is_left[rest] = True
        of_group = np.isin(groups, groups[rest]) & (groups >= 0)
        kept = np.flatnonzero(of_group | is_left)
        return events.take(kept), is_left[kept]

    def _append(self, part: Dataset, first: int) -> None:
        """Writes events to their buckets, each an Arrow stream of its own."""
        buckets = (self.grouping.keys(part, first) % np.uint64(len(self._chunks))).astype(np.int64)
        order = np.argsort(buckets, kind="stable")
        table = part.interactions.append_column(QUERY, pa.array(part.query_index))
        table = table.append_column(CANDIDATE, pa.array(part.candidate_index)).take(pa.array(order)).combine_chunks()
        ends = np.cumsum(np.bincount(buckets, minlength=len(self._chunks)))
        for bucket, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if end > begin:
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, table.schema) as writer:
                    writer.write_table(table.slice(begin, end - begin))
                content = sink.getvalue()
                self._chunks[bucket].append((self._file.seek(0, 2), len(content)))
                self._file.write(content)

    def _read(self, bucket: int) -> Dataset:
        """The events of a bucket, in log order."""
        tables = [self._template_table()]
        for begin, size in self._chunks[bucket]:
            self._file.seek(begin)
            tables.append(pa.ipc.open_stream(self._file.read(size)).read_all())
        table = pa.concat_tables(tables)
        return replace(
            self._template,
            interactions=table.drop_columns([QUERY, CANDIDATE]),
            query_index=table[QUERY].to_numpy(),
            candidate_index=table[CANDIDATE].to_numpy(),
        )

    def _template_table(self) -> pa.Table:
        empty = pa.array([], pa.int64())
        return self._template.interactions.append_column(QUERY, empty).append_column(CANDIDATE, empty)
