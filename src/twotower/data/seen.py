"""`Seen`: the distinct candidates that each query has already chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twotower.data.dataset import Dataset
from twotower.data.lookup import entries_of


@dataclass(frozen=True, eq=False)
class Seen:
    """The distinct candidates of each query, one query after the other.

    Attributes:
        offsets: Where each query's candidates begin in `candidates`, `[queries + 1]`.
        candidates: Rows of the candidate table, distinct within a query; the constructor determines their order.
    """

    offsets: npt.NDArray[np.int64]
    candidates: npt.NDArray[np.int64]

    @classmethod
    def of(cls, data: Dataset) -> Seen:
        """The candidates that each query has chosen, in ascending order."""
        width = data.candidates.num_rows
        pairs = np.unique(data.query_index * width + data.candidate_index)
        counts = np.bincount(pairs // width, minlength=data.queries.num_rows)
        return cls(np.concatenate([[0], np.cumsum(counts)]), pairs % width)

    @classmethod
    def latest_first(cls, data: Dataset) -> Seen:
        """The candidates that each query has chosen, latest first; in ascending order if the data has no times."""
        if data.time is None:
            return cls.of(data)
        order = np.lexsort((data.candidate_index, -data.times, data.query_index))
        pairs = data.query_index[order] * data.candidates.num_rows + data.candidate_index[order]
        first = np.sort(np.unique(pairs, return_index=True)[1])  # the latest event of each pair
        kept = order[first]
        counts = np.bincount(data.query_index[kept], minlength=data.queries.num_rows)
        return cls(np.concatenate([[0], np.cumsum(counts)]), data.candidate_index[kept])

    def renumbered(self, row_of: npt.NDArray[np.int64]) -> Seen:
        """The same histories in terms of another candidate table; candidates that it lacks are dropped.

        Args:
            row_of: Row in the other table of each candidate of this one; −1 if it is missing there.

        Example:
            >>> seen = Seen(np.array([0, 2, 3]), np.array([2, 0, 1])).renumbered(np.array([-1, 5, 7]))
            >>> seen.offsets.tolist(), seen.candidates.tolist()
            ([0, 1, 2], [7, 5])
        """
        rows = row_of[self.candidates]
        before = np.concatenate([[0], np.cumsum(rows >= 0)])
        return Seen(before[self.offsets], rows[rows >= 0])

    def by(self, query: int) -> npt.NDArray[np.int64]:
        """The candidates of one query, given its row in the query table."""
        return self.candidates[self.offsets[query] : self.offsets[query + 1]]

    def pairs(self, queries: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Every (position in `queries`, candidate) pair, in ascending order of the positions."""
        position, entry = entries_of(self.offsets, queries)
        return position, self.candidates[entry]
