"""`Seen`: which candidates each query has already chosen, each once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twotower.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class Seen:
    """The distinct candidates of each query, one query after the other.

    Attributes:
        offsets: Where each query's candidates begin in `candidates`, `[queries + 1]`.
        candidates: Rows of the candidate table, ascending within a query.
    """

    offsets: npt.NDArray[np.int64]
    candidates: npt.NDArray[np.int64]

    @classmethod
    def of(cls, data: Dataset) -> Seen:
        """The candidates that each query of the data set has chosen."""
        width = data.candidates.num_rows
        pairs = np.unique(data.query_index * width + data.candidate_index)
        counts = np.bincount(pairs // width, minlength=data.queries.num_rows)
        return cls(np.concatenate([[0], np.cumsum(counts)]), pairs % width)

    def by(self, query: int) -> npt.NDArray[np.int64]:
        """The candidates of one query, given its row in the query table."""
        return self.candidates[self.offsets[query] : self.offsets[query + 1]]

    def pairs(self, queries: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Every (position in `queries`, candidate) pair, in ascending order of the positions."""
        position, entry = entries_of(self.offsets, queries)
        return position, self.candidates[entry]


def entries_of(
    offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Every (position in `rows`, entry) pair of rows whose entries are those from `offsets[row]` to the next row's.

    Example:
        >>> [pairs.tolist() for pairs in entries_of(np.array([0, 2, 2, 5]), np.array([2, 0, 1]))]
        [[0, 0, 0, 1, 1], [2, 3, 4, 0, 1]]
    """
    begin, count = offsets[rows], offsets[rows + 1] - offsets[rows]
    position = np.repeat(np.arange(len(rows)), count)
    within = np.arange(len(position)) - np.repeat(np.cumsum(count) - count, count)
    return position, np.repeat(begin, count) + within
