"""EASE: a linear autoencoder in closed form."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.seen import Seen
from twotower.errors import TwoTowerError
from twotower.evaluation.ranking import IntArray, ScoreBlock

EASE_BYTES_PER_PAIR = 24
"""Bytes that EASE needs for each pair of candidates: the Gram matrix, its inverse and a copy, in float64."""


class Ease:
    """EASE: a linear model from what a query has chosen to what it will choose, in closed form.

    With X the binary matrix of queries × candidates in train, P = (XᵀX + λI)⁻¹ and B = −P / diag(P) with a
    zero diagonal, the scores of a query are its row of X times B (Steck, *Embarrassingly shallow
    autoencoders for sparse data*, WWW 2019).

    Args:
        train: The training split.
        regularization: λ, added to the diagonal.
        memory: Bytes it may use; default: half of this machine's.

    Raises:
        TwoTowerError: The catalogue is too large for this much memory.
    """

    def __init__(self, train: Dataset, regularization: float = 400.0, memory: int | None = None) -> None:
        self.known = np.unique(train.candidate_index)  # candidates that nobody chose score 0
        allowed = machine_memory() // 2 if memory is None else memory
        needed = EASE_BYTES_PER_PAIR * len(self.known) ** 2
        if needed > allowed:
            raise TwoTowerError(
                f"EASE over {len(self.known):,} candidates needs {needed / 2**30:.1f} GiB; "
                f"expected at most {allowed / 2**30:.1f} GiB, half of this machine's memory"
            )
        self.catalogue = train.candidates.num_rows
        self.seen = Seen.of(train)
        self.column = np.full(self.catalogue, -1, dtype=np.int64)
        self.column[self.known] = np.arange(len(self.known))
        self.weights = self._solve(train.queries.num_rows, regularization)

    def score_block(self, events: Dataset) -> ScoreBlock:
        """Scores from what each event's query has in train."""

        def block(numbers: IntArray) -> Tensor:
            queries, place = np.unique(events.query_index[numbers], return_inverse=True)
            scores = torch.zeros(len(queries), self.catalogue, dtype=self.weights.dtype)
            scores[:, self.known] = self._choices(queries, torch.float64) @ self.weights
            return scores[place]

        return block

    def _solve(self, queries: int, regularization: float) -> Tensor:
        gram = torch.zeros(len(self.known), len(self.known), dtype=torch.float64)
        for part in np.array_split(np.arange(queries), max(1, queries * len(self.known) >> 24)):
            choices = self._choices(part, torch.float32)
            gram += choices.t() @ choices  # sums of at most 2²⁴ ones are exact in float32
        gram.diagonal().add_(regularization)
        precision = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        weights = precision.div_(-precision.diagonal().clone())
        weights.fill_diagonal_(0.0)
        return weights

    def _choices(self, queries: IntArray, dtype: torch.dtype) -> Tensor:
        """Rows of X, `[n, known candidates]`."""
        rows, candidates = self.seen.pairs(queries)
        choices = torch.zeros(len(queries), len(self.known), dtype=dtype)
        choices[torch.from_numpy(rows), torch.from_numpy(self.column[candidates])] = 1.0
        return choices


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's where that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        return min(physical, int(text))
    return physical
