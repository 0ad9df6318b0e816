"""`Similar`: candidates whose embeddings point in a similar direction."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.retrieval.index import IntArray


class Similar:
    """Exact search for candidates by cosine.

    Args:
        embeddings: Candidate embeddings, `[C, d]`.

    Example:
        >>> similar = Similar(torch.tensor([[1.0, 0.0], [0.0, 3.0], [5.0, 0.0], [0.0, 2.0]]))
        >>> rows, cosines = similar.to(0, 2, np.array([0]), None)
        >>> rows.tolist(), cosines.tolist()
        ([2, 1], [1.0, 0.0])
    """

    def __init__(self, embeddings: Tensor) -> None:
        self.embeddings = embeddings

    @cached_property
    def _lengths(self) -> Tensor:
        """Lengths of the embeddings; computed lazily, as a bundle with a store may never need them."""
        lengths: Tensor = self.embeddings.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        return lengths

    def to(
        self, row: int, k: int, excluded: IntArray, allowed: IntArray | None
    ) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """Rows of the k candidates nearest to one, ties by row, and their cosines; fewer if fewer are eligible.

        Args:
            row: Row of the candidate to compare with.
            k: How many.
            excluded: Rows to exclude.
            allowed: Eligible rows; default: all.
        """
        own = self.embeddings[row].div(self._lengths[row])
        cosines = (self.embeddings.mv(own) / self._lengths).clamp(-1.0, 1.0).numpy()
        left = np.full(len(cosines), allowed is None)
        if allowed is not None:
            left[allowed] = True
        left[excluded] = False
        rows = np.flatnonzero(left)
        if len(rows) > k:
            bar = np.partition(cosines[rows], -k)[-k]
            rows = rows[cosines[rows] >= bar]
        rows = rows[np.argsort(-cosines[rows], kind="stable")][:k]
        return rows, cosines[rows]
