"""Optimisers and learning-rate schedules, as settings that configs can hold."""

from __future__ import annotations

import math
from collections import Counter
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from twotower.arguments import Settings
from twotower.errors import ConfigError
from twotower.features.lookups import Table
from twotower.training.groups import Updates, lazy_tables, parameter_groups
from twotower.training.lazy import LazyAdagrad, LazyAdamW


class Adagrad(Settings, frozen=True, tag="adagrad", tag_field="kind"):
    """Adagrad as in TensorFlow and Keras 2: `p −= rate · g / (√(Σ g²) + ε)`, with the sum starting above 0.

    Duchi, Hazan and Singer, *Adaptive subgradient methods for online learning and stochastic optimization*,
    JMLR 2011. If the loss is averaged over the batch, the gradients are so small that the initial sum of 0.1
    dominates; use `reduction="sum"`, or AdamW.

    Attributes:
        learning_rate: Above 0.
        initial_accumulator: Initial value of the sum of squared gradients.
        epsilon: Added outside the square root.
        weight_decay: Factor of the weights that is added to the gradient; not applied to a learned temperature.
        tables: `lazy` updates only the rows of embedding tables that a step looks up: without weight decay, the
            result is identical; with it, only these rows decay. `dense` updates all rows. `auto` is lazy if that is
            faster and identical: for large tables without weight decay.
    """

    learning_rate: float = 0.1
    initial_accumulator: float = 0.1
    epsilon: float = 1e-7
    weight_decay: float = 0.0
    tables: Updates = "auto"

    def check(self) -> None:
        """Checks the ranges."""
        _check(self)
        if self.initial_accumulator < 0 or self.epsilon < 0:
            raise ConfigError(
                f"initial_accumulator={self.initial_accumulator}, epsilon={self.epsilon}; "
                f"expected numbers of at least 0"
            )

    def build(self, model: nn.Module, looked_up: Counter[Table] | None = None) -> torch.optim.Optimizer:
        """Creates the optimiser of all the model's parameters.

        Args:
            model: The model.
            looked_up: Maximum number of rows of each table that a step looks up, from `look_ups`; without it, `auto`
                is dense.
        """
        groups = parameter_groups(model, self.learning_rate, self.weight_decay)
        same = [group for group in groups if group["weight_decay"] == 0] if self.tables == "auto" else groups
        if tables := lazy_tables(same, self.tables, looked_up or Counter()):
            return LazyAdagrad(groups, tables, self.initial_accumulator, self.epsilon)
        return torch.optim.Adagrad(
            groups, initial_accumulator_value=self.initial_accumulator, eps=self.epsilon, fused=True
        )


class AdamW(Settings, frozen=True, tag="adamw", tag_field="kind"):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).

    Attributes:
        learning_rate: Above 0.
        weight_decay: Times the learning rate, the fraction by which weights shrink each step; not applied to a
            learned temperature.
        betas: Decay rates of the running means of the gradient and of its square.
        tables: `lazy` updates only the rows of embedding tables that a step looks up, after the steps they have
            missed; the result is the same up to rounding. `dense` updates all rows. `auto` is lazy if that is faster:
            for large tables.
    """

    learning_rate: float = 0.002
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    tables: Updates = "auto"

    def check(self) -> None:
        """Checks the ranges."""
        _check(self)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas={self.betas}; expected two numbers in [0, 1)")

    def build(self, model: nn.Module, looked_up: Counter[Table] | None = None) -> torch.optim.Optimizer:
        """Creates the optimiser of all the model's parameters; see `Adagrad.build`."""
        groups = parameter_groups(model, self.learning_rate, self.weight_decay)
        if tables := lazy_tables(groups, self.tables, looked_up or Counter()):
            return LazyAdamW(groups, tables, self.betas)
        return torch.optim.AdamW(groups, betas=self.betas, fused=True)


Optimizer = Adagrad | AdamW


@runtime_checkable
class Schedule(Protocol):
    """How the learning rate changes over training; a custom schedule needs only this method."""

    def factor(self, progress: float) -> float:
        """The factor of the learning rate when this fraction of all steps is done."""
        ...


class Constant(Settings, frozen=True, tag="constant", tag_field="kind"):
    """The same learning rate throughout, after a linear warm-up.

    Attributes:
        warmup: Fraction of the steps in which the rate grows from 0.
    """

    warmup: float = 0.0

    def check(self) -> None:
        """Checks the ranges."""
        _check_warmup(self.warmup)

    def factor(self, progress: float) -> float:
        """The factor of the learning rate when this fraction of all steps is done."""
        return min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0


class Cosine(Settings, frozen=True, tag="cosine", tag_field="kind"):
    """Cosine decay from the learning rate to `floor` times it, after a linear warm-up.

    Loshchilov and Hutter, *SGDR: stochastic gradient descent with warm restarts*, ICLR 2017; without restarts.

    Attributes:
        warmup: Fraction of the steps in which the rate grows from 0.
        floor: Fraction of the learning rate at the end.
    """

    warmup: float = 0.0
    floor: float = 0.0

    def check(self) -> None:
        """Checks the ranges."""
        _check_warmup(self.warmup)
        if not 0 <= self.floor <= 1:
            raise ConfigError(f"floor={self.floor}; expected a share between 0 and 1")

    def factor(self, progress: float) -> float:
        """The factor of the learning rate when this fraction of all steps is done."""
        if progress < self.warmup:
            return progress / self.warmup
        done = (progress - self.warmup) / (1 - self.warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2


LearningRateSchedule = Constant | Cosine


def _check(settings: Optimizer) -> None:
    if not settings.learning_rate > 0:
        raise ConfigError(f"learning_rate={settings.learning_rate}; expected a number above 0")
    if not settings.weight_decay >= 0:
        raise ConfigError(f"weight_decay={settings.weight_decay}; expected a number of at least 0")


def _check_warmup(warmup: float) -> None:
    if not 0 <= warmup < 1:
        raise ConfigError(f"warmup={warmup}; expected a share of the steps in [0, 1)")
