"""Item-kNN: candidates that are like what the query has chosen, by who chose both."""

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
"""Similarities held at once: some 150 MB whatever the size of the catalogue."""

BYTES_PER_NEIGHBOUR = 40
"""Of the similarities that are kept: as they are found, and as a matrix."""

STEPS_PER_PRODUCT = 3.0
"""What counting, weighing and choosing the nearest take, in multiplications of the product alone."""


@BASELINES.register
class ItemKnn(QueryScorer):
    """Item-kNN: a candidate scores the sum of its similarities to those of its neighbours that the query has chosen.

    The similarity of two candidates is the cosine of their columns in the binary matrix of queries × candidates
    in train, |Q_i ∩ Q_j| / (√(|Q_i| |Q_j|) + s), Q_i being who chose i and s the shrinkage. The neighbours of a
    candidate are the K others most similar to it (Deshpande and Karypis, *Item-based top-N recommendation
    algorithms*, TOIS 2004, with neighbours per target). Only they are kept, so that memory is O(K·C);
    similarities are counted as sparse products, block by block, never C×C at once.

    Args:
        train: The training split.
        neighbours: K.
        shrinkage: s, which lowers the similarities that rest on few queries.
        step: Told the share that is done.
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
        # By neighbour: which candidates it speaks for.
        shape = len(choices.known), choices.catalogue
        self.similarities = sparse.csr_matrix((similarity, (neighbour, choices.known[column])), shape=shape)

    @staticmethod
    def cost(train: Dataset, machine: Machine, neighbours: int = 100) -> Cost:
        """What it is estimated to cost on this log."""
        choices = Choices(train)
        seconds = product_seconds(machine, STEPS_PER_PRODUCT * choices.multiplications)
        kept = min(choices.multiplications, neighbours * len(choices.known))
        return Cost(seconds, kept * BYTES_PER_NEIGHBOUR)

    def score_queries(self, queries: IntArray) -> Tensor:
        """Scores from what each query has in train."""
        return torch.from_numpy((self.choices.matrix[queries] @ self.similarities).toarray())


def _nearest(
    choices: Choices, start: int, stop: int, neighbours: int, shrinkage: float
) -> tuple[IntArray, IntArray, FloatArray]:
    """The nearest neighbours of some candidates as triples (column, column of the neighbour, similarity above 0)."""
    together = choices.together(start, stop)
    together.sort_indices()  # so that it does not depend on the log's order which of equals are taken
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
