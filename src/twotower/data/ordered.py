"""`SortedEvents`: the events of a log one query after the other, the earliest first, in memory or mapped from disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

PIECE = 1_000_000
"""Events of one piece, about: whole queries are kept together."""


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

    def query_numbers(self, piece: QueryRange) -> IntArray:
        """The place in the order of ids of each event's query, for the events of a piece."""
        counts = np.diff(self.offsets[piece.queries.start : piece.queries.stop + 1])
        return np.repeat(np.arange(piece.queries.start, piece.queries.stop), counts)
