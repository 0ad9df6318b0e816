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


class Memory:
    """The candidates of the latest events before a batch, with the embeddings that they had then.

    Args:
        size: How many events it remembers.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._latest: tuple[Tensor, Tensor] | None = None  # candidates [M], embeddings [M, d], the latest last

    def __len__(self) -> int:
        return 0 if self._latest is None else len(self._latest[0])

    def forget(self) -> None:
        """Empties it."""
        self._latest = None

    def remember(self, events: Tensor, columns: Columns) -> None:
        """Adds a batch's events `[B]`, and drops the oldest beyond `size`."""
        if self.size == 0:
            return
        embeddings = columns.embeddings.detach()[columns.target]
        if self._latest is not None:
            events = torch.cat([self._latest[0], events])
            embeddings = torch.cat([self._latest[1], embeddings])
        self._latest = events[-self.size :], embeddings[-self.size :]

    def columns(self, events: Tensor, others: Tensor, embed: Embed) -> Columns:
        """The distinct candidates of a batch's events `[B]`, of others drawn `[U]`, and of the memory.

        A candidate that the batch names, by an event or another draw, has a fresh embedding, whatever the
        memory holds; one that only the memory holds has its latest there, a constant without gradient. Every
        draw counts, from wherever it comes.
        """
        if self._latest is None:
            drawn = torch.cat([events, others])
            distinct, place, multiplicity = torch.unique(drawn, return_inverse=True, return_counts=True)
            return Columns(distinct, embed(distinct), place[: len(events)], multiplicity)
        remembered, embeddings = self._latest
        drawn = torch.cat([events, others, remembered])
        distinct, place, multiplicity = torch.unique(drawn, return_inverse=True, return_counts=True)
        now, before = place.split([len(drawn) - len(remembered), len(remembered)])
        latest = torch.zeros_like(distinct).scatter_reduce(
            0, before, torch.arange(len(before), device=place.device), "amax"
        )
        fresh = torch.unique(now)
        mixed = embeddings[latest].index_copy(0, fresh, embed(distinct[fresh]))  # [C, d]
        return Columns(distinct, mixed, place[: len(events)], multiplicity)


def drawn_uniformly(count: int, catalogue: int, device: torch.device) -> Tensor:
    """So many candidates, each any of the catalogue's with the same probability, by torch's random numbers."""
    return torch.randint(catalogue, (count,), device=device)
