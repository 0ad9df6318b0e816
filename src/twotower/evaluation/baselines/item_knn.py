"""Item-kNN: candidates similar to the query's choices, by how many queries chose both."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from twotower.arguments import checks_arguments, refuse_below
from twotower.data.dataset import Dataset
from twotower.evaluation.baselines.budget import Cost, Machine, product_seconds
from twotower.evaluation.baselines.choices import Choices
from twotower.evaluation.baselines.names import BASELINES
from twotower.evaluation.by_query import QueryScorer
from twotower.evaluation.ranking import FloatArray, IntArray
from twotower.progress import ReportStep, no_report

BLOCK_ENTRIES = 1 << 22
"""Similarities held at once: about 150 MB whatever the size of the catalogue."""

BYTES_PER_NEIGHBOUR = 40
"""Memory per stored similarity: while collecting them, and in the matrix."""

STEPS_PER_PRODUCT = 3.0
"""Cost of counting, weighting and selecting the neighbours, relative to the sparse product alone."""


@BASELINES.register
class ItemKnn(QueryScorer):
    """Item-kNN: the score of a candidate is the sum of its similarities to its neighbours that the query has chosen.

    The similarity of two candidates is the cosine of their columns in the binary matrix of queries × candidates
    in train, |Q_i ∩ Q_j| / (√(|Q_i| |Q_j|) + s), where Q_i are the queries that chose i, and s is the shrinkage.
    The neighbours of a candidate are the K others most similar to it (Deshpande and Karypis, *Item-based top-N
    recommendation algorithms*, TOIS 2004, with neighbours per target). Only these are stored, so memory is O(K·C);
    similarities are computed as sparse products, block by block, never C×C at once.

    Args:
        train: The training split.
        neighbours: K.
        shrinkage: s, which lowers similarities based on few queries.
        step: Receives the progress.
    """

    kind, label = "item_knn", "item-kNN"

    @checks_arguments
    def __init__(
        self, train: Dataset, neighbours: int = 100, shrinkage: float = 0.0, step: ReportStep = no_report
    ) -> None:
        refuse_below(1, "ItemKnn", neighbours=neighbours)
        refuse_below(0, "ItemKnn", shrinkage=shrinkage)
        self.choices = choices = Choices(train)
        found = []
        for start, stop in choices.blocks(BLOCK_ENTRIES):
            found.append(_nearest(choices, start, stop, neighbours, shrinkage))
            step("finding neighbours", stop / len(choices.known))
        column, neighbour, similarity = (np.concatenate(parts) for parts in zip(*found, strict=True))
        # Row: neighbour; column: the candidates that it contributes to.
        shape = len(choices.known), choices.catalogue
        self.similarities = sparse.csr_matrix((similarity, (neighbour, choices.known[column])), shape=shape)

    @staticmethod
    def cost(train: Dataset, machine: Machine, neighbours: int = 100) -> Cost:
        """Estimated cost on this log."""
        choices = Choices(train)
        seconds = product_seconds(machine, STEPS_PER_PRODUCT * choices.multiplications)
        kept = min(choices.multiplications, neighbours * len(choices.known))
        return Cost(seconds, kept * BYTES_PER_NEIGHBOUR)

    def score_queries(self, queries: IntArray) -> Tensor:
        """Scores from each query's choices in train."""
        return torch.from_numpy((self.choices.matrix[queries] @ self.similarities).toarray())


def _nearest(
    choices: Choices, start: int, stop: int, neighbours: int, shrinkage: float
) -> tuple[IntArray, IntArray, FloatArray]:
    """The nearest neighbours of a run of candidates, as (column, column of the neighbour, similarity above 0)."""
    together = choices.together(start, stop)
    together.sort_indices()  # makes the choice among ties independent of the log's order
    column = np.repeat(np.arange(start, stop), np.diff(together.indptr))
    neighbour = together.indices
    similarity = together.data / (np.sqrt(choices.counts[column] * choices.counts[neighbour]) + shrinkage)
    similarity[column == neighbour] = 0.0
    kept = similarity > 0.0
    for first, last in zip(together.indptr[:-1], together.indptr[1:], strict=True):
        if last - first > neighbours:
            others = np.argpartition(similarity[first:last], last - first - neighbours)[: last - first - neighbours]
            kept[first + others] = False
    return column[kept], neighbour[kept].astype(np.int64), similarity[kept]
