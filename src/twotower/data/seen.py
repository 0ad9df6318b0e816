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
        candidates: Rows of the candidate table, each once a query, in the order that the maker says.
    """

    offsets: npt.NDArray[np.int64]
    candidates: npt.NDArray[np.int64]

    @classmethod
    def of(cls, data: Dataset) -> Seen:
        """The candidates that each query of the data set has chosen, ascending."""
        width = data.candidates.num_rows
        pairs = np.unique(data.query_index * width + data.candidate_index)
        counts = np.bincount(pairs // width, minlength=data.queries.num_rows)
        return cls(np.concatenate([[0], np.cumsum(counts)]), pairs % width)

    @classmethod
    def latest_first(cls, data: Dataset) -> Seen:
        """The candidates that each query has chosen, the one chosen last first; ascending where times are not known."""
        if data.time is None:
            return cls.of(data)
        order = np.lexsort((data.candidate_index, -data.times, data.query_index))
        pairs = data.query_index[order] * data.candidates.num_rows + data.candidate_index[order]
        first = np.sort(np.unique(pairs, return_index=True)[1])  # of several events of a pair, the latest
        kept = order[first]
        counts = np.bincount(data.query_index[kept], minlength=data.queries.num_rows)
        return cls(np.concatenate([[0], np.cumsum(counts)]), data.candidate_index[kept])

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
