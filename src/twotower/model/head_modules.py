"""`HeadModules`: the heads of one model, by the names of their tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from twotower.errors import ConfigError
from twotower.model.heads import Head, HeadModule, Shape, head_settings


class HeadModules(nn.ModuleDict):
    """Heads by name, and the settings that make them anew.

    Attributes:
        settings: Of each head, as plain data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, dict[str, Any]] = {}

    def __getitem__(self, name: str) -> HeadModule:
        """The head of a task.

        Raises:
            ConfigError: There is none.
        """
        if name not in self:
            raise ConfigError(f"the model has no head {name!r}; expected one of {', '.join(self) or 'none'}")
        head = super().__getitem__(name)
        assert isinstance(head, HeadModule)
        return head

    @property
    def read_vectors(self) -> bool:
        """Whether any of them reads the towers' embeddings."""
        return any(self[name].reads_vectors for name in self)

    def add(self, heads: Mapping[str, Head], shape: Shape, device: torch.device, seed: int = 0) -> None:
        """Adds those heads that are not there.

        Args:
            heads: By the names of their tasks.
            shape: Of the towers.
            device: Where the model is.
            seed: Seed of their initial weights; the caller's random numbers are left as they were.

        Raises:
            ConfigError: There is another head of that name, or a head cannot be made anew from settings.
        """
        for name, head in heads.items():
            settings = head_settings(head)
            if self.settings.setdefault(name, settings) != settings:
                raise ConfigError(f"the model has a head {name!r} of {self.settings[name]}; expected {settings}")
            if name not in self:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    built = head.build(shape)
                    built.reset()
                self[name] = built.to(device)

    def reset(self) -> None:
        """Starts all of them anew."""
        for name in self:
            self[name].reset()
