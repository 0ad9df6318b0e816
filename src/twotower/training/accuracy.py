"""`StreamedAccuracy`: top-k accuracy among the candidates that the loss compares, counted during training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twotower.ranks import Ranks

SAMPLED = 8
"""One in this many events of a batch is ranked. This adds 1% to the softmax's time; ranking all would add 10%."""


class StreamedAccuracy:
    """Weighted share of an epoch's events whose candidate the loss ranks in the top k.

    Args:
        ks: Cutoffs k.
        device: Device of the ranks.

    Example:
        >>> accuracy = StreamedAccuracy([1, 2], torch.device("cpu"))
        >>> ranks = accuracy.ranks_of_batch(32)
        >>> ranks += torch.tensor([1, 2, 5, 1])
        >>> accuracy.add(ranks, None)
        >>> accuracy.means()
        {'top_1': 0.5, 'top_2': 0.75}
    """

    def __init__(self, ks: Sequence[int], device: torch.device) -> None:
        self.ks = ks
        self._lengths = torch.tensor(ks, device=device)
        self._hits = torch.zeros(len(ks), dtype=torch.float64, device=device)
        self._weight = torch.zeros((), dtype=torch.float64, device=device)

    def ranks_of_batch(self, events: int) -> Tensor:
        """Zeros to which the loss writes the ranks of a batch's first events, int32 `[ceil(events / 8)]`."""
        return torch.zeros(-(-events // SAMPLED), dtype=torch.int32, device=self._hits.device)

    def add(self, ranks: Tensor, weights: Tensor | None) -> None:
        """Counts the ranks that a loss has written; 0 means not ranked. `weights` are the batch's, `[B]`."""
        counted = (ranks > 0).double()
        if weights is not None:
            counted *= weights[: len(ranks)]
        self._hits += counted @ (ranks.unsqueeze(1) <= self._lengths).double()  # [n] @ [n, ks]
        self._weight += counted.sum()

    def add_up(self, ranks: Ranks) -> None:
        """Adds the counts of the other ranks."""
        ranks.sum(self._hits)
        ranks.sum(self._weight)

    def means(self) -> dict[str, float]:
        """The accuracy for each k, keyed as `top_10`; empty if nothing was ranked."""
        weight = self._weight.item()
        if weight == 0:
            return {}
        return {f"top_{k}": hits / weight for k, hits in zip(self.ks, self._hits.tolist(), strict=True)}
