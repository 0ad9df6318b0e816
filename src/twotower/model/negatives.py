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
        with_exposed: Embeddings of these candidates and of the exposed ones, `[D, d]`; those above if none is exposed.
        exposed: The exposed candidates of each event, as rows of `with_exposed`, −1 for none, `[B, n]`.
    """

    candidates: Tensor
    embeddings: Tensor
    target: Tensor
    multiplicity: Tensor
    with_exposed: Tensor
    exposed: Tensor | None


def columns_of(events: Tensor, others: Tensor, embed: Embed, exposed: Tensor | None = None) -> Columns:
    """The distinct candidates among a batch's events `[B]` and the other draws `[U]`.

    Args:
        events: The candidate of each event.
        others: Other draws.
        embed: Embeds candidates; called once.
        exposed: Candidates that are negatives of one event alone, −1 for none, `[B, n]`.
    """
    drawn = torch.cat([events, others])
    distinct, place, multiplicity = torch.unique(drawn, return_inverse=True, return_counts=True)
    target = place[: len(events)]
    if exposed is None:
        embeddings = embed(distinct)
        return Columns(distinct, embeddings, target, multiplicity, embeddings, None)
    there = exposed >= 0
    everything, row = torch.unique(torch.cat([distinct, exposed[there]]), return_inverse=True)
    embeddings, count = embed(everything), len(distinct)
    exposed = exposed.masked_scatter(there, row[count:])
    return Columns(distinct, embeddings.index_select(0, row[:count]), target, multiplicity, embeddings, exposed)


def drawn_uniformly(count: int, catalogue: int, device: torch.device) -> Tensor:
    """Draws `count` candidates uniformly from the catalogue, with torch's random numbers."""
    return torch.randint(catalogue, (count,), device=device)
