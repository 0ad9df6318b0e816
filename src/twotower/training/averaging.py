"""Averaging of weights over the steps of training, an average that forgets exponentially."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The running average of a model's parameters, beside those that go on training.

    It moves towards the parameters after each step t = 0, 1, … by `1 − min(decay, (1 + t) / (10 + t))`, so that
    the first steps, whose weights are no good, are soon forgotten (Polyak and Juditsky, *Acceleration of stochastic
    approximation by averaging*, SIAM J. Control Optim. 1992; the warm-up is TensorFlow's). What is no parameter,
    such as the moments of a batch norm, is not averaged: it is the model's latest. Each update passes over all
    parameters, large embedding tables included, whose rows are taken as they were last looked up where `LazyAdamW`
    updates them.

    Args:
        model: The model, whose parameters are what the average starts from.
        decay: Share of the average that a step keeps, below 1.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> average = Average(layer, decay=0.999)
        >>> with torch.no_grad():
        ...     _ = layer.weight.add_(1.0)
        >>> average.update(step=0)  # by 1 − 1 / 10
        >>> raw = layer.weight.item()
        >>> with average.in_place():
        ...     print(round(raw - layer.weight.item(), 3))
        0.1
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        named = dict(model.named_parameters())
        self.parameters: list[Tensor] = list(named.values())
        self.weights = {name: parameter.detach().clone() for name, parameter in named.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the parameters as step `step`, from 0, has left them."""
        kept = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), self.parameters, 1 - kept)

    @torch.no_grad()
    def restore(self, weights: dict[str, Tensor]) -> None:
        """Takes back the `weights` of a training that was interrupted."""
        for name, weight in weights.items():
            self.weights[name].copy_(weight)

    @torch.no_grad()
    def give(self) -> None:
        """Gives the model the averaged weights for its own."""
        torch._foreach_copy_(self.parameters, list(self.weights.values()))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights; after it, its own again."""
        own = [parameter.detach().clone() for parameter in self.parameters]
        self.give()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, own)
