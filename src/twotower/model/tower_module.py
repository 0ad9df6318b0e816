"""`TowerModule`: base class of every tower, built-in or custom, with its features and embedding width."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from twotower.arguments import checks_arguments
from twotower.errors import ConfigError
from twotower.features import Feature
from twotower.kinds import Kinds
from twotower.model.layers import MAX_WIDTH, reset_layers

TOWERS: Kinds[type[TowerModule]] = Kinds("tower")
"""Towers by kind; defining a subclass of `TowerModule` with a `kind` registers it."""


class TowerModule(nn.Module):
    """Features, and a module that maps their outputs to an embedding.

    Your own tower is a subclass with a `kind`. It

    - passes its features to `super().__init__` and sets `width`,
    - maps the concatenated embeddings of the features `[n, input_width]` to `[n, width]` in `embed_inputs` or, if it
      needs them separately, maps their encoded rows to `[n, width]` in `forward`; explanations need `embed_inputs`,
    - stores each constructor argument in an attribute of the same name, as plain data, so that it can be saved.

    `twotower.testing.check_tower` tests an implementation.

    Args:
        features: The features that the tower reads.

    Attributes:
        kind: Its name in configs and saved models.
        features: The features that it reads.
        width: Embedding dimension.

    Raises:
        ConfigError: There are no features, or a feature occurs twice.

    Example:
        >>> from twotower.features import Normalized
        >>> class Gated(TowerModule):
        ...     kind = "glu"
        ...     def __init__(self, features: Sequence[Feature], width: int = 8) -> None:
        ...         super().__init__(features)
        ...         self.width = width
        ...         self.gate = torch.nn.Linear(self.input_width, 2 * width)
        ...     def embed_inputs(self, inputs: Tensor) -> Tensor:
        ...         return torch.nn.functional.glu(self.gate(inputs))
        >>> Gated([Normalized("age")])([torch.zeros(3)]).shape
        torch.Size([3, 8])
    """

    kind: ClassVar[str]
    width: int

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = checks_arguments(cls.__init__, cls.__name__)  # type: ignore[method-assign]
        if "kind" in cls.__dict__:
            TOWERS.register(cls)

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__()
        if not features:
            raise ConfigError("a tower has no features; expected at least one")
        _refuse_twins(features)
        if (widest := max(features, key=lambda one: one.width)).width > MAX_WIDTH:
            raise ConfigError(
                f"{widest.kind} of {widest.column!r} is {widest.width:,} wide; expected at most {MAX_WIDTH:,}",
                field="features",
                column=widest.column,
            )
        self.features = nn.ModuleList(features)

    @property
    def input_width(self) -> int:
        """Total width of the features."""
        return sum(feature.width for feature in self.features)  # type: ignore[misc]

    @property
    def is_plain(self) -> bool:
        """Whether its embeddings are its combined features, without layers after them; default: no."""
        return False

    def forward(self, encoded: Sequence[Tensor]) -> Tensor:
        """Embeds n rows, given each feature's encoded rows `[n, …]`, as `[n, width]`."""
        return self.embed_inputs(self.read(encoded))

    def read(self, encoded: Sequence[Tensor]) -> Tensor:
        """The features' embeddings, concatenated, `[n, input_width]`, from each feature's encoded rows `[n, …]`."""
        return torch.cat([feature(rows) for feature, rows in zip(self.features, encoded, strict=True)], dim=1)

    def embed_inputs(self, inputs: Tensor) -> Tensor:
        """Maps the concatenated embeddings of the features, `[n, input_width]`, to `[n, width]`.

        Raises:
            ConfigError: The tower overrides `forward` instead.
        """
        del inputs
        raise ConfigError(f"{type(self).__name__} has no embed_inputs, which explanations need; expected one")

    def reset(self) -> None:
        """Reinitialises everything but the features; default: dense layers Glorot uniform, norms at the identity."""
        for name, part in self.named_children():
            if name != "features":
                reset_layers(part)

    def settings(self) -> dict[str, Any]:
        """The arguments from which `tower_from_settings` rebuilds this tower, with its `kind`, as plain data."""
        names = [name for name in inspect.signature(type(self)).parameters if name != "features"]
        features = [feature.settings() for feature in features_of(self)]
        return {"kind": self.kind, "features": features} | {name: getattr(self, name) for name in names}


def features_of(tower: TowerModule) -> list[Feature]:
    """The features of a tower, in order."""
    return [feature for feature in tower.features if isinstance(feature, Feature)]


def _refuse_twins(features: Sequence[Feature]) -> None:
    """Refuses duplicate features: the same object, or the same kind with the same settings.

    Raises:
        ConfigError: A feature occurs twice.
    """
    for place, feature in enumerate(features):
        for before, other in enumerate(features[:place]):
            if feature is other or (type(feature) is type(other) and feature.settings() == other.settings()):
                raise ConfigError(
                    f"features {before} and {place} of a tower are both {feature.kind} of {feature.column!r} with the "
                    f"same settings; expected no duplicates",
                    field="features",
                    column=feature.column,
                )
