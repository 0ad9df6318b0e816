"""`Choices`: the choices in train as a sparse binary matrix, and co-occurrence counts of candidates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from twotower.data.dataset import Dataset
from twotower.data.seen import Seen
from twotower.evaluation.by_query import runs
from twotower.evaluation.ranking import IntArray


class Choices:
    """The binary matrix X of queries × candidates, with a column for each candidate that has been chosen.

    Args:
        train: The training split.

    Attributes:
        catalogue: Number of all candidates, including those that were never chosen.
        known: Row of each column in the candidate table, ascending, `[n]`.
        counts: Number of queries that chose each candidate, `[n]`.
        matrix: X, `[queries, n]`, float32.
        multiplications: Number of multiplications that XᵀX takes: one per pair of choices of the same query.
    """

    def __init__(self, train: Dataset) -> None:
        seen = Seen.of(train)
        self.catalogue = train.candidates.num_rows
        self.known, columns, self.counts = np.unique(seen.candidates, return_inverse=True, return_counts=True)
        self.matrix = sparse.csr_matrix(
            (np.ones(len(columns), dtype=np.float32), columns, seen.offsets),
            shape=(train.queries.num_rows, len(self.known)),
        )
        history = np.diff(seen.offsets)
        self.multiplications = float((history.astype(np.float64) ** 2).sum())
        self._transposed = self.matrix.T.tocsr()
        self._transposed.sort_indices()
        self._work = np.asarray(self._transposed @ history.astype(np.float64)).astype(np.int64)

    def of(self, queries: IntArray) -> tuple[IntArray, IntArray]:
        """All (position in `queries`, column of a chosen candidate) pairs, by ascending position."""
        rows = self.matrix[queries]
        position = np.repeat(np.arange(len(queries)), np.diff(rows.indptr))
        return position, rows.indices.astype(np.int64)

    def blocks(self, most: int, dense: bool = False) -> Iterator[tuple[int, int]]:
        """Runs of columns with about `most` numbers of XᵀX each; counts non-zeros only, or all numbers if `dense`."""
        return runs(np.full_like(self._work, len(self._work)) if dense else self._work, most)

    def together(self, start: int, stop: int) -> sparse.csr_matrix:
        """Rows of XᵀX: the number of queries that chose both candidates, `[stop − start, n]`, exact up to 2²⁴."""
        return self._transposed[start:stop] @ self.matrix
