"""A tower of your own: what the features give, through gates (gated linear units)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from twotower import Feature, TowerModule


class Gated(TowerModule):
    """One hidden layer whose numbers are each let through by another number between 0 and 1."""

    kind = "gated"

    def __init__(self, features: Sequence[Feature], hidden: int = 32, width: int = 16) -> None:
        super().__init__(features)
        self.hidden, self.width = hidden, width
        self.gate = nn.Linear(self.input_width, 2 * hidden)
        self.out = nn.Linear(hidden, width)

    def embed_inputs(self, inputs: Tensor) -> Tensor:
        """`[n, input_width]` to `[n, width]`."""
        embedded: Tensor = self.out(F.glu(self.gate(inputs)))
        return embedded
