"""Heads: modules that map a query and a candidate together to a number, such as a predicted rating.

A head is a plain description; `build` creates its module for two towers. Heads share the towers and their features:
they read both embeddings, or both sides' features before the towers mix them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import msgspec
import torch
from torch import Tensor, nn

from twotower.arguments import Settings
from twotower.errors import ConfigError
from twotower.kinds import Kinds, kind_of
from twotower.model.cross import CrossLayers, DotInteraction
from twotower.model.dropout import Dropout
from twotower.model.interests import best_of_pairs
from twotower.model.layers import MAX_WIDTH, Activation, Norm, are_widths, dense_stack, reset_layers

Link = Literal["identity", "sigmoid"]
"""Maps a head's score to its answer: the identity, or the logistic function for a probability."""

Reads = Literal["embeddings", "features"]
"""What a head reads: the towers' embeddings, or the features' embeddings, concatenated."""


@dataclass(frozen=True)
class Side:
    """One side of n pairs, as heads read it.

    Attributes:
        features: The features' embeddings, concatenated, `[n, input_width]`.
        vectors: The tower's embeddings, ready for a dot product, `[n, d]`; empty, `[n, 0]`, if no head reads them.
    """

    features: Tensor
    vectors: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: Tensor) -> Side:
        """The given `rows`, `[m]`."""
        return Side(self.features.index_select(0, rows), self.vectors.index_select(0, rows))


@dataclass(frozen=True)
class Shape:
    """The widths that a head is built for.

    Attributes:
        query: Widths of the query tower's features.
        candidate: Widths of the candidate tower's features.
        width: Embedding dimension of both towers.
    """

    query: tuple[int, ...]
    candidate: tuple[int, ...]
    width: int

    def inputs(self, reads: Reads) -> int:
        """The width of both sides, concatenated."""
        return 2 * self.width if reads == "embeddings" else sum(self.query) + sum(self.candidate)


class HeadModule(nn.Module):
    """Maps each pair of a query and a candidate to a number; your own head overrides `score`.

    Its answer is `link(offset + scale · score)`. A head trained on a target starts with the target's mean as offset and
    its deviation as scale, so that the layers work on numbers around 0, and answers stay within the target's range.

    Args:
        link: Maps the scaled score to the answer.

    Attributes:
        reads_vectors: Whether `score` reads the towers' embeddings.
        reads_features: Whether `score` reads the features' embeddings.
    """

    reads_vectors: bool = True
    reads_features: bool = True

    def __init__(self, link: Link = "identity") -> None:
        super().__init__()
        self.link = link
        for name, value in (("offset", 0.0), ("scale", 1.0), ("low", -torch.inf), ("high", torch.inf)):
            self.register_buffer(name, torch.tensor(value))

    def score(self, query: Side, candidate: Side) -> Tensor:
        """The score of each of n pairs, `[n]`; of a query with several interests, it gets the candidate's best."""
        raise NotImplementedError

    def logits(self, query: Side, candidate: Side) -> Tensor:
        """The answers before the link, `[n]`, as used by losses."""
        query = Side(query.features, best_of_pairs(query.vectors, candidate.vectors))
        return self.get_buffer("offset") + self.get_buffer("scale") * self.score(query, candidate).float()

    def forward(self, query: Side, candidate: Side) -> Tensor:
        """The answers for n pairs, `[n]`; with link `identity`, clipped to the range of the training targets."""
        return self.linked(self.logits(query, candidate))

    def linked(self, logits: Tensor) -> Tensor:
        """Applies the link to `logits`; with `identity`, clips them to the range of the training targets."""
        if self.link == "sigmoid":
            return logits.sigmoid()
        return torch.minimum(torch.maximum(logits, self.get_buffer("low")), self.get_buffer("high"))

    def set_range(self, offset: float, scale: float, low: float, high: float) -> None:
        """Sets the offset and scale of the score, and the bounds of the answers."""
        for name, value in (("offset", offset), ("scale", scale), ("low", low), ("high", high)):
            self.get_buffer(name).fill_(value)

    def reset(self) -> None:
        """Reinitialises the head; default: dense layers Glorot uniform, norms at the identity."""
        reset_layers(self)


@runtime_checkable
class Head(Protocol):
    """The interface of a head; registered `Settings` that implement it can be named in configs.

    Example:
        >>> @HEADS.register
        ... class Distance(Settings, frozen=True, tag="distance", tag_field="kind"):
        ...     link: Link = "identity"
        ...     def build(self, shape: Shape) -> HeadModule:
        ...         return DistanceModule(self.link)
        >>> class DistanceModule(HeadModule):
        ...     def score(self, query: Side, candidate: Side) -> Tensor:
        ...         return -(query.vectors - candidate.vectors).square().sum(dim=1)
        >>> isinstance(Distance(), Head)
        True
    """

    @property
    def link(self) -> Link:
        """Maps the score to the answer."""
        ...

    def build(self, shape: Shape) -> HeadModule:
        """Builds the module for two towers."""
        ...


