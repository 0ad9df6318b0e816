"""Negatives of in-batch softmax: the distinct candidates of a batch, and how often each was drawn."""

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
        candidates: Their rows in the candidate table, ascending, `[C]`.
        embeddings: Their embeddings, `[C, d]`.
        target: Column of each event's own candidate, `[B]`.
        multiplicity: How often each was drawn, `[C]`.
    """

    candidates: Tensor
    embeddings: Tensor
    target: Tensor
    multiplicity: Tensor


def columns_of(events: Tensor, others: Tensor, embed: Embed) -> Columns:
    """The distinct candidates among a batch's events `[B]` and the other draws `[U]`."""
    drawn = torch.cat([events, others])
    distinct, place, multiplicity = torch.unique(drawn, return_inverse=True, return_counts=True)
    return Columns(distinct, embed(distinct), place[: len(events)], multiplicity)


def drawn_uniformly(count: int, catalogue: int, device: torch.device) -> Tensor:
    """Draws `count` candidates uniformly from the catalogue, with torch's random numbers."""
    return torch.randint(catalogue, (count,), device=device)
