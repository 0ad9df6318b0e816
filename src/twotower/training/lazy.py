"""Optimisers that update only the rows of embedding tables that a batch looks up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adagrad import adagrad
from torch.optim.adamw import adamw

from twotower.features.lookups import Table, coalesced, row_gradients

CHUNK = 1 << 16
"""Numbers of a table updated at a time on a CPU, so that they fit in its cache."""

CATCH_UP_ROWS = 1 << 15
"""Rows copied at a time when all rows are brought up to date."""


class LazyAdagrad(torch.optim.Adagrad):
    """Adagrad that skips rows without a gradient; without weight decay, it is exactly Adagrad.

    Weight decay, which Adagrad adds to the gradient, applies only to the rows of the batch.

    Args:
        groups: The parameters, as for `torch.optim.Adagrad`.
        tables: The tables to update lazily.
        initial_accumulator: Initial value of the sum of squared gradients.
        epsilon: Added outside the square root.
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
        for group, table, rows, gradient in _table_gradients(self):
            state = self.state[table]
            step = state["step"]
            held = _RowCopies.of(rows, table, state["sum"])
            for (part, weights, sums), slopes in zip(held.parts, held.split(gradient), strict=True):
                adagrad(
                    [weights],
                    [slopes],
                    [sums],
                    [step.clone()],  # adagrad increments it
                    fused=True,
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    lr_decay=0.0,
                    eps=group["eps"],
                    maximize=False,
                )
                _write(table, part, weights)
                _write(state["sum"], part, sums)
            step += 1