HEADS: Kinds[type] = Kinds("head")
"""Heads by kind; `@HEADS.register` makes your own head available to configs and saved models."""


@HEADS.register
class DotHead(Settings, frozen=True, tag="dot", tag_field="kind"):
    """A weighted dot product of both embeddings plus a linear function of each: factors and biases.

    With only id embeddings, this is matrix factorisation with biases (Koren, Bell and Volinsky, *Matrix factorization
    techniques for recommender systems*, IEEE Computer 42(8), 2009).

    Attributes:
        biases: Whether to add the linear functions.
        link: Maps the score to the answer; set by the task.
    """

    biases: bool = True
    link: Link = "identity"

    def build(self, shape: Shape) -> HeadModule:
        """Builds the module for two towers."""
        return _Dot(self, shape)


@HEADS.register
class StackHead(Settings, frozen=True, tag="stack", tag_field="kind"):
    """Dense layers over both sides, concatenated.

    Attributes:
        reads: `embeddings` or `features`.
        layers: Widths of the hidden layers; an output layer of width 1 follows.
        dropout: Share of the inputs of every layer but the first dropped during training.
        input_dropout: Share of the head's inputs dropped during training.
        activation: Activation of the hidden layers.
        norm: Norm of the hidden layers.
        link: Maps the score to the answer; set by the task.
    """

    reads: Reads = "embeddings"
    layers: tuple[int, ...] = (64, 32)
    dropout: float = 0.0
    input_dropout: float = 0.0
    activation: Activation = "relu"
    norm: Norm = "none"
    link: Link = "identity"

    def check(self) -> None:
        """Refuses settings out of range."""
        _check(self.layers, self.dropout, self.input_dropout)

    def build(self, shape: Shape) -> HeadModule:
        """Builds the module for two towers."""
        return _Stack(self, shape)


@HEADS.register
class CrossHead(Settings, frozen=True, tag="cross", tag_field="kind"):
    """Cross layers over both sides' features, then dense layers (DCN-v2, Wang et al., WWW 2021).

    Attributes:
        reads: `features` or `embeddings`.
        count: Number of cross layers.
        rank: Rank of their matrices; None for full matrices.
        layers: Widths of the hidden layers; an output layer of width 1 follows.
        place: Cross layers `before` the dense layers (the paper's stacked structure) or `beside` them (its parallel
            structure).
        dropout: Share of the inputs of every dense layer but the first dropped during training.
        input_dropout: Share of the head's inputs dropped during training.
        activation: Activation of the hidden layers.
        norm: Norm of the hidden layers.
        link: Maps the score to the answer; set by the task.
    """

    reads: Reads = "features"
    count: int = 2
    rank: int | None = None
    layers: tuple[int, ...] = (64, 32)
    place: Literal["before", "beside"] = "before"
    dropout: float = 0.0
    input_dropout: float = 0.0
    activation: Activation = "relu"
    norm: Norm = "none"
    link: Link = "identity"

    def check(self) -> None:
        """Refuses settings out of range."""
        _check(self.layers, self.dropout, self.input_dropout)
        if self.count < 1 or (self.rank is not None and self.rank < 1):
            raise ConfigError(f"count={self.count}, rank={self.rank}; expected at least 1, or no rank")

    def build(self, shape: Shape) -> HeadModule:
        """Builds the module for two towers."""
        return _Crossed(self, shape)


@HEADS.register
class InteractionHead(Settings, frozen=True, tag="dot_interaction", tag_field="kind"):
    """Dot products of all pairs of both sides' features, concatenated with the features, then dense layers (DLRM).

    Naumov et al., *Deep learning recommendation model for personalization and recommendation systems*, 2019. A dense
    layer maps features of other widths to `dim` for the products.

    Attributes:
        dim: Width of the features in the dot products.
        itself: Include the product of each feature with itself.
        layers: Widths of the hidden layers; an output layer of width 1 follows.
        dropout: Share of the inputs of every dense layer but the first dropped during training.
        input_dropout: Share of the head's inputs dropped during training.
        activation: Activation of the hidden layers.
        norm: Norm of the hidden layers.
        link: Maps the score to the answer; set by the task.
    """

    reads: ClassVar[Reads] = "features"

    dim: int = 32
    itself: bool = False
    layers: tuple[int, ...] = (64, 32)
    dropout: float = 0.0
    input_dropout: float = 0.0
    activation: Activation = "relu"
    norm: Norm = "none"
    link: Link = "identity"

    def check(self) -> None:
        """Refuses settings out of range."""
        _check(self.layers, self.dropout, self.input_dropout)
        if self.dim < 1:
            raise ConfigError(f"dim={self.dim}; expected at least 1")

    def build(self, shape: Shape) -> HeadModule:
        """Builds the module for two towers."""
        return _Interaction(self, shape)


