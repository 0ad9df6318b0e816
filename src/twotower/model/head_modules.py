"""`HeadModules`: the heads of one model, by task name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from twotower.errors import ConfigError
from twotower.model.heads import Head, HeadModule, Shape, head_settings


class HeadModules(nn.ModuleDict):
    """Heads by task name, with the settings to rebuild them.

    Attributes:
        settings: The settings of each head, as plain data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, dict[str, Any]] = {}

    def __getitem__(self, name: str) -> HeadModule:
        """The head of a task.

        Raises:
            ConfigError: The model has no such head.
        """
        if name not in self:
            raise ConfigError(f"the model has no head {name!r}; expected one of {', '.join(self) or 'none'}")
        head = super().__getitem__(name)
        assert isinstance(head, HeadModule)
        return head

    @property
    def read_vectors(self) -> bool:
        """Whether any head reads the towers' embeddings."""
        return any(self[name].reads_vectors for name in self)

    def add(self, heads: Mapping[str, Head], shape: Shape, device: torch.device, seed: int = 0) -> None:
        """Adds the heads that the model does not have yet.

        Args:
            heads: Heads by task name.
            shape: The widths of the towers.
            device: The model's device.
            seed: Seed of their initial weights; the caller's random state is not changed.

        Raises:
            ConfigError: The model has a different head of that name, or a head cannot be rebuilt from settings.
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
        """Reinitialises all heads."""
        for name in self:
            self[name].reset()