class LazyAdamW(torch.optim.AdamW):
    """AdamW that updates only the rows that a step looks up, after applying the steps they have missed.

    AdamW also changes rows without a gradient: their weights and moments decay, and they keep moving along their
    first moment. From the time of a row's last gradient, all of this has a closed form. So `refresh` brings rows up to
    date just before they are looked up, and `catch_up` all rows. The result equals AdamW's up to rounding and the
    epsilon of missed steps, which is scaled with the decaying moment.

    Args:
        groups: The parameters, as for `torch.optim.AdamW`.
        tables: The tables to update lazily.
        betas: Decay rates of the running means of the gradient and of its square.
    """

    def __init__(self, groups: list[dict[str, Any]], tables: Iterable[Table], betas: tuple[float, float]) -> None:
        super().__init__(groups, betas=betas, fused=True)
        self.tables = list(tables)
        self._missed: dict[Table, _MissedSteps] = {}
        self._held: dict[Table, _RowCopies] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates the dense parameters, and of each lazy table the rows that have a gradient."""
        with _set_aside(self.tables):
            super().step(closure)
        for group, table, rows, gradient in _table_gradients(self):
            state: dict[str, Any] = self.state[table]
            if not state:
                state["step"] = torch.zeros((), device=table.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
            if table not in self._missed:
                self._missed[table] = _MissedSteps(table, group, state["step"].item())
            held = self._up_to_date(table, rows)
            del self._held[table]
            for (part, weights, means, squares), slopes in zip(held.parts, held.split(gradient), strict=True):
                adamw(
                    [weights],
                    [slopes],
                    [means],
                    [squares],
                    [],
                    [state["step"].clone()],  # adamw increments it
                    fused=True,
                    amsgrad=False,
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=False,
                )
                _write(table, part, weights)
                _write(state["exp_avg"], part, means)
                _write(state["exp_avg_sq"], part, squares)
            state["step"] += 1
            self._missed[table].add_step(rows)

    @torch.no_grad()
    def refresh(self, table: Table, rows: Tensor) -> None:
        """Brings the `rows` `[…]` of a lazy table up to date."""
        if table in self._missed:
            self._up_to_date(table, torch.unique(rows).long())

    @torch.no_grad()
    def catch_up(self) -> None:
        """Brings all rows of the lazy tables up to date, in one pass over them."""
        for table, missed in self._missed.items():
            late = (missed.at < missed.now).nonzero().squeeze(1)
            for begin in range(0, len(late), CATCH_UP_ROWS):
                self._up_to_date(table, late[begin : begin + CATCH_UP_ROWS])
            self._write_moments(table)
        self._missed.clear()

    def state_dict(self) -> dict[str, Any]:
        """The state as AdamW's, after all rows are brought up to date."""
        self.catch_up()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a `state_dict`; the weights must be those of the same time."""
        self._missed.clear()
        self._held.clear()
        super().load_state_dict(state_dict)

    def _up_to_date(self, table: Table, rows: Tensor) -> _RowCopies:
        """Copies distinct rows and their moments, up to date; writes back the weights, but not the moments.

        Rows that are looked up usually get a gradient next, so their copies are kept until then.
        """
        held = self._held.get(table)
        if held is not None and torch.equal(held.rows, rows):
            return held
        self._write_moments(table)
        missed, state = self._missed[table], self.state[table]
        held = self._held[table] = _RowCopies.of(rows, table, state["exp_avg"], state["exp_avg_sq"])
        if (missed.at.index_select(0, rows) < missed.now).any():
            for part, weights, means, squares in held.parts:
                decay, drift, epsilon, fading, fading_squares = missed.factors(part, table.dtype)
                weights.mul_(decay).addcmul_(drift, means / squares.sqrt().add_(epsilon), value=-1)
                means.mul_(fading)
                squares.mul_(fading_squares)
                _write(table, part, weights)
            missed.at.index_fill_(0, rows, missed.now)
        return held

    def _write_moments(self, table: Table) -> None:
        """Writes the moments of the kept copies back."""
        if (held := self._held.pop(table, None)) is not None:
            for part, _, means, squares in held.parts:
                _write(self.state[table]["exp_avg"], part, means)
                _write(self.state[table]["exp_avg_sq"], part, squares)


class _MissedSteps:
    """What AdamW does to a row without gradients, combined over the steps from each past one up to now.

    With weight decay λ, learning rate η_s and betas β₁ and β₂, step s > t moves a row whose moments after step t are m
    and v by `w ← (1 − η_s λ) w − a_s ρ^(s − t) m / (√v + …)`, where `a_s = η_s √(1 − β₂^s) / (1 − β₁^s)` and
    `ρ = β₁ / √β₂`. All steps up to now combine to one factor of w and one of m / (√v + …), which depend only on t.

    Args:
        table: The table; all its rows are up to date.
        group: Its parameter group.
        step: Steps so far.

    Attributes:
        at: The step up to which each row is up to date, counted from the first one stored here, int32 `[rows]`.
    """

    def __init__(self, table: Table, group: dict[str, Any], step: float) -> None:
        self.group, self.step = group, step
        self.at = torch.zeros(len(table), dtype=torch.int32, device=table.device)
        self._factors = self._identity_factors()  # [6, steps stored]

    @property
    def now(self) -> int:
        """The current step, counted from the first one stored here."""
        return self._factors.shape[1] - 1

    def add_step(self, rows: Tensor) -> None:
        """Adds a step in which only these rows had a gradient."""
        self.step += 1
        rate, (beta1, beta2) = self.group["lr"], self.group["betas"]
        kept = 1 - rate * self.group["weight_decay"]
        step_size = rate * math.sqrt(1 - beta2**self.step) / (1 - beta1**self.step)
        self._factors *= self._factors.new_tensor([[kept], [kept], [1.0], [beta1], [beta2], [beta1 / math.sqrt(beta2)]])
        self._factors[1] += step_size * self._factors[5]
        self._factors = torch.cat([self._factors, self._identity_factors()], dim=1)
        self.at.index_fill_(0, rows, self.now)

    def factors(self, rows: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
        """Factors for the steps missed by rows `[n]`, `[n, 1]` each.

        Yields:
            The factor of the weights; the drift in units of `m / (√v + ε)`; that ε; the factors of m and of v.
        """
        factors = self._factors[:5].index_select(1, self.at.index_select(0, rows))
        yield from factors.to(dtype).unsqueeze(2)

    def _identity_factors(self) -> Tensor:
        """The factors of a row that is up to date, in the order of `factors`, and the power of ρ, `[6, 1]`."""
        epsilon = self.group["eps"] * (math.sqrt(1 - self.group["betas"][1] ** self.step) if self.step > 0 else 1.0)
        factors = [[1.0], [0.0], [epsilon], [1.0], [1.0], [1.0]]
        return torch.tensor(factors, dtype=torch.float64, device=self.at.device)


@dataclass(frozen=True)
class _RowCopies:
    """Copies of distinct rows of several tensors.

    Attributes:
        rows: The row numbers, `[n]`.
        parts: The copies in chunks of rows: the row numbers, then one copy per tensor.
    """

    rows: Tensor
    parts: list[tuple[Tensor, ...]]

    @classmethod
    def of(cls, rows: Tensor, *wholes: Tensor) -> _RowCopies:
        """Copies these rows of each tensor."""
        size = max(1, CHUNK // wholes[0].shape[1]) if rows.device.type == "cpu" else max(1, len(rows))
        parts = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
        return cls(rows, [(part, *(whole.index_select(0, part) for whole in wholes)) for part in parts])

    def split(self, values: Tensor) -> list[Tensor]:
        """Splits values of the rows `[n, …]` into the same chunks as the copies."""
        return list(values.split_with_sizes([len(part) for part, *_ in self.parts]))


def catch_up(optimizer: Optimizer) -> None:
    """Brings all rows of lazy tables up to date; call it before the weights are read other than by look-ups."""
    if isinstance(optimizer, LazyAdamW):
        optimizer.catch_up()


def lazy_look_ups(optimizer: Optimizer) -> AbstractContextManager[None]:
    """In the block, look-ups in the optimiser's lazy tables bring rows up to date and have sparse gradients."""
    if isinstance(optimizer, LazyAdamW):
        return row_gradients(optimizer.tables, optimizer.refresh)
    return row_gradients(optimizer.tables if isinstance(optimizer, LazyAdagrad) else ())


@contextmanager
def _set_aside(tables: list[Table]) -> Iterator[None]:
    """Hides the tables' gradients in the block, so that PyTorch's optimisers skip them."""
    gradients = [table.grad for table in tables]
    for table in tables:
        table.grad = None
    yield
    for table, gradient in zip(tables, gradients, strict=True):
        table.grad = gradient


def _table_gradients(optimizer: LazyAdagrad | LazyAdamW) -> Iterator[tuple[dict[str, Any], Table, Tensor, Tensor]]:
    """Yields each lazy table with its group, the distinct rows with a gradient `[n]`, and the gradient `[n, dim]`."""
    lazy = set(optimizer.tables)
    for group in optimizer.param_groups:
        for table in group["params"]:
            if table in lazy and table.grad is not None:
                sparse = coalesced(table.grad)
                yield group, table, sparse.indices()[0], sparse.values()


def _write(whole: Tensor, rows: Tensor, values: Tensor) -> None:
    """Writes `values` `[n, dim]` to distinct rows of a tensor; on a CPU with NumPy, which is 3 times faster."""
    if whole.device.type != "cpu" or not whole.is_contiguous():
        whole.index_copy_(0, rows, values)
        return
    row = np.dtype((np.void, whole.shape[1] * whole.element_size()))  # a row is copied as one value
    whole.detach().numpy().view(row)[rows.numpy(), 0] = values.numpy().view(row)[:, 0]
