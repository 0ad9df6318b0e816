"""`Popularity`: the candidates with the most training events, for queries of which nothing is known."""

from __future__ import annotations

import numpy as np

from twotower.retrieval.index import IntArray


class Popularity:
    """Candidates in order of their training events.

    Args:
        events: Training events of each candidate, `[C]`.

    Example:
        >>> most = Popularity(np.array([1, 9, 4, 9]))
        >>> [found.tolist() for found in most.best(3, np.array([3]), None)]
        [[1, 2, 0], [9, 4, 1]]
    """

    def __init__(self, events: IntArray) -> None:
        self.events = events
        self._order = np.argsort(-events, kind="stable")

    def best(self, k: int, excluded: IntArray, allowed: IntArray | None) -> tuple[IntArray, IntArray]:
        """Rows of the k candidates with the most events that may be found, equal ones by row, and their events.

        Args:
            k: How many; fewer where fewer are left.
            excluded: Rows that may not be found.
            allowed: Rows that may be found; default: all.
        """
        left = np.full(len(self.events), allowed is None)
        if allowed is not None:
            left[allowed] = True
        left[excluded] = False
        rows = self._order[left[self._order]][:k]
        return rows, self.events[rows]
