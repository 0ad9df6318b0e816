"""EASE: a linear autoencoder in closed form."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from twotower.arguments import checks_arguments, refuse_below
from twotower.data.dataset import Dataset
from twotower.evaluation.baselines.budget import Cost, Machine, inversion_seconds, product_seconds
from twotower.evaluation.baselines.choices import Choices
from twotower.evaluation.baselines.names import BASELINES
from twotower.evaluation.baselines.symmetric import invert
from twotower.evaluation.by_query import QueryScorer
from twotower.evaluation.ranking import IntArray
from twotower.progress import ReportStep, no_report

BLOCK_NUMBERS = 1 << 22
"""Numbers of the Gram matrix counted at once: 16 MB, and the same again for their indices."""


@BASELINES.register
class Ease(QueryScorer):
    """EASE: a linear model from a query's past choices to its future ones, in closed form.

    With X the binary matrix of queries × candidates in train, P = (XᵀX + λI)⁻¹ and B = −P / diag(P) with a
    zero diagonal, the scores of a query are its row of X times B (Steck, *Embarrassingly shallow
    autoencoders for sparse data*, WWW 2019).

    P excludes candidates without events in train: their rows and columns of XᵀX + λI are zero except for the
    diagonal, so theirs in B are zero, and they score exactly 0. The n other candidates take 4 n² bytes of memory:
    XᵀX is counted block by block into a matrix that is then overwritten by its inverse, and by B.

    Args:
        train: The training split.
        regularization: λ, added to the diagonal.
        step: Receives the progress.

    Raises:
        TwoTowerError: λ is too small for the matrix to have an inverse in float32.
    """

    kind, label = "ease", "EASE"

    @checks_arguments
    def __init__(self, train: Dataset, regularization: float = 400.0, step: ReportStep = no_report) -> None:
        refuse_below(0, "Ease", regularization=regularization)
        self.choices = Choices(train)
        size = len(self.choices.known)
        gram = torch.empty(size, size)
        for start, stop in self.choices.blocks(BLOCK_NUMBERS, dense=True):
            self.choices.together(start, stop).toarray(out=gram[start:stop].numpy())
            step("counting choices", stop / size)
        gram.diagonal().add_(regularization)
        self.weights = _weights(invert(gram, step))

    @staticmethod
    def cost(train: Dataset, machine: Machine) -> Cost:
        """Estimated cost on this log."""
        choices = Choices(train)
        size = len(choices.known)
        seconds = inversion_seconds(machine, size) + product_seconds(machine, choices.multiplications)
        return Cost(seconds, 4.0 * size**2)

    def score_queries(self, queries: IntArray) -> Tensor:
        """Scores from each query's choices in train."""
        position, columns = self.choices.of(queries)
        begin = np.searchsorted(position, np.arange(len(queries)))
        own = F.embedding_bag(torch.from_numpy(columns), self.weights, torch.from_numpy(begin), mode="sum")
        if own.shape[1] == self.choices.catalogue:
            return own
        scores = torch.zeros(len(queries), self.choices.catalogue, dtype=own.dtype)
        return scores.index_copy_(1, torch.from_numpy(self.choices.known), own)


def _weights(precision: Tensor) -> Tensor:
    """Computes B from P, in place."""
    return precision.div_(-precision.diagonal().clone()).fill_diagonal_(0.0)
