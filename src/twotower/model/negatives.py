"""Negatives of in-batch softmax: the candidates that a batch is set against, and how often each of them was drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Embed = Callable[[Tensor], Tensor]
"""Embeds the candidates with the given rows, `[n]` to `[n, d]`."""


@dataclass(frozen=True)
class Columns:
    """The distinct candidates of a softmax.

    Attributes:
        candidates: Row of each in the candidate table, ascending, `[C]`.
        embeddings: Their embeddings, `[C, d]`.
        target: Column of each event's own candidate, `[B]`.
        multiplicity: How often each was drawn, `[C]`.
    """

    candidates: Tensor
    embeddings: Tensor
    target: Tensor
    multiplicity: Tensor


def columns_of(events: Tensor, others: Tensor, embed: Embed) -> Columns:
    """The distinct candidates of a batch's events `[B]` and of others drawn `[U]`."""
    drawn = torch.cat([events, others])
    distinct, place, multiplicity = torch.unique(drawn, return_inverse=True, return_counts=True)
    return Columns(distinct, embed(distinct), place[: len(events)], multiplicity)


def drawn_uniformly(count: int, catalogue: int, device: torch.device) -> Tensor:
    """So many candidates, each any of the catalogue's with the same probability, by torch's random numbers."""
    return torch.randint(catalogue, (count,), device=device)