BuiltInHead = DotHead | StackHead | CrossHead | InteractionHead
"""The heads of the package."""


def head_from_settings(settings: dict[str, Any]) -> Head:
    """Builds a head from plain data with its `kind`.

    Raises:
        ConfigError: The kind is unknown, or a setting is unknown or invalid.
    """
    head: Head = HEADS.make(settings)
    return head


def head_settings(head: Head) -> dict[str, Any]:
    """The settings of a head, as plain data from which `head_from_settings` rebuilds it.

    Raises:
        ConfigError: It is not registered, so it could not be rebuilt.
    """
    if not isinstance(head, msgspec.Struct) or kind_of(type(head)) not in HEADS:
        raise ConfigError(f"head {head!r} is not registered; expected Settings with @HEADS.register")
    settings: dict[str, Any] = msgspec.to_builtins(head)
    return settings


class _Dot(HeadModule):
    reads_features = False

    def __init__(self, head: DotHead, shape: Shape) -> None:
        super().__init__(head.link)
        self.product = nn.Parameter(torch.ones(shape.width))
        self.linear = nn.Linear(2 * shape.width, 1) if head.biases else None

    def score(self, query: Side, candidate: Side) -> Tensor:
        scored: Tensor = (query.vectors * candidate.vectors) @ self.product
        if self.linear is not None:
            scored = scored + self.linear(torch.cat([query.vectors, candidate.vectors], dim=1)).squeeze(1)
        return scored

    def reset(self) -> None:
        super().reset()
        nn.init.ones_(self.product)


class _Stack(HeadModule):
    def __init__(self, head: StackHead, shape: Shape) -> None:
        super().__init__(head.link)
        self.reads, self.reads_vectors = head.reads, head.reads == "embeddings"
        self.reads_features = not self.reads_vectors
        self.drop = Dropout(head.input_dropout)
        self.stack = _stack(shape.inputs(head.reads), head)

    def score(self, query: Side, candidate: Side) -> Tensor:
        scored: Tensor = self.stack(self.drop(_concatenated(self.reads, query, candidate)))
        return scored.squeeze(1)


class _Crossed(HeadModule):
    def __init__(self, head: CrossHead, shape: Shape) -> None:
        super().__init__(head.link)
        self.reads, self.reads_vectors = head.reads, head.reads == "embeddings"
        self.reads_features = not self.reads_vectors
        width = shape.inputs(head.reads)
        self.drop = Dropout(head.input_dropout)
        self.crossed = CrossLayers(width, head.count, head.rank)
        self.stack = _stack(width, head)
        self.beside = nn.Linear(width, 1) if head.place == "beside" else None

    def score(self, query: Side, candidate: Side) -> Tensor:
        inputs = self.drop(_concatenated(self.reads, query, candidate))
        crossed = self.crossed(inputs)
        scored: Tensor = self.stack(crossed) if self.beside is None else self.stack(inputs) + self.beside(crossed)
        return scored.squeeze(1)


class _Interaction(HeadModule):
    reads_vectors = False

    def __init__(self, head: InteractionHead, shape: Shape) -> None:
        super().__init__(head.link)
        self.widths = shape.query, shape.candidate
        widths = [*shape.query, *shape.candidate]
        self.drop = Dropout(head.input_dropout)
        self.met = nn.ModuleList(nn.Identity() if width == head.dim else nn.Linear(width, head.dim) for width in widths)
        self.interaction = DotInteraction(head.itself)
        self.stack = _stack(sum(widths) + self.interaction.products(len(widths)), head)

    def score(self, query: Side, candidate: Side) -> Tensor:
        features = [self.drop(side.features) for side in (query, candidate)]
        parts = [
            part
            for side, widths in zip(features, self.widths, strict=True)
            for part in torch.split(side, list(widths), dim=1)
        ]
        products = self.interaction([meet(part) for meet, part in zip(self.met, parts, strict=True)])
        scored: Tensor = self.stack(torch.cat([*features, products], dim=1))
        return scored.squeeze(1)


def _stack(width: int, head: StackHead | CrossHead | InteractionHead) -> nn.Sequential:
    return dense_stack(width, (*head.layers, 1), head.dropout, head.activation, head.norm, residual=False)


def _concatenated(reads: Reads, query: Side, candidate: Side) -> Tensor:
    if reads == "embeddings":
        return torch.cat([query.vectors, candidate.vectors], dim=1)
    return torch.cat([query.features, candidate.features], dim=1)


def _check(layers: Sequence[int], *shares: float) -> None:
    if not are_widths(layers) or not all(0 <= share < 1 for share in shares):
        raise ConfigError(
            f"layers={list(layers)}, dropout={shares[0]}, input_dropout={shares[1]}; expected widths from 1 to "
            f"{MAX_WIDTH:,} and shares in [0, 1)"
        )
