"""`Tower`: features side by side, followed by a stack of dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from twotower.errors import ConfigError
from twotower.features import Feature, feature_from_settings


class Tower(nn.Module):
    """Features, concatenated, and dense layers: ReLU after each but the last.

    No ReLU follows the last layer: there it would make every coordinate of an embedding non-negative.
    Dense layers start Glorot uniform with zero biases.

    Args:
        features: What the tower reads, side by side.
        layers: Widths of the dense layers; empty for the concatenated features themselves.
        dropout: Share of the inputs of every dense layer that is dropped in training.

    Raises:
        ConfigError: No features, a width below 1 or a dropout outside [0, 1).

    Example:
        >>> from twotower.features import Normalized
        >>> tower = Tower([Normalized("age"), Normalized("height")], layers=[8, 4])
        >>> tower([torch.zeros(3), torch.ones(3)]).shape
        torch.Size([3, 4])
    """

    def __init__(self, features: Sequence[Feature], layers: Sequence[int] = (), dropout: float = 0.0) -> None:
        super().__init__()
        if not features:
            raise ConfigError("a tower has no features; expected at least one")
        if any(width < 1 for width in layers):
            raise ConfigError(f"layers={list(layers)}; expected widths of at least 1")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout={dropout}; expected a share in [0, 1)")
        self.layers = list(layers)
        self.dropout = dropout
        self.features = nn.ModuleList(features)
        self.stack = self._dense_stack()
        self.reset()

    @property
    def width(self) -> int:
        """Numbers in the embedding."""
        return self.layers[-1] if self.layers else self._input_width()

    def forward(self, encoded: Sequence[Tensor]) -> Tensor:
        """Embeds n rows, given each feature's encoded rows `[n, …]`, as `[n, width]`."""
        embedded = [feature(rows) for feature, rows in zip(self.features, encoded, strict=True)]
        embedding: Tensor = self.stack(torch.cat(embedded, dim=1))  # [n, sum of widths] -> [n, width]
        return embedding

    def reset(self) -> None:
        """Starts the dense layers anew."""
        for layer in self.stack:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this tower anew, as plain data."""
        return {
            "features": [feature.settings() for feature in self._features()],
            "layers": self.layers,
            "dropout": self.dropout,
        }

    def _features(self) -> list[Feature]:
        return [feature for feature in self.features if isinstance(feature, Feature)]

    def _input_width(self) -> int:
        return sum(feature.width for feature in self._features())

    def _dense_stack(self) -> nn.Sequential:
        stack = nn.Sequential()
        width = self._input_width()
        for depth, next_width in enumerate(self.layers):
            if depth > 0:
                stack.append(nn.ReLU())
            if self.dropout > 0:
                stack.append(nn.Dropout(self.dropout))
            stack.append(nn.Linear(width, next_width))
            width = next_width
        return stack


def tower_from_settings(settings: dict[str, Any]) -> Tower:
    """Makes a tower from what `Tower.settings` gives.

    Raises:
        ConfigError: A setting is unknown or wrong.
    """
    arguments = dict(settings)
    features = [feature_from_settings(feature) for feature in arguments.pop("features", [])]
    return Tower(features, **arguments)
