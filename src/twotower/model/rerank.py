"""`Rerank`: the second stage, in which a head of the model re-ranks the candidates that the towers retrieved."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from twotower.arguments import Settings
from twotower.errors import ConfigError
from twotower.model.heads import HeadModule, Side

MOST_RERANKED = 1000
"""Re-rank at most this many candidates per query."""

PAIRS = 1 << 15
"""Pairs of a query and a candidate that a head scores at a time, which keeps its inputs to tens of megabytes."""


class Rerank(Settings, frozen=True):
    """How many retrieved candidates are re-ranked, and by which head.

    Attributes:
        n: How many candidates are retrieved and re-ranked, from 1 to 1,000.
        by: The name of the task whose head re-ranks; None: the model's only head.

    Raises:
        ConfigError: A setting has the wrong type or is out of range.

    Example:
        >>> Rerank(n=100).resolved(["rating"])
        Rerank(n=100, by='rating')
    """

    n: int = 200
    by: str | None = None

    def check(self) -> None:
        """Refuses settings out of range."""
        if not 1 <= self.n <= MOST_RERANKED:
            raise ConfigError(f"rerank: n={self.n}; expected from 1 to {MOST_RERANKED}", field="rerank")

    @property
    def head(self) -> str:
        """The name of the head, once resolved."""
        assert self.by is not None
        return self.by

    def resolved(self, heads: Iterable[str]) -> Rerank:
        """A copy with the head's name filled in.

        Args:
            heads: The names of the model's heads.

        Raises:
            ConfigError: There is no such head, or several heads and no name.
        """
        names = list(heads)
        if not names:
            raise ConfigError(
                "rerank: the model has no head to re-rank by; expected a rating or ranking among its tasks",
                field="rerank",
            )
        if self.by is None and len(names) > 1:
            raise ConfigError(f"rerank: by is not given; expected one of the tasks {', '.join(names)}", field="rerank")
        by = names[0] if self.by is None else self.by
        if by not in names:
            raise ConfigError(f"rerank: by={by!r}; expected one of the tasks {', '.join(names)}", field="rerank")
        return Rerank(self.n, by)


def pair_logits(head: HeadModule, queries: Side, asked: Tensor, candidates: Side, rows: Tensor) -> Tensor:
    """A head's answers before its link for pairs of a query and a candidate, `[m]`, computed in blocks.

    Args:
        head: The head, in evaluation mode.
        queries: The query side of q queries.
        asked: The query of each pair, `[m]`.
        candidates: The candidate side of C candidates.
        rows: The candidate of each pair, `[m]`.
    """
    parts = [
        head.logits(queries.take(query), Side(candidates.features[row], candidates.vectors[row]))
        for query, row in zip(torch.split(asked, PAIRS), torch.split(rows, PAIRS), strict=True)
    ]
    return torch.cat(parts)
