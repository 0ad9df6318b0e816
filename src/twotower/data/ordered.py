"""`SortedEvents`: the events of a log sorted by query, then time; in memory or memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from twotower.data.scratch import scratch

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

PIECE = 1_000_000
"""Approximate events per piece; a query is never split over pieces."""

BINS = 4096
"""Histogram bins used to find the n-th smallest value."""


@dataclass(frozen=True)
class QueryRange:
    """A range of consecutive queries and their events.

    Attributes:
        queries: Positions of the queries in id order.
        events: Positions of their events.
    """

    queries: slice
    events: slice


@dataclass(frozen=True, eq=False)
class SortedEvents:
    """Events sorted by query id, time and position in the log.

    Attributes:
        queries: Row of each query in the query table, by ascending id, `[queries]`.
        offsets: Where the events of each of these queries begin, `[queries + 1]`.
        candidates: Row of each event's candidate in the candidate table, int32 `[events]`.
        times: Time of each event in seconds, `[events]`; None when the log has no times.
        rows: Position of each event in the log, `[events]`.
        folder: Folder for scratch files of this size; None: the system's temporary folder.
    """

    queries: IntArray
    offsets: IntArray
    candidates: npt.NDArray[np.int32]
    times: FloatArray | None
    rows: IntArray
    folder: Path | None = None

    def __len__(self) -> int:
        """Number of events."""
        return len(self.candidates)

    def pieces(self, events: int = PIECE) -> Iterator[QueryRange]:
        """Cuts the queries into ranges of about `events` events, with at least one query each."""
        for queries, entries in ranges(self.offsets, events):
            yield QueryRange(queries, entries)

    def only(self, kept: npt.NDArray[np.bool_]) -> SortedEvents:
        """The events whose rows are kept, in unnamed scratch files.

        Args:
            kept: Mask of the rows of the log's files, `[rows]`.
        """
        number = int(np.count_nonzero(kept))
        candidates, rows = scratch(number, np.int32, self.folder), scratch(number, np.int64, self.folder)
        times = None if self.times is None else scratch(number, np.float64, self.folder)
        counts, done = np.zeros(len(self.queries), dtype=np.int64), 0
        for piece in self.pieces():
            inside = kept[self.rows[piece.events]]
            place = slice(done, done + int(np.count_nonzero(inside)))
            done = place.stop
            candidates[place], rows[place] = self.candidates[piece.events][inside], self.rows[piece.events][inside]
            if times is not None and self.times is not None:
                times[place] = self.times[piece.events][inside]
            own = piece.queries
            numbers = self.query_numbers(piece)[inside] - own.start
            counts[own] = np.bincount(numbers, minlength=own.stop - own.start)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return SortedEvents(self.queries, offsets, candidates, times, rows, self.folder)

    def query_numbers(self, piece: QueryRange) -> IntArray:
        """Position in id order of each event's query, for the events of a piece."""
        counts = np.diff(self.offsets[piece.queries.start : piece.queries.stop + 1])
        return np.repeat(np.arange(piece.queries.start, piece.queries.stop), counts)

    def cutoff(self, share: float, events: int | None = None) -> float:
        """The time at which the latest `share` of the events begins.

        Args:
            share: Share of the events, from 0 (gives the latest time) to 1 (gives the earliest).
            events: Consider only this many of the earliest events; default: all.
        """
        assert self.times is not None
        events = len(self) if events is None else events
        cut = events - round(events * share)
        return nth_smallest(self.times, min(cut, events - 1))

    def count_before(self, time: float) -> int:
        """Number of events earlier than `time`."""
        times = self.times
        assert times is not None
        return sum(int(np.count_nonzero(times[piece] < time)) for piece in _slices(len(times)))


def ranges(offsets: IntArray, entries: int = PIECE) -> Iterator[tuple[slice, slice]]:
    """Cuts concatenated lists into ranges of about `entries` entries, with at least one list each.

    Args:
        offsets: Where each list begins, and the last one ends, `[lists + 1]`.
        entries: The size.

    Yields:
        The lists of each range, and their entries.
    """
    first, last = 0, len(offsets) - 1
    while first < last:
        end = int(np.searchsorted(offsets, offsets[first] + entries, side="right")) - 1
        end = min(max(end, first + 1), last)
        yield slice(first, end), slice(int(offsets[first]), int(offsets[end]))
        first = end


def nth_smallest(values: FloatArray, place: int, held: int = PIECE) -> float:
    """The value at this position in sorted order, found without holding all values in memory.

    Narrows the range to the histogram bin that contains the position, until the values in it fit in memory.

    Args:
        values: Finite numbers, `[n]`.
        place: Position, from 0 to n − 1.
        held: How many values may be in memory.

    Example:
        >>> nth_smallest(np.array([5.0, 1.0, 3.0, 3.0]), 2, held=1)
        3.0
    """
    pieces = _slices(len(values))
    low = min(float(values[piece].min()) for piece in pieces)
    high = max(float(values[piece].max()) for piece in pieces)
    while low < high:
        inside = [_Bins(values[piece], low, high) for piece in pieces]
        ends = np.cumsum(sum(bins.counts() for bins in inside))
        chosen = int(np.searchsorted(ends, place, side="right"))
        before = int(ends[chosen - 1]) if chosen else 0
        place -= before
        if ends[chosen] - before <= held:
            found = np.concatenate([bins.values_in(chosen) for bins in inside])
            return float(np.sort(found)[place])
        ranges = [(own.min(), own.max()) for bins in inside if len(own := bins.values_in(chosen))]
        low, high = float(min(one for one, _ in ranges)), float(max(one for _, one in ranges))
    return low


@dataclass(frozen=True, eq=False)
class _Bins:
    """Equal-width bins over the values in a range; recomputed on each call rather than kept in memory."""

    values: FloatArray
    low: float
    high: float

    def counts(self) -> IntArray:
        """Number of values in each bin."""
        return np.bincount(self._bins()[1], minlength=BINS)

    def values_in(self, number: int) -> FloatArray:
        """The values in a bin."""
        values, bins = self._bins()
        found: FloatArray = values[bins == number]
        return found

    def _bins(self) -> tuple[FloatArray, IntArray]:
        values = self.values[(self.values >= self.low) & (self.values <= self.high)]
        share = (values - self.low) / (self.high - self.low)
        return values, np.minimum(share * BINS, BINS - 1).astype(np.int64)


def _slices(length: int) -> list[slice]:
    return [slice(start, start + PIECE) for start in range(0, length, PIECE)]
