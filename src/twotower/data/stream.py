"""`ParquetLog`: an interaction log that stays on disk and is read piece by piece, in order or shuffled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.checks import Place, check_ids, require_columns
from twotower.data.dataset import Dataset, IntArray, concat
from twotower.data.lookup import distinct_ids
from twotower.data.ordered import SortedEvents
from twotower.data.parquet import BoolArray, ParquetRows
from twotower.data.preparation import prepared
from twotower.data.scratch import scratch
from twotower.data.sources import TableSource, read_source, with_ids_like
from twotower.data.tables import LogTables, cast_ids
from twotower.errors import ConfigError, DataError
from twotower.progress import Display, opened

PIECES_PER_BUFFER = 64
"""A row group is read in pieces of this part of the buffer; see `ParquetLog.shuffled`."""


@dataclass(frozen=True, eq=False)
class Excerpt(Dataset):
    """Some of a log's events in memory, which still knows how often the whole log has each candidate.

    Attributes:
        counts: Events of each candidate in the whole log, `[candidates]`.
    """

    counts: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False)

    def candidate_counts(self) -> IntArray:
        """How often each candidate was chosen in the whole log, `[candidates]`."""
        return self.counts


@dataclass(frozen=True, eq=False)
class ParquetLog:
    """A log larger than memory: interactions in Parquet files, queries and candidates in memory.

    `stream_parquet` makes one. `TwoTower.learn` and `Trainer.fit` take it in place of a `Dataset`; what is measured
    on is a `Dataset`, which `part` makes so that it shares the candidate table.

    Attributes:
        tables: The query and the candidate table, and the names of columns.
        rows: The row groups.
        buffer: Events held at once while it is read.
        size: Events, without those dropped.
        dropped: Events left out because their candidate is unknown.
        fingerprint: As that of a `Dataset` of the same events.
        latest_time: Seconds of the latest event; None where the log has no time.
        own_queries: Whether the query table was made of the log's ids.
        sums: What the fingerprint is made of; see `Fingerprint.sums`.
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

    def __len__(self) -> int:
        """Number of interactions."""
        return self.size

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.tables.name

    @property
    def queries(self) -> pa.Table:
        """One row a query."""
        return self.tables.queries

    @property
    def candidates(self) -> pa.Table:
        """One row a candidate."""
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
        """Names of the columns of the files."""
        names: list[str] = self.rows.schema.names
        return names

    @property
    def in_memory(self) -> None:
        """The events stay on disk."""
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
        """All events by query and time, mapped from disk; the first time, the files are prepared for it.

        That is sorted out of core and kept in a folder `_twotower` beside the files, or, where that cannot be written,
        among the data sets (`TWOTOWER_DATA_HOME`). Files that change are prepared again.

        Args:
            progress: Shows how far the preparation is: a display that is open, or True for one of its own where a
                person watches.

        Raises:
            ConfigError: There is no folder that can be written.
            DataError: The files cannot be read any more, or have changed.
            MissingExtraError: DuckDB is not installed.
        """
        if (known := self._known.get("events")) is None:
            with opened(progress) as display:
                report = display.reporter(f"preparing {self.name}")
                everything = prepared(self, self.rows.whole(), self._encoded, report)
            known = everything if self.rows.kept is None else everything.only(self.rows.kept)
            if len(known) != self.size:
                raise DataError(f"{self._changed}: expected {self.size} events, found {len(known)}")
            self._known["events"] = known
        return known

    def candidate_column(self, column: str) -> pa.ChunkedArray:
        """A column of the candidate table; see `Dataset.candidate_column`."""
        return self._empty().candidate_column(column)

    def identity(self) -> list[str]:
        """Digits of the events, and the sizes of buffer and row groups, which decide their order in training."""
        return [self.fingerprint, f"{self.buffer}:{','.join(str(group.rows) for group in self.rows.groups)}"]

    def part(self, interactions: TableSource, name: str | None = None, *, delimiter: str | None = None) -> Dataset:
        """Other events in memory, such as those to validate on, with this log's candidates.

        Where the query table was made of the log's ids, queries that it lacks come after them.

        Args:
            interactions: The events, with the log's columns; see `from_tables`.
            name: What reports call it; default: as the log.
            delimiter: What stands between the cells of CSV files; default: told from the header.

        Raises:
            DataError: As `from_tables`.
        """
        read = read_source(interactions, "interactions", delimiter=delimiter)
        log, place = read.table, Place(origin=read.origin)
        require_columns(log, self.tables.columns, "interactions")
        if log.num_rows == 0:
            raise DataError("the interactions have no rows; expected at least one event")
        for column in (self.query_id, self.candidate_id):
            kind = self.rows.schema.field(column).type
            ids = cast_ids(with_ids_like(read, kind, column).table[column], kind, column, "the part")
            log = log.set_column(log.column_names.index(column), column, ids)
        tables = self.tables
        if self.own_queries:
            known = self.queries[self.query_id].combine_chunks()
            check_ids(log[self.query_id], self.query_id, "interactions", place=place)
            ids = distinct_ids(log[self.query_id])
            new = ids.filter(pc.invert(pc.is_in(ids, value_set=known)))
            tables = tables.with_queries(pa.table({self.query_id: pa.chunked_array([known, new])}))
        return replace(tables.events(log, place), name=name or self.name)

    def read(self, queries: npt.NDArray[np.bool_] | None = None) -> Excerpt:
        """Events in memory, with their times and weights alone, in the order of the log.

        Args:
            queries: Of which queries, `[queries]`; default: of all.
        """
        parts = []
        for events in self._in_order([]):
            parts.append(events if queries is None else events.take(queries[events.query_index]))
        return self._excerpt(concat(parts))

    def events_of(self, part: Dataset) -> Excerpt:
        """The log's events of the queries that a part names, in memory: what its evaluation has to know of the log.

        Raises:
            DataError: The part does not come from this log's `part`.
        """
        own = len(self._query_counts)
        same = part.candidates.equals(self.candidates) and part.queries.slice(0, own).equals(self.queries)
        if not same:
            raise DataError(
                f"the part has {part.candidates.num_rows} candidates and {part.queries.num_rows} queries, which are "
                f"not those of the streamed log ({self.candidates.num_rows} and {own}); expected what its part(…) gives"
            )
        named = np.zeros(part.queries.num_rows, dtype=bool)
        named[part.query_index] = True
        return replace(self.read(named[:own]), queries=part.queries)

    def events_to_learn(self, most: int, columns: Iterable[str], seed: int) -> Excerpt:
        """Events drawn uniformly from the whole log, in its order; all of them where there are no more.

        Args:
            most: How many at most.
            columns: Columns of the interactions to read beside time and weight.
            seed: Seed of the draw.
        """
        total = len(self.rows)
        # The distinct ones of independent draws are a uniform sample of their number.
        drawn = np.random.default_rng(seed).integers(total, size=most) if total > most else np.arange(total)
        rows = np.unique(drawn)
        parts, wanted = [self._empty(columns)], self._wanted(columns)
        for first_row, table in self.rows.in_order(wanted, self.buffer // 2):
            begin, end = np.searchsorted(rows, [first_row, first_row + table.num_rows])
            if end > begin:
                parts.append(self._events(table.take(pa.array(rows[begin:end] - first_row)), columns))
        return self._excerpt(concat(parts))

    def shuffled(self, seed: int, epoch: int, batch_size: int, columns: Iterable[str] = ()) -> Iterator[Dataset]:
        """All events once, in an order that (seed, epoch) determine, in parts of whole batches.

        The row groups are permuted; pieces of several of them are read by turns into a pool, whose events are
        permuted, and what is left of the last batch goes to the next pool. So only the last batch of all may be
        short. A pool is less than half of the buffer: the part that was given out before may still be in use.

        Args:
            seed: Seed of the order.
            epoch: Number of the epoch, each of which has an order of its own.
            batch_size: Every part but the last has a multiple of so many events.
            columns: Columns of the interactions to read beside time and weight.

        Raises:
            ConfigError: The buffer is too small for the batch.
            DataError: The files have changed or cannot be read any more.
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
                if len(part):  # else most of the pool was dropped
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
        """A pool in random order, cut into whole batches and what is left of them."""
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
            DataError: It has none.
        """
        if self.time is None:
            raise DataError(f"data set {self.name!r} has no time column, which this needs; name one with time=…")

    def event_rows(self) -> BoolArray:
        """Which rows of the files are events of this log, `[rows of the files]`."""
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
        """Events in memory, with all their columns, in the order of the log.

        Args:
            rows: Which rows of the files, `[rows of the files]`.
        """
        names = self.rows.schema.names
        parts = [self._timed(self.tables.dataset(self.rows.empty(names), Place(whole=False)))]
        for _, table in self.rows.only(rows).in_order(names, self.buffer // 2):
            parts.append(self._timed(self._encoded(table)))
        return concat(parts)

    @cached_property
    def cuts(self) -> dict[str, Any]:
        """The parts that `split_log` has made of this log, by rule."""
        return {}

    def _encoded(self, table: pa.Table) -> Dataset:
        try:
            return self.tables.dataset(table, Place(whole=False))
        except (DataError, pa.ArrowInvalid) as error:
            raise DataError(f"{self._changed}: {error}") from error

    @cached_property
    def _known(self) -> dict[str, SortedEvents]:
        """What has been read of the prepared folder."""
        return {}

    def _wanted(self, columns: Iterable[str]) -> list[str]:
        return list(dict.fromkeys([*self.tables.columns, *columns]))

    def _in_order(self, columns: Iterable[str]) -> Iterator[Dataset]:
        for _, table in self.rows.in_order(self._wanted(columns), self.buffer // 2):
            yield self._events(table, columns)

    def _events(self, table: pa.Table, columns: Iterable[str]) -> Dataset:
        """Rows of the files as events, without their ids, which take the most memory and of which only rows matter."""
        data = self._timed(self.tables.dataset(table, Place(whole=False)))
        log = data.interactions
        kept = [name for name in log.column_names if name in (self.time, self.weight, *columns)]
        # A table without a column forgets how many rows it has.
        return replace(data, interactions=log.select(kept or [self.query_id]))

    def _timed(self, data: Dataset) -> Dataset:
        """The same with times of the type that those of the whole log have."""
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
