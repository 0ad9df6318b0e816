"""Optimisers that touch only those rows of embedding tables that a batch has looked up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adagrad import adagrad
from torch.optim.adamw import adamw

from twotower.errors import ConfigError
from twotower.features.lookups import Table, coalesced

CHUNK = 1 << 16
"""Numbers of a table updated at a time on a CPU, so that they stay in its cache."""


class LazyAdagrad(torch.optim.Adagrad):
    """Adagrad that leaves rows without a gradient alone: where their weights do not decay, exactly Adagrad.

    Weight decay, which Adagrad adds to the gradient, is of the rows of the batch alone.

    Args:
        groups: The parameters, as for `torch.optim.Adagrad`.
        tables: Those of them to update lazily.
        initial_accumulator: What the sum of squared gradients starts at.
        epsilon: Added outside the root.
    """

    def __init__(
        self, groups: list[dict[str, Any]], tables: Iterable[Table], initial_accumulator: float, epsilon: float
    ) -> None:
        super().__init__(groups, initial_accumulator_value=initial_accumulator, eps=epsilon, fused=True)
        self.tables = list(tables)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates the dense parameters, and of each lazy table the rows that have a gradient."""
        with _set_aside(self.tables):
            super().step(closure)
        for group, table, rows, gradient in _touched(self):
            state = self.state[table]
            step = state["step"]
            for part, weights, sums, slopes in _gathered(rows, table, state["sum"], gradient=gradient):
                adagrad(
                    [weights],
                    [slopes],
                    [sums],
                    [step.clone()],  # which it counts up
                    fused=True,
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    lr_decay=0.0,
                    eps=group["eps"],
                    maximize=False,
                )
                table.index_copy_(0, part, weights)
                state["sum"].index_copy_(0, part, sums)
            step += 1


class LazyAdamW(torch.optim.AdamW):
    """AdamW that leaves rows without a gradient alone, and makes up for the weight decay that they miss.

    The moments of a row are the running means over the steps that had a gradient for it, and the bias of both is
    corrected by the number of all steps, as in TensorFlow's `LazyAdam` and PyTorch's `SparseAdam`. A row takes the
    decay of the steps that it missed, at the rates they had, when it next has a gradient, and in `catch_up`. Where
    every row has a gradient at every step, this is AdamW.

    Args:
        groups: The parameters, as for `torch.optim.AdamW`.
        tables: Those of them to update lazily.
        betas: Decay of the running means of the gradient and of its square.

    Raises:
        ConfigError: The weight decay of a step would take off all the weights.
    """

    def __init__(self, groups: list[dict[str, Any]], tables: Iterable[Table], betas: tuple[float, float]) -> None:
        super().__init__(groups, betas=betas, fused=True)
        self.tables = list(tables)
        for group in self.param_groups:
            if group["lr"] * group["weight_decay"] >= 1:
                raise ConfigError(
                    f"a learning rate of {group['lr']} times a weight decay of {group['weight_decay']}; "
                    f"expected a product below 1, as it is the share of the weights taken off in a step"
                )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates the dense parameters, and of each lazy table the rows that have a gradient."""
        with _set_aside(self.tables):
            super().step(closure)
        for group, table, rows, gradient in _touched(self):
            state = self._state_of(table)
            step, decay = state["step"], float(state["decay"])
            decayed = decay + math.log1p(-group["lr"] * group["weight_decay"])
            moments = state["exp_avg"], state["exp_avg_sq"]
            for part, weights, means, squares, slopes in _gathered(rows, table, *moments, gradient=gradient):
                if decayed < 0:
                    weights *= (decay - state["decayed"].index_select(0, part)).exp_().unsqueeze(1)
                    state["decayed"].index_fill_(0, part, decayed)
                adamw(
                    [weights],
                    [slopes],
                    [means],
                    [squares],
                    [],
                    [step.clone()],  # which it counts up
                    fused=True,
                    amsgrad=False,
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=False,
                )
                for whole, new in zip((table, *moments), (weights, means, squares), strict=True):
                    whole.index_copy_(0, part, new)
            step += 1
            state["decay"] = decayed

    @torch.no_grad()
    def catch_up(self) -> None:
        """Gives every row of the lazy tables the weight decay that it has missed: one pass over them."""
        for table in self.tables:
            state = self._state_of(table)
            if state["decay"] != 0:
                table.mul_((state["decay"] - state["decayed"]).exp_().unsqueeze(1))
                state["decayed"].zero_()
                state["decay"] = 0.0

    def _state_of(self, table: Table) -> dict[str, Any]:
        """The state of a table; `decay` is the logarithm of all decay since `catch_up`, `decayed` what each row had."""
        state: dict[str, Any] = self.state[table]
        if not state:
            state["step"] = torch.zeros((), device=table.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
            state["decay"], state["decayed"] = 0.0, table.new_zeros(len(table))
        return state


def catch_up(optimizer: Optimizer) -> None:
    """Makes up for what rows of lazy tables have missed; called before the weights are used or saved."""
    if isinstance(optimizer, LazyAdamW):
        optimizer.catch_up()


def lazily_updated(optimizer: Optimizer) -> Sequence[Table]:
    """The tables that an optimiser updates lazily."""
    return optimizer.tables if isinstance(optimizer, LazyAdagrad | LazyAdamW) else ()


@contextmanager
def _set_aside(tables: list[Table]) -> Iterator[None]:
    """Inside the block the tables have no gradients, by which PyTorch's optimisers pass them over."""
    gradients = [table.grad for table in tables]
    for table in tables:
        table.grad = None
    yield
    for table, gradient in zip(tables, gradients, strict=True):
        table.grad = gradient


def _touched(optimizer: LazyAdagrad | LazyAdamW) -> Iterator[tuple[dict[str, Any], Table, Tensor, Tensor]]:
    """Each lazy table with its group, the distinct rows that have a gradient `[n]`, and that gradient `[n, dim]`."""
    lazy = set(optimizer.tables)
    for group in optimizer.param_groups:
        for table in group["params"]:
            if table in lazy and table.grad is not None:
                sparse = coalesced(table.grad)
                yield group, table, sparse.indices()[0], sparse.values()


def _gathered(rows: Tensor, *wholes: Tensor, gradient: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some of the rows at a time: their numbers, a copy of each tensor's, and their gradient."""
    size = max(1, CHUNK // gradient.shape[1]) if rows.device.type == "cpu" else max(1, len(rows))
    for part, slopes in zip(torch.split(rows, size), torch.split(gradient, size), strict=True):
        yield part, *(whole.index_select(0, part) for whole in wholes), slopes
