"""`ParquetLog`: an interaction log that stays on disk and is read in pieces, in order or shuffled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.data.availability import Availability
from twotower.data.dataset import Dataset, IntArray, concat
from twotower.data.excerpt import Excerpt
from twotower.data.exposures import Exposures
from twotower.data.ordered import SortedEvents
from twotower.data.parquet import BoolArray, ParquetRows
from twotower.data.part import part_of
from twotower.data.place import Place
from twotower.data.preparation import prepared
from twotower.data.scratch import scratch
from twotower.data.sources import CsvFormat, Decimal, TableSource
from twotower.data.tables import LogTables
from twotower.errors import ConfigError, DataError
from twotower.progress import Display, opened

PIECES_PER_BUFFER = 64
"""Row groups are read in pieces of the buffer size divided by this; see `ParquetLog.shuffled`."""


@dataclass(frozen=True, eq=False)
class ParquetLog:
    """A log larger than memory: interactions in Parquet files, queries and candidates in memory.

    Open one with `stream_parquet`. `TwoTower.learn` and `Trainer.fit` accept it in place of a `Dataset`. Evaluation
    takes a `Dataset`; `part` makes one that shares the candidate table.

    Attributes:
        tables: The query and candidate tables, and the column names.
        rows: The row groups.
        buffer: Number of events held in memory while reading.
        size: Number of events, without dropped ones.
        dropped: Number of events dropped because their candidate is unknown.
        fingerprint: The same as for a `Dataset` of the same events.
        latest_time: Time of the latest event in seconds; None when the log has no times.
        own_queries: Whether the query table was built from the ids in the log.
        sums: The hash sums behind the fingerprint; see `Fingerprint.sums`.
        exposures: What was shown with the events and not chosen; None if the log does not say.
    """

    tables: LogTables
    rows: ParquetRows
    buffer: int
    size: int
    dropped: int
    fingerprint: str
    latest_time: float | None
    _candidate_weights: npt.NDArray[np.float64] = field(repr=False)
    _candidate_counts: IntArray = field(repr=False)
    _query_counts: IntArray = field(repr=False)
    _time_type: pa.DataType = field(repr=False)
    own_queries: bool = field(repr=False)
    sums: npt.NDArray[np.uint64] = field(repr=False)
    exposures: Exposures | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Number of interactions."""
        return self.size

    @property
    def name(self) -> str:
        """Name in reports."""
        return self.tables.name

    @property
    def queries(self) -> pa.Table:
        """One row per query."""
        return self.tables.queries

    @property
    def candidates(self) -> pa.Table:
        """One row per candidate."""
        return self.tables.candidates

    @property
    def query_id(self) -> str:
        """Name of the id column in interactions and queries."""
        return self.tables.query_id

    @property
    def candidate_id(self) -> str:
        """Name of the id column in interactions and candidates."""
        return self.tables.candidate_id

    @property
    def time(self) -> str | None:
        """Name of the time column."""
        return self.tables.time

    @property
    def weight(self) -> str | None:
        """Name of the weight column."""
        return self.tables.weight

    @property
    def columns(self) -> list[str]:
        """Names of the columns in the files."""
        chosen = None if self.exposures is None else self.exposures.chosen
        return [name for name in self.rows.schema.names if name != chosen]

    @cached_property
    def availability(self) -> Availability | None:
        """When each candidate is available; None if all always are."""
        limits = self.tables.limits
        return None if limits is None else limits.of(self.candidates)

    @property
    def in_memory(self) -> None:
        """Always None: the events stay on disk."""
        return None

    def candidate_counts(self) -> IntArray:
        """How often each candidate was chosen, `[candidates]`."""
        return self._candidate_counts

    def query_counts(self) -> IntArray:
        """How many events each query has, `[queries]`."""
        return self._query_counts

    def candidate_weights(self) -> npt.NDArray[np.float64]:
        """Sum of the weights of each candidate's events, or their number, `[candidates]`."""
        return self._candidate_weights

    def sorted_events(self, progress: Display | bool = True) -> SortedEvents:
        """All events sorted by query and time, memory-mapped; the first call prepares the files.

        Preparation sorts the events out of core and keeps the result in a folder `_twotower` beside the files or, if
        that is not writable, with the data sets (`TWOTOWER_DATA_HOME`). Files that change are prepared again.

        Args:
            progress: Where to show the progress: an open display, or True to open one if the session is interactive.

        Raises:
            ConfigError: There is no writable folder.
            DataError: The files can no longer be read, or have changed.
            MissingExtraError: DuckDB is not installed.
        """
        if (known := self._known.get("events")) is None:
            with opened(progress) as display:
                report = display.reporter(f"preparing {self.name}")
                encode = partial(self._encoded, tables=self.tables.without_weight())
                everything = prepared(self, self.rows.whole(), encode, report)
            known = everything if self.rows.kept is None else everything.only(self.rows.kept)
            if len(known) != self.size:
                raise DataError(f"{self._changed}: expected {self.size} events, found {len(known)}")
            self._known["events"] = known
        return known

    def candidate_column(self, column: str) -> pa.ChunkedArray:
        """A column of the candidate table; see `Dataset.candidate_column`."""
        return self._empty().candidate_column(column)

    def identity(self) -> list[str]:
        """The fingerprint, digests of what lies beside the events, and the sizes of the buffer and the row groups.

        These sizes determine the training order.
        """
        beside = [one.digest() for one in (self.exposures, self.availability) if one is not None]
        return [self.fingerprint, *beside, f"{self.buffer}:{','.join(str(group.rows) for group in self.rows.groups)}"]

    def part(
        self,
        interactions: TableSource,
        name: str | None = None,
        *,
        delimiter: str | None = None,
        decimal: Decimal = ".",
    ) -> Dataset:
        """Other events, such as a validation part, as a `Dataset` with this log's candidates.

        If the query table was built from the ids in the log, new queries are appended to it.

        Args:
            interactions: The events, with the log's columns; see `from_tables`.
            name: Name in reports; default: the log's name.
            delimiter: Delimiter of CSV files; default: detected from the header.
            decimal: Decimal mark of CSV files: `.` or `,`.

        Raises:
            ConfigError: The name is blank.
            DataError: As `from_tables`.
        """
        exposures = self.exposures
        chosen, request = (None, None) if exposures is None else (exposures.chosen, exposures.request)
        tables = self.tables.with_chosen(chosen, request)
        return part_of(tables, self.rows.schema, interactions, CsvFormat(delimiter, decimal), name, self.own_queries)

    def read(self, queries: npt.NDArray[np.bool_] | None = None) -> Excerpt:
        """Reads events into memory, in log order, with only their times and weights.

        Args:
            queries: Mask of the queries to read, `[queries]`; default: all.
        """
        parts = [one if queries is None else one.take(queries[one.query_index]) for one in self._in_order([])]
        return self._excerpt(concat(parts))

    def events_of(self, part: Dataset) -> Excerpt:
        """Reads the log's events of the queries in `part` into memory, for evaluating on that part.

        Raises:
            DataError: The part was not made by this log's `part` method.
        """
        own = len(self._query_counts)
        same = part.candidates.equals(self.candidates) and part.queries.slice(0, own).equals(self.queries)
        if not same:
            raise DataError(
                f"the part has {part.candidates.num_rows} candidates and {part.queries.num_rows} queries, which are "
                f"not those of the streamed log ({self.candidates.num_rows} and {own}); make the part with its part(…)"
            )
        named = np.zeros(part.queries.num_rows, dtype=bool)
        named[part.query_index] = True
        return replace(self.read(named[:own]), queries=part.queries)

    def events_to_learn(self, most: int, columns: Iterable[str], seed: int) -> Excerpt:
        """A uniform sample of at most `most` events, in log order; all events if the log has no more.

        Args:
            most: Maximum size of the sample.
            columns: Columns of the interactions to read besides time and weight.
            seed: Seed of the sample.
        """
        total = len(self.rows)
        # The distinct values of independent draws are a uniform sample of that size.
        drawn = np.random.default_rng(seed).integers(total, size=most) if total > most else np.arange(total)
        rows = np.unique(drawn)
        parts, wanted = [self._empty(columns)], self._wanted(columns)
        for first_row, table in self.rows.in_order(wanted, self.buffer // 2):
            begin, end = np.searchsorted(rows, [first_row, first_row + table.num_rows])
            if end > begin:
                parts.append(self._events(table.take(pa.array(rows[begin:end] - first_row)), columns))
        return self._excerpt(concat(parts))

    def shuffled(self, seed: int, epoch: int, batch_size: int, columns: Iterable[str] = ()) -> Iterator[Dataset]:
        """All events once, in an order determined by (seed, epoch), in parts of whole batches.

        The row groups are permuted, and pieces from several of them are read alternately into a pool. The events of
        the pool are permuted, and an incomplete last batch is carried over to the next pool, so only the very last
        batch may be short. A pool fills less than half of the buffer, since the previous part may still be in use.

        Args:
            seed: Seed of the order.
            epoch: Number of the epoch; each epoch has its own order.
            batch_size: The size of every part but the last is a multiple of this.
            columns: Columns of the interactions to read besides time and weight.

        Raises:
            ConfigError: The buffer is too small for the batch size.
            DataError: The files have changed or can no longer be read.
        """
        pool_size, piece = self.buffer // 2, max(1, self.buffer // PIECES_PER_BUFFER)
        if batch_size > pool_size - piece:
            raise ConfigError(
                f"batch_size={batch_size} with buffer={self.buffer}; expected a buffer of more than "
                f"{2 * batch_size + 2 * piece} events, so that half of it holds a batch"
            )
        draw = np.random.default_rng([seed, epoch])
        order = draw.permutation(len(self.rows.groups)).tolist()
        wanted = self._wanted(columns)
        rest, waiting, held, given = self._empty(columns), list[pa.Table](), 0, 0
        for table in self.rows.interleaved(order, wanted, piece):
            waiting.append(table)
            held += table.num_rows
            if held >= pool_size - piece:
                part, rest = self._cut(rest, waiting, batch_size, columns, draw)
                waiting, held = [], len(rest)
                given += len(part)
                if len(part):  # otherwise most of the pool was dropped
                    yield part
                del part
        last, rest = self._cut(rest, waiting, 1, columns, draw)
        if given + len(last) != self.size:
            raise DataError(f"{self._changed}: expected {self.size} events, found {given + len(last)}")
        if len(last):
            yield last

    def _cut(
        self, rest: Dataset, waiting: list[pa.Table], batch_size: int, columns: Iterable[str], draw: np.random.Generator
    ) -> tuple[Dataset, Dataset]:
        """Shuffles a pool and cuts it into whole batches and the remainder."""
        pool = rest
        if waiting:
            try:
                fresh = self._events(pa.concat_tables(waiting).combine_chunks(), columns)
            except (DataError, pa.ArrowInvalid) as error:
                raise DataError(f"{self._changed}: {error}") from error
            pool = concat([rest, fresh])
        order = draw.permutation(len(pool))
        whole = len(pool) - len(pool) % batch_size
        return pool.take(order[:whole]), pool.take(order[whole:])

    @property
    def _changed(self) -> str:
        return f"the files of {self.name!r} have changed since they were opened"

    def require_time(self) -> None:
        """Refuses a log without times.

        Raises:
            DataError: The log has no time column.
        """
        if self.time is None:
            raise DataError(f"data set {self.name!r} has no time column, but this needs one; set time=…")

    def event_rows(self) -> BoolArray:
        """Mask of the rows that are events of this log, `[rows of the files]`."""
        if self.rows.kept is not None:
            return self.rows.kept
        own: BoolArray = scratch(self.rows.in_files, np.bool_)
        if self.dropped == 0:
            own[:] = True
        else:
            events = self.sorted_events()
            for piece in events.pieces():
                own[events.rows[piece.events]] = True
        return own

    def events_at(self, rows: BoolArray) -> Dataset:
        """Reads events into memory, in log order, with all their columns.

        Args:
            rows: Mask of the rows to read, `[rows of the files]`.
        """
        names = self.columns
        parts = [self._timed(self.tables.dataset(self.rows.empty(names), Place(whole=False)))]
        for _, table in self.rows.only(rows).in_order(names, self.buffer // 2):
            parts.append(self._timed(self._encoded(table, self.tables)))
        shown = self.exposures
        return replace(concat(parts), exposures=None if shown is None else shown.take(np.flatnonzero(rows)))

    @cached_property
    def cuts(self) -> dict[str, Any]:
        """Cache of the splits that `split_log` has made of this log, by rule."""
        return {}

    def _encoded(self, table: pa.Table, tables: LogTables) -> Dataset:
        try:
            return tables.dataset(table, Place(whole=False))
        except (DataError, pa.ArrowInvalid) as error:
            raise DataError(f"{self._changed}: {error}") from error

    @cached_property
    def _known(self) -> dict[str, SortedEvents]:
        """Cache of the sorted events."""
        return {}

    def _wanted(self, columns: Iterable[str]) -> list[str]:
        return list(dict.fromkeys([*self.tables.columns, *columns]))

    def _in_order(self, columns: Iterable[str]) -> Iterator[Dataset]:
        for _, table in self.rows.in_order(self._wanted(columns), self.buffer // 2):
            yield self._events(table, columns)

    def _events(self, table: pa.Table, columns: Iterable[str]) -> Dataset:
        """Converts rows of the files to events; drops the ids, which take the most memory and are no longer needed."""
        data = self._timed(self.tables.dataset(table, Place(whole=False)))
        log = data.interactions
        kept = [name for name in log.column_names if name in (self.time, self.weight, *columns)]
        # An Arrow table without columns loses its number of rows.
        return replace(data, interactions=log.select(kept or [self.query_id]))

    def _timed(self, data: Dataset) -> Dataset:
        """Casts the times to the time type of the whole log."""
        if self.time is None:
            return data
        log = data.interactions
        log = log.set_column(log.column_names.index(self.time), self.time, log[self.time].cast(self._time_type))
        return replace(data, interactions=log)

    def _empty(self, columns: Iterable[str] = ()) -> Dataset:
        return self._events(self.rows.empty(self._wanted(columns)), columns)

    def _excerpt(self, events: Dataset) -> Excerpt:
        own = {one.name: getattr(events, one.name) for one in fields(Dataset)}
        return Excerpt(**own, counts=self._candidate_counts)
