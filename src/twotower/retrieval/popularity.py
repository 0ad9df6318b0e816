"""`Popularity`: the candidates with the most training events, for queries about which nothing is known."""

from __future__ import annotations

import numpy as np

from twotower.retrieval.index import IntArray


class Popularity:
    """Candidates ordered by their number of training events.

    Args:
        events: Number of training events of each candidate, `[C]`.

    Example:
        >>> most = Popularity(np.array([1, 9, 4, 9]))
        >>> [found.tolist() for found in most.best(3, np.array([3]), None)]
        [[1, 2, 0], [9, 4, 1]]
    """

    def __init__(self, events: IntArray) -> None:
        self.events = events
        self._order = np.argsort(-events, kind="stable")

    def best(self, k: int, excluded: IntArray, allowed: IntArray | None) -> tuple[IntArray, IntArray]:
        """Rows of the k eligible candidates with the most events, ties by row, and their numbers of events.

        Args:
            k: How many; fewer if fewer are eligible.
            excluded: Rows to exclude.
            allowed: Eligible rows; default: all.
        """
        left = np.full(len(self.events), allowed is None)
        if allowed is not None:
            left[allowed] = True
        left[excluded] = False
        rows = self._order[left[self._order]][:k]
        return rows, self.events[rows]
