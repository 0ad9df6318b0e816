"""A model of your own: scores `q·W·c` with a learned matrix W between the towers."""

from __future__ import annotations

from torch import Tensor, nn

from twotower import TowerModule, TwoTower


class Bilinear(TwoTower):
    """What the query tower gives is multiplied by a matrix before it meets the candidates; W starts as the identity."""

    kind = "bilinear"

    def __init__(self, query: TowerModule, candidate: TowerModule, **settings: object) -> None:
        super().__init__(query, candidate, **settings)  # type: ignore[arg-type]
        self.between = nn.Linear(self.width, self.width, bias=False)

    def reset(self) -> None:
        """Starts all weights anew."""
        super().reset()
        nn.init.eye_(self.between.weight)

    def scaled_query(self, embeddings: Tensor) -> Tensor:
        """What the query tower gives, ready for a dot product."""
        return super().scaled_query(self.between(embeddings))
