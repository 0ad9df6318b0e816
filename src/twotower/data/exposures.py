"""`Exposures`: the candidates that were shown beside each event and not chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from twotower.data.lookup import IntArray, entries_of

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Exposures:
    """What was shown and not chosen, in lists; the events of one list share it.

    A list belongs to one query. With a request column, it is what one request showed; without, what was shown to the
    query nearer in time to these events than to its others. Within a list, candidates are distinct, none of them was
    chosen there, and those shown nearest in time to its first event come first.

    The number of an event is its position in the log; if the log stays on disk, that of its row in the files.

    Attributes:
        chosen: The column of the log that tells chosen rows from others.
        request: The column of the request ids; None if the log has none.
        lists: List of each event by its number, −1 if nothing was shown with it, `[N]`.
        offsets: Where each list begins in `candidates`, `[lists + 1]`.
        candidates: Rows of the candidate table, one list after the other, `[M]`.
        times: When each was shown, in seconds, `[M]`; None if the log has no times.

    Example:
        >>> shown = Exposures("clicked", None, np.array([0, -1, 0]), np.array([0, 2]), np.array([7, 5]), None)
        >>> shown.take(np.array([1, 2])).lists.tolist(), shown.take(np.array([1])).candidates.tolist()
        ([-1, 0], [])
    """

    chosen: str
    request: str | None
    lists: IntArray
    offsets: IntArray
    candidates: IntArray
    times: FloatArray | None

    def __len__(self) -> int:
        """Number of exposures."""
        return len(self.candidates)

    @property
    def counts(self) -> IntArray:
        """How many candidates were shown with each event, `[N]`."""
        lengths = np.append(np.diff(self.offsets), 0)  # list −1 is empty
        counts: IntArray = lengths[self.lists]
        return counts

    def take(self, events: IntArray) -> Exposures:
        """The exposures of some events, given their numbers."""
        own = self.lists[events]
        there = own >= 0
        kept, place = np.unique(own[there], return_inverse=True)
        lists = np.full(len(own), -1, dtype=np.int64)
        lists[there] = place
        _, entry = entries_of(self.offsets, kept)
        return self._with(lists, entry, np.diff(self.offsets)[kept])

    def without(self, events: BoolArray) -> Exposures:
        """The same events, some of them without exposures.

        Args:
            events: Mask of the events that lose theirs, `[N]`.
        """
        return replace(self, lists=np.where(events, -1, self.lists)).take(np.arange(len(self.lists)))

    def before(self, time: float) -> Exposures:
        """Only what was shown before a time, in seconds; everything if the log has no times."""
        if self.times is None:
            return self
        kept, lists = self.times < time, len(self.offsets) - 1
        of_list = np.repeat(np.arange(lists), np.diff(self.offsets))
        return self._with(self.lists, np.flatnonzero(kept), np.bincount(of_list[kept], minlength=lists))

    def pairs(self, events: IntArray) -> tuple[IntArray, IntArray]:
        """Every (position in `events`, entry of `candidates`) pair, in ascending order of the positions."""
        offsets = np.append(self.offsets, self.offsets[-1])
        own = self.lists[events]
        return entries_of(offsets, np.where(own < 0, len(offsets) - 2, own))

    def digest(self) -> str:
        """Sixteen hex digits of a hash of the exposures, in order."""
        digest = hashlib.sha256()
        for array in (self.lists, self.offsets, self.candidates, self.times):
            digest.update(b"" if array is None else np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def _with(self, lists: IntArray, entry: IntArray, lengths: IntArray) -> Exposures:
        """Other lists of events, with lists of these lengths that hold these entries."""
        return replace(
            self,
            lists=lists,
            offsets=offsets_of(lengths),
            candidates=self.candidates[entry],
            times=None if self.times is None else self.times[entry],
        )


def offsets_of(lengths: IntArray) -> IntArray:
    """Where each of several lists begins, and the last one ends, given their lengths: `[lists + 1]`."""
    offsets: IntArray = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return offsets


def joined(parts: Sequence[tuple[Exposures | None, int]]) -> Exposures | None:
    """The exposures of concatenated events.

    Args:
        parts: The exposures of each part, and its number of events.

    Returns:
        None if no part has any.
    """
    first = next((one for one, _ in parts if one is not None), None)
    if first is None:
        return None
    lists, lengths, given = [], [], []
    count = 0
    for one, events in parts:
        if one is None:
            lists.append(np.full(events, -1, dtype=np.int64))
            continue
        lists.append(np.where(one.lists < 0, -1, one.lists + count))
        lengths.append(np.diff(one.offsets))
        given.append(one)
        count += len(one.offsets) - 1
    times = [one.times for one in given if one.times is not None]
    return replace(
        first,
        lists=np.concatenate(lists),
        offsets=offsets_of(np.concatenate(lengths)),
        candidates=np.concatenate([one.candidates for one in given]),
        times=np.concatenate(times) if times else None,
    )
