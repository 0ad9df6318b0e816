"""The `Dataset`: an interaction log with its query and candidate tables, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.arguments import shortened
from twotower.data.availability import Availability, Limits
from twotower.data.exposures import Exposures, joined
from twotower.data.fingerprints import fingerprint
from twotower.data.ordered import SortedEvents
from twotower.errors import ConfigError, DataError

IntArray = npt.NDArray[np.int64]


class Oracle(Protocol):
    """The true choice probabilities behind simulated data: the best scores that any model can reach."""

    def log_probabilities(self, query_index: IntArray, times: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Log-probability of every candidate, `[n, candidates]`, for queries asked at `times` (seconds)."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Who chose what, and when: a table of interactions, one of queries and one of candidates.

    Build one with `from_tables`, `movielens` or `simulated`, which check it. `take` returns a part that
    shares the query and candidate tables with the whole, so row numbers mean the same in every part.

    Attributes:
        name: Name of the data set in reports.
        interactions: One row an event, `[N]` rows.
        queries: One row a query (a user), unique by `query_id`.
        candidates: One row a candidate (an item), unique by `candidate_id`: the whole catalogue.
        query_id: Name of the id column in `interactions` and `queries`.
        candidate_id: Name of the id column in `interactions` and `candidates`.
        time: Name of the time column in `interactions`, in seconds; None when the log has no times.
        weight: Name of the weight column in `interactions`; None when every event counts the same.
        query_index: Row of `queries` of each event, `[N]`.
        candidate_index: Row of `candidates` of each event, `[N]`.
        dropped: Number of events dropped because their candidate is unknown (`unknown_candidates="drop"`).
        dropped_candidates: Ids of some of these candidates.
        oracle: The true choice probabilities where they are known (simulated data).
        terms: Terms of use of the data, in a sentence.
        exposures: What was shown with the events and not chosen; None if the log does not say. Exposures are not
            events: nothing counts them as choices.
        limits: The columns of `candidates` that say when each is available; None when all always were.
    """

    name: str
    interactions: pa.Table
    queries: pa.Table
    candidates: pa.Table
    query_id: str
    candidate_id: str
    time: str | None
    weight: str | None
    query_index: IntArray = field(repr=False)
    candidate_index: IntArray = field(repr=False)
    dropped: int = 0
    dropped_candidates: tuple[object, ...] = ()
    oracle: Oracle | None = field(default=None, repr=False)
    terms: str = ""
    exposures: Exposures | None = field(default=None, repr=False)
    limits: Limits | None = None

    def __repr__(self) -> str:
        tables = {"interactions": self.interactions, "queries": self.queries, "candidates": self.candidates}
        sizes = (f"{table.num_rows:,} {name} ({', '.join(table.column_names)})" for name, table in tables.items())
        return f"Dataset({self.name!r}: {'; '.join(sizes)})"

    def __len__(self) -> int:
        """Number of interactions."""
        return int(self.interactions.num_rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the interactions."""
        names: list[str] = self.interactions.column_names
        return names

    @property
    def in_memory(self) -> Dataset:
        """The data set itself: all its events are in memory."""
        return self

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Time of each event in seconds, `[N]`.

        Raises:
            DataError: The data set has no time column.
        """
        if self.time is None:
            raise DataError(f"data set {self.name!r} has no time column, but this needs one; set time=…")
        column: npt.NDArray[np.float64] = self.interactions[self.time].to_numpy().astype(np.float64)
        return column

    @cached_property
    def availability(self) -> Availability | None:
        """When each candidate was available; None when all always were."""
        return None if self.limits is None else self.limits.of(self.candidates)

    def unavailable(self, events: IntArray) -> npt.NDArray[np.bool_] | None:
        """Which candidates were not available to some events, `[n]` to `[n, candidates]`; None when all always were.

        What an event chose was available to it, whatever the table says.
        """
        if self.availability is None:
            return None
        missing = self.availability.lacks(np.arange(self.candidates.num_rows), self.times[events][:, np.newaxis])
        missing[np.arange(len(events)), self.candidate_index[events]] = False
        return missing

    @property
    def weights(self) -> npt.NDArray[np.float32]:
        """Weight of each event, `[N]`; all ones when the log has no weight column."""
        if self.weight is None:
            return np.ones(len(self), dtype=np.float32)
        column: npt.NDArray[np.float32] = self.interactions[self.weight].to_numpy().astype(np.float32)
        return column

    def take(self, rows: npt.NDArray[Any]) -> Dataset:
        """The events at `rows` (row numbers or a boolean mask), in that order, with the same queries and candidates.

        Raises:
            ConfigError: `rows` is neither, or a row number is out of range.
        """
        numbers = _row_numbers(rows, len(self))
        return replace(
            self,
            interactions=self.interactions.take(pa.array(numbers)),
            query_index=self.query_index[numbers],
            candidate_index=self.candidate_index[numbers],
            exposures=None if self.exposures is None else self.exposures.take(numbers),
        )

    def candidate_counts(self) -> IntArray:
        """How often each candidate was chosen, `[candidates]`."""
        return np.bincount(self.candidate_index, minlength=self.candidates.num_rows)

    def query_counts(self) -> IntArray:
        """How many events each query has, `[queries]`."""
        return np.bincount(self.query_index, minlength=self.queries.num_rows)

    def candidate_weights(self) -> npt.NDArray[np.float64]:
        """Sum of the weights of each candidate's events, `[candidates]`."""
        return self.sums_by_candidate(self.weights)

    def sums_by_candidate(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Sum of `values` over each candidate's events, `[candidates]`; bit-identical for any order of the log.

        Args:
            values: One number per event, `[N]`.
        """
        order = np.lexsort((values, self.candidate_index))
        sums: npt.NDArray[np.float64] = np.bincount(
            self.candidate_index[order], weights=values[order], minlength=self.candidates.num_rows
        ).astype(np.float64)
        return sums

    def query_column(self, column: str) -> tuple[pa.ChunkedArray, IntArray]:
        """A query-side column and, for each event, its row in that column.

        A column of the interactions (a timestamp, a device) has one row per event; a column of the query
        table (age) has one row per query. If both tables have it, the interactions win, except for the ids.

        Raises:
            DataError: Neither table has the column.
        """
        if column in self.queries.column_names and (
            column == self.query_id or column not in self.interactions.column_names
        ):
            return self.queries[column], self.query_index
        if column in self.interactions.column_names:
            return self.interactions[column], np.arange(len(self), dtype=np.int64)
        raise DataError(
            f"column {column!r} is in neither the interactions ({', '.join(self.interactions.column_names)}) "
            f"nor the query table ({', '.join(self.queries.column_names)})"
        )

    def candidate_column(self, column: str) -> pa.ChunkedArray:
        """A column of the candidate table, `[candidates]` rows.

        Raises:
            DataError: The candidate table has no such column.
        """
        if column not in self.candidates.column_names:
            raise DataError(
                f"column {column!r} is not in the candidate table, which has {', '.join(self.candidates.column_names)}"
            )
        return self.candidates[column]

    def sorted_events(self) -> SortedEvents:
        """All events sorted by query id, time and position in the log."""
        ids = self.queries[self.query_id].combine_chunks()
        queries = pc.array_sort_indices(ids).to_numpy().astype(np.int64)
        place = np.empty(len(queries), dtype=np.int64)
        place[queries] = np.arange(len(queries))
        times = None if self.time is None else self.times
        keys = place[self.query_index]
        order = np.argsort(keys, kind="stable") if times is None else np.lexsort((times, keys))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=len(queries)))]).astype(np.int64)
        candidates = self.candidate_index[order].astype(np.int32)
        return SortedEvents(queries, offsets, candidates, None if times is None else times[order], order)

    def identity(self) -> list[str]:
        """The fingerprint of the events, which does not depend on their order, and digests of what lies beside them."""
        beside = self.exposures, self.availability
        return [fingerprint(self), *(one.digest() for one in beside if one is not None)]

    def read(self, queries: npt.NDArray[np.bool_] | None = None) -> Dataset:
        """All events, or those of some queries.

        Args:
            queries: Mask of the queries to read, `[queries]`; default: all.
        """
        return self if queries is None else self.take(queries[self.query_index])

    def events_of(self, part: Dataset) -> Dataset:
        """The events that evaluating a part needs: all of them, since they are in memory."""
        del part
        return self

    def events_to_learn(self, most: int, columns: Iterable[str], seed: int) -> Dataset:
        """The events that features learn from: all of them, since they are in memory."""
        del most, columns, seed
        return self

    def shuffled(self, seed: int, epoch: int, batch_size: int, columns: Iterable[str] = ()) -> Iterator[Dataset]:
        """All events in one part, in an order determined by (seed, epoch); see `Log.shuffled`."""
        del batch_size, columns
        yield self.take(np.random.default_rng([seed, epoch]).permutation(len(self)))


def concat(parts: Sequence[Dataset]) -> Dataset:
    """Concatenates parts of one data set."""
    first = parts[0]
    return replace(
        first,
        interactions=pa.concat_tables([part.interactions for part in parts]),
        query_index=np.concatenate([part.query_index for part in parts]),
        candidate_index=np.concatenate([part.candidate_index for part in parts]),
        exposures=joined([(part.exposures, len(part)) for part in parts]),
    )


def _row_numbers(rows: npt.ArrayLike, size: int) -> IntArray:
    """Row numbers, from row numbers or a mask.

    Raises:
        ConfigError: `rows` is neither, or a row number is out of range.
    """
    given = np.asarray(rows)
    is_mask = given.dtype == np.bool_ and given.shape == (size,)
    if given.ndim != 1 or not (is_mask or given.dtype.kind in "iu" or len(given) == 0):
        raise ConfigError(
            f"take: rows={shortened(rows)}; expected row numbers or a mask of length {size}", field="rows"
        )
    numbers = np.flatnonzero(given) if is_mask else given.astype(np.int64)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < size:
        raise ConfigError(f"take: rows from {numbers.min()} to {numbers.max()}; expected 0 to {size - 1}", field="rows")
    return numbers
