"""`Tower`: features concatenated or summed, then cross layers and dense layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from twotower.arguments import checks_arguments
from twotower.errors import ConfigError
from twotower.features import Feature, feature_from_settings
from twotower.model.cross import CrossLayers
from twotower.model.dropout import Dropout
from twotower.model.layers import ACTIVATIONS, MAX_WIDTH, Activation, Norm, are_widths, dense_stack, reset_layers
from twotower.model.tower_module import TOWERS, TowerModule, features_of
from twotower.randomness import uniform

MAX_CROSS = 64
"""Most cross layers of a tower."""

Combine = Literal["concat", "sum"]


class Tower(TowerModule):
    """Features, concatenated or summed, and dense layers with an activation after each but the last.

    The last layer has no activation: a ReLU there would make every coordinate of an embedding non-negative.
    Dense layers start Glorot uniform with zero biases. If a query tower has a single dense layer, and no cross layers
    beside it, the identity is added to it for every mean of items in a history whose embeddings are the candidates', as
    those of a candidate tower without layers are. Queries thus start near their items.

    Args:
        features: The features that the tower reads.
        layers: Widths of the dense layers; without layers, the embedding is the combined features.
        dropout: Share of the inputs of every dense layer but the first dropped during training.
        input_dropout: Share of the features' outputs dropped during training.
        activation: Activation of every dense layer but the last: `relu`, `gelu`, `silu` or `tanh`.
        norm: Norm of every dense layer but the last: `layer`, `batch` or `none`.
        residual: Add a hidden layer's input to its output if both have the same width.
        cross: Number of cross layers (DCN-v2, Wang et al., WWW 2021), which multiply features.
        cross_rank: Rank of the cross layers' matrices; None for full matrices.
        cross_place: Put them `before` the dense layers, or `beside` them and project both to the last width.
        unknown_query_rate: Share of training rows treated as an unknown query: unknown id and empty record at once.
            The tower thus learns to embed new queries from their other features. Needed only if features read a
            record; for an id alone, `unknown_rate` does the same.
        combine: Concatenate the features (`concat`) or add them up (`sum`), which requires equal widths. A history that
            shares embeddings with a candidate tower uses its sums.
        history_start: Factor of these identities; 0 leaves only the random weights.

    Raises:
        ConfigError: There are no features, a width is below 1, a share is outside [0, 1), cross layers are beside no
            dense layers, `history_start` is negative or infinite, or features to be summed have different widths.

    Example:
        >>> from twotower.features import Normalized
        >>> tower = Tower([Normalized("age"), Normalized("height")], layers=[8, 4])
        >>> tower([torch.zeros(3), torch.ones(3)]).shape
        torch.Size([3, 4])
    """

    @checks_arguments
    def __init__(
        self,
        features: Sequence[Feature],
        layers: Sequence[int] = (),
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        *,
        activation: Activation = "relu",
        norm: Norm = "none",
        residual: bool = False,
        cross: int = 0,
        cross_rank: int | None = None,
        cross_place: Literal["before", "beside"] = "before",
        unknown_query_rate: float = 0.0,
        combine: Combine = "concat",
        history_start: float = 1.0,
    ) -> None:
        super().__init__(features)
        if not are_widths(layers):
            raise ConfigError(f"layers={list(layers)}; expected widths from 1 to {MAX_WIDTH:,}")
        _check_rates(dropout, input_dropout, unknown_query_rate, history_start)
        if activation not in ACTIVATIONS or norm not in ("none", "layer", "batch"):
            raise ConfigError(
                f"activation={activation!r}, norm={norm!r}; expected one of {', '.join(ACTIVATIONS)}, "
                f"and none, layer or batch"
            )
        _check_cross(cross, cross_rank, cross_place, layers)
        if combine == "sum" and len({feature.width for feature in features}) > 1:
            widths = ", ".join(f"{feature.column} {feature.width}" for feature in features)
            raise ConfigError(f"combine='sum' with features of different widths: {widths}; expected the same")
        self.combine = combine
        self.layers, self.dropout, self.activation, self.norm = list(layers), dropout, activation, norm
        self.input_dropout = input_dropout
        self.drop = Dropout(input_dropout)
        self.unknown_query_rate, self.history_start = unknown_query_rate, history_start
        self.residual, self.cross, self.cross_rank, self.cross_place = residual, cross, cross_rank, cross_place
        width = self.input_width if combine == "concat" else features[0].width
        self.width = self.layers[-1] if self.layers else width
        self.stack = dense_stack(width, self.layers, dropout, activation, norm, residual)
        self.crossed = CrossLayers(width, cross, cross_rank) if cross > 0 else None
        beside = cross > 0 and cross_place == "beside"
        self.joined = nn.Linear(width + self.width, self.width) if beside else None
        ids = {key.by for feature in features if (key := feature.record_key) is not None}
        self._identifies_query = [one.record_key is not None or one.column in ids for one in features]
        self.reset()

    @property
    def is_plain(self) -> bool:
        """Whether its embeddings are the combined features, without layers."""
        return not self.layers and self.crossed is None

    def read(self, encoded: Sequence[Tensor]) -> Tensor:
        """The features' embeddings, concatenated, `[n, input_width]`, from each feature's encoded rows `[n, …]`."""
        if self.training and self.unknown_query_rate > 0:
            encoded = self._with_unknown_queries(encoded)
        return super().read(encoded)

    def embed_inputs(self, inputs: Tensor) -> Tensor:
        """Maps the concatenated embeddings of the features, `[n, sum of widths]`, to `[n, width]`."""
        inputs = self.drop(inputs)
        if self.combine == "sum":
            inputs = inputs.view(inputs.shape[0], len(self.features), -1).sum(dim=1)  # [n, features, dim] -> [n, dim]
        crossed = inputs if self.crossed is None else self.crossed(inputs)
        if self.joined is not None:
            joined: Tensor = self.joined(torch.cat([crossed, self.stack(inputs)], dim=1))
            return joined
        stacked: Tensor = self.stack(crossed)
        return stacked

    def _with_unknown_queries(self, encoded: Sequence[Tensor]) -> list[Tensor]:
        """The encoded rows, with random rows turned into unknown queries, the same rows in all features."""
        unknown = uniform([len(encoded[0])], encoded[0].device) < self.unknown_query_rate
        return [
            feature.as_unknown(rows, unknown) if isinstance(feature, Feature) and identifies else rows
            for feature, rows, identifies in zip(self.features, encoded, self._identifies_query, strict=True)
        ]

    def reset(self) -> None:
        """Reinitialises everything but the features."""
        for part in (self.stack, self.crossed, self.joined):
            if part is not None:
                reset_layers(part)
        self._start_from_histories()

    def _start_from_histories(self) -> None:
        """Adds `history_start` times the identity to a single dense layer, for every mean of a shared history."""
        places, begin = list[int](), 0
        for feature in features_of(self):
            if feature.item_means > 0 and feature.width == feature.item_means * self.width:
                places += range(begin, begin + feature.width, self.width)
            begin += feature.width
        if not places or len(self.layers) != 1 or self.joined is not None or self.combine != "concat":
            return
        dense = self.stack[0]
        assert isinstance(dense, nn.Linear)
        with torch.no_grad():
            for place in places:
                dense.weight[:, place : place + self.width].diagonal().add_(self.history_start)

    def settings(self) -> dict[str, Any]:
        """The arguments from which `tower_from_settings` rebuilds this tower, as plain data."""
        return {
            "features": [feature.settings() for feature in self.features if isinstance(feature, Feature)],
            "layers": self.layers,
            "dropout": self.dropout,
            "input_dropout": self.input_dropout,
            "activation": self.activation,
            "norm": self.norm,
            "residual": self.residual,
            "cross": self.cross,
            "cross_rank": self.cross_rank,
            "cross_place": self.cross_place,
            "unknown_query_rate": self.unknown_query_rate,
            "combine": self.combine,
        } | ({} if self.history_start == 1.0 else {"history_start": self.history_start})


def _check_rates(dropout: float, input_dropout: float, unknown_query_rate: float, history_start: float) -> None:
    if not all(0 <= share < 1 for share in (dropout, input_dropout, unknown_query_rate)):
        raise ConfigError(
            f"dropout={dropout}, input_dropout={input_dropout}, "
            f"unknown_query_rate={unknown_query_rate}; expected shares in [0, 1)"
        )
    if not 0 <= history_start < math.inf:
        raise ConfigError(f"history_start={history_start}; expected at least 0, and finite", field="history_start")


def _check_cross(cross: int, rank: int | None, place: str, layers: Sequence[int]) -> None:
    if (
        not 0 <= cross <= MAX_CROSS
        or (rank is not None and not are_widths([rank]))
        or place not in ("before", "beside")
    ):
        raise ConfigError(
            f"cross={cross}, cross_rank={rank}, cross_place={place!r}; expected from 0 to {MAX_CROSS}, "
            f"a rank from 1 to {MAX_WIDTH:,} or None, and before or beside"
        )
    if cross > 0 and place == "beside" and not layers:
        raise ConfigError("cross_place='beside' without dense layers; expected layers, or cross_place='before'")


def tower_from_settings(settings: dict[str, Any]) -> TowerModule:
    """Builds a tower from its `settings`; without a `kind`, a `Tower`.

    Raises:
        ConfigError: A setting is unknown or invalid.
    """
    arguments = dict(settings)
    features = [feature_from_settings(feature) for feature in arguments.pop("features", [])]
    if "kind" not in arguments:
        return Tower(features, **arguments)
    own: TowerModule = TOWERS.make(arguments | {"features": features})
    return own
