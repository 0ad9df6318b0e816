"""`SortedEvents`: the events of a log one query after the other, the earliest first, in memory or mapped from disk."""

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
"""Events of one piece, about: whole queries are kept together."""

BINS = 4096
"""Bins of a histogram in which a place is looked for."""


@dataclass(frozen=True)
class QueryRange:
    """Some queries that follow one another, and their events.

    Attributes:
        queries: Their places in the order of ids.
        events: The places of their events.
    """

    queries: slice
    events: slice


@dataclass(frozen=True, eq=False)
class SortedEvents:
    """Events sorted by query id, time, and place in the log.

    Attributes:
        queries: Row in the query table of each query, by ascending id, `[queries]`.
        offsets: Where the events of each of them begin, `[queries + 1]`.
        candidates: Row in the candidate table of each event, int32 `[events]`.
        times: Seconds of each event, `[events]`; None where the log has no time.
        rows: Place of each event in the log, `[events]`.
        folder: Where scratch of this size may lie; None: where the system keeps temporary files.
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
        """All queries in ranges of about so many events, at least one query each."""
        first, last = 0, len(self.offsets) - 1
        while first < last:
            wanted = self.offsets[first] + events
            end = int(np.searchsorted(self.offsets, wanted, side="right")) - 1
            end = min(max(end, first + 1), last)
            yield QueryRange(slice(first, end), slice(int(self.offsets[first]), int(self.offsets[end])))
            first = end

    def only(self, kept: npt.NDArray[np.bool_]) -> SortedEvents:
        """Those events whose rows are kept, in files without names.

        Args:
            kept: Which rows of the log's files, `[rows]`.
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
        """The place in the order of ids of each event's query, for the events of a piece."""
        counts = np.diff(self.offsets[piece.queries.start : piece.queries.stop + 1])
        return np.repeat(np.arange(piece.queries.start, piece.queries.stop), counts)

    def border(self, share: float, events: int | None = None) -> float:
        """The time from which on an event is among the latest share.

        Args:
            share: Of the events, from 0 (the latest time of all) to 1 (the earliest).
            events: Of how many of the earliest events; default: of all.
        """
        assert self.times is not None
        events = len(self) if events is None else events
        cut = events - round(events * share)
        return nth_smallest(self.times, min(cut, events - 1))

    def before(self, time: float) -> int:
        """How many events are earlier than a time."""
        times = self.times
        assert times is not None
        return sum(int(np.count_nonzero(times[piece] < time)) for piece in _slices(len(times)))


def nth_smallest(values: FloatArray, place: int, held: int = PIECE) -> float:
    """The value that would be at this place if the values were sorted, of which few are ever in memory.

    The bin of a histogram that holds the place is looked into until its values can be held.

    Args:
        values: Finite numbers, `[n]`.
        place: From 0 to n − 1.
        held: How many may be in memory.

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
    """Bins of equal width for those of some values that lie in a range, which are looked at anew each time."""

    values: FloatArray
    low: float
    high: float

    def counts(self) -> IntArray:
        """How many values each bin has."""
        return np.bincount(self._bins()[1], minlength=BINS)

    def values_in(self, number: int) -> FloatArray:
        """The values of a bin."""
        values, bins = self._bins()
        found: FloatArray = values[bins == number]
        return found

    def _bins(self) -> tuple[FloatArray, IntArray]:
        values = self.values[(self.values >= self.low) & (self.values <= self.high)]
        share = (values - self.low) / (self.high - self.low)
        return values, np.minimum(share * BINS, BINS - 1).astype(np.int64)


def _slices(length: int) -> list[slice]:
    return [slice(start, start + PIECE) for start in range(0, length, PIECE)]
