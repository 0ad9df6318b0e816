"""A model of your own: scores `q·W·c` with a learned matrix W between the towers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from twotower import TowerModule, TwoTower


class Bilinear(TwoTower):
    """What the query tower gives is multiplied by a matrix before it meets the candidates.

    Args:
        query: The tower that reads queries.
        candidate: The tower that reads candidates.
        start: What W is at first: so many times the identity.
        settings: As those of `TwoTower`.
    """

    kind = "bilinear"

    def __init__(self, query: TowerModule, candidate: TowerModule, *, start: float = 1.0, **settings: object) -> None:
        super().__init__(query, candidate, **settings)  # type: ignore[arg-type]
        self.start = start
        self.between = nn.Linear(self.width, self.width, bias=False)

    def reset(self) -> None:
        """Starts all weights anew."""
        super().reset()
        nn.init.eye_(self.between.weight)
        self.between.weight.data *= self.start

    def scaled_query(self, embeddings: Tensor) -> Tensor:
        """What the query tower gives, ready for a dot product."""
        return super().scaled_query(self.between(embeddings))

    def settings(self) -> dict[str, Any]:
        """The arguments that make this model anew."""
        return super().settings() | {"start": self.start}
