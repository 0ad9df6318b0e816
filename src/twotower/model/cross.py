"""Layers that multiply features: cross layers (DCN-v2) and pairwise dot products (DLRM)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from twotower.arguments import checks_arguments
from twotower.errors import ConfigError


class Cross(nn.Module):
    """One cross layer: `x_0 ⊙ f(W x + b + α x) + x`, W of full or low rank.

    Wang et al., *DCN V2: improved deep & cross network*, WWW 2021. In a stack of layers, x is the output of the layer
    before, and x_0 is the input of the first one.

    Args:
        width: Input and output width.
        rank: Factorise W as `[width, rank]` times `[rank, width]`; None for a full matrix.
        bias: Whether to add b.
        diagonal: α, added to the diagonal of W; keeps training stable when W is small.
        activation: f; None for the identity.

    Raises:
        ConfigError: The width or the rank is below 1, or the diagonal is negative.

    Example:
        >>> inputs = torch.randn(3, 8)
        >>> layer = Cross(8, rank=2)
        >>> layer(inputs, layer(inputs, inputs)).shape
        torch.Size([3, 8])
    """

    @checks_arguments
    def __init__(
        self,
        width: int,
        rank: int | None = None,
        *,
        bias: bool = True,
        diagonal: float = 0.0,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or (rank is not None and rank < 1):
            raise ConfigError(f"a cross layer with width={width}, rank={rank}; expected at least 1")
        if diagonal < 0:
            raise ConfigError(f"a cross layer with diagonal={diagonal}; expected at least 0")
        self.diagonal, self.activation = diagonal, activation
        self.dense: nn.Module = (
            nn.Linear(width, width, bias)
            if rank is None
            else nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias))
        )

    def forward(self, first: Tensor, inputs: Tensor) -> Tensor:
        """Crosses `inputs` `[n, width]` with the `first` layer's inputs `[n, width]`, to `[n, width]`.

        Raises:
            ConfigError: Their shapes differ.
        """
        if first.shape != inputs.shape:
            raise ConfigError(f"first is {list(first.shape)} and inputs {list(inputs.shape)}; expected one shape")
        mapped: Tensor = self.dense(inputs)
        if self.diagonal > 0:
            mapped = mapped + self.diagonal * inputs
        if self.activation is not None:
            mapped = self.activation(mapped)
        return first * mapped + inputs


class CrossLayers(nn.Module):
    """A stack of cross layers.

    Args:
        width: Input and output width.
        count: Number of layers.
        rank: Rank of their matrices; None for full matrices.
    """

    def __init__(self, width: int, count: int, rank: int | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Cross(width, rank) for _ in range(count))

    def forward(self, inputs: Tensor) -> Tensor:
        """`[n, width]` to `[n, width]`."""
        crossed = inputs
        for layer in self.layers:
            crossed = layer(inputs, crossed)
        return crossed


class DotInteraction(nn.Module):
    """Dot products of all pairs of embeddings.

    Naumov et al., *Deep learning recommendation model for personalization and recommendation systems*, 2019.

    Args:
        itself: Include the product of each embedding with itself.

    Example:
        >>> one, other = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
        >>> DotInteraction()([one, other]), DotInteraction(itself=True)([one, other])
        (tensor([[11.]]), tensor([[ 5., 11., 25.]]))
    """

    def __init__(self, itself: bool = False) -> None:
        super().__init__()
        self.itself = itself

    def products(self, count: int) -> int:
        """How many products `count` embeddings have."""
        return count * (count + 1) // 2 if self.itself else count * (count - 1) // 2

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """The products `[n, pairs]` of embeddings that are `[n, d]` each, in the order of the lower triangle.

        Raises:
            ConfigError: There are no embeddings, or their shapes differ.
        """
        if len({one.shape for one in embeddings}) != 1:
            shapes = ", ".join(str(list(one.shape)) for one in embeddings) or "none"
            raise ConfigError(f"embeddings of {shapes}; expected one or more, all of one shape [n, d]")
        stacked = torch.stack(list(embeddings), dim=1)  # [n, count, d]
        products = stacked @ stacked.transpose(1, 2)  # [n, count, count]
        count = len(embeddings)
        rows, columns = torch.tril_indices(count, count, 0 if self.itself else -1, device=products.device)
        return products[:, rows, columns]
