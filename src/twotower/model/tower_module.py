"""`TowerModule`: what every tower has in common, ours and users': features, and how wide the embedding is."""

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
from twotower.model.layers import start_anew

TOWERS: Kinds[type[TowerModule]] = Kinds("tower")
"""Towers by kind; a subclass of `TowerModule` that has a kind is registered by being defined."""


class TowerModule(nn.Module):
    """Features, and a module that maps what they give to an embedding.

    A tower of your own is a subclass with a `kind`. It

    - hands its features to `super().__init__` and sets `width`,
    - maps the features' embeddings side by side `[n, input_width]` to `[n, width]` in `embed_inputs`, or what they
      encoded to `[n, width]` in `forward`, where it needs them apart; explanations need `embed_inputs`,
    - keeps each argument of its constructor in an attribute of the same name, as plain data, so that it can be saved.

    `twotower.testing.check_tower` tries one out.

    Args:
        features: What the tower reads.

    Attributes:
        kind: Its name in configs and saved models.
        features: What it reads.
        width: How many numbers an embedding has.

    Raises:
        ConfigError: There are no features, or one is there twice.

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
        self.features = nn.ModuleList(features)

    @property
    def input_width(self) -> int:
        """How many numbers all features give for a row."""
        return sum(feature.width for feature in self.features)  # type: ignore[misc]

    def forward(self, encoded: Sequence[Tensor]) -> Tensor:
        """Embeds n rows, given each feature's encoded rows `[n, …]`, as `[n, width]`."""
        return self.embed_inputs(self.read(encoded))

    def read(self, encoded: Sequence[Tensor]) -> Tensor:
        """The features' embeddings side by side, `[n, input_width]`, given each one's encoded rows `[n, …]`."""
        return torch.cat([feature(rows) for feature, rows in zip(self.features, encoded, strict=True)], dim=1)

    def embed_inputs(self, inputs: Tensor) -> Tensor:
        """What it makes of the features' embeddings side by side, `[n, input_width]`: `[n, width]`.

        Raises:
            ConfigError: It has its own `forward` instead.
        """
        del inputs
        raise ConfigError(f"{type(self).__name__} has no embed_inputs, which explanations need; expected one")

    def reset(self) -> None:
        """Starts all but the features anew; default: dense layers Glorot uniform, norms at the identity."""
        for name, part in self.named_children():
            if name != "features":
                start_anew(part)

    def settings(self) -> dict[str, Any]:
        """The arguments that make this tower anew, with its `kind`, as plain data."""
        names = [name for name in inspect.signature(type(self)).parameters if name != "features"]
        features = [feature.settings() for feature in self.features if isinstance(feature, Feature)]
        return {"kind": self.kind, "features": features} | {name: getattr(self, name) for name in names}


def _refuse_twins(features: Sequence[Feature]) -> None:
    """Refuses a feature that is there twice: the same object, or one that is no different.

    Raises:
        ConfigError: There is one.
    """
    for place, feature in enumerate(features):
        for before, other in enumerate(features[:place]):
            if feature is other or (type(feature) is type(other) and feature.settings() == other.settings()):
                raise ConfigError(
                    f"features {before} and {place} of a tower are both {feature.kind} of {feature.column!r} with the "
                    f"same settings; expected each once",
                    field="features",
                    column=feature.column,
                )
