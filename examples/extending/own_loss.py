"""A loss of your own: a hinge, by which what was chosen should score higher than the rest of the batch by a margin."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower import LOSSES, Settings
from twotower.data import Log
from twotower.model.functional import Reduction
from twotower.model.losses import Batch
from twotower.model.negatives import Embed


@LOSSES.register
class Hinge(Settings, frozen=True, tag="hinge", tag_field="kind"):
    """Mean of max(0, margin + score of another − score of the chosen), over the other candidates of the batch.

    Attributes:
        margin: By how much.
    """

    margin: float = 1.0

    @property
    def reduction(self) -> Reduction:
        """A batch's loss is the mean of its events'."""
        return "mean"

    def embedded(self, events: int, catalogue: int) -> int:
        """How many candidates a step embeds, at most: each distinct one of the batch once."""
        return min(events, catalogue)

    def bind(self, train: Log) -> Hinge:
        """It has nothing to know of the training data."""
        return self

    def __call__(self, query_embeddings: Tensor, batch: Batch, embed_candidates: Embed) -> Tensor:
        """The loss of a batch of B events."""
        distinct, target = torch.unique(batch.candidates, return_inverse=True)
        scores = query_embeddings @ embed_candidates(distinct).T  # [B, C]
        chosen = scores.gather(1, target[:, None])  # [B, 1]
        rows = (self.margin + scores - chosen).clamp_min(0).mean(dim=1)  # [B]
        weights = torch.ones_like(rows) if batch.weights is None else batch.weights
        return (rows * weights).sum() / weights.sum()
