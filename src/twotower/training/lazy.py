"""Optimisers that touch only those rows of embedding tables that a batch has looked up."""

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
"""Numbers of a table updated at a time on a CPU, so that they stay in its cache."""

CATCH_UP = 1 << 15
"""Rows whose copies are held at a time when all are brought up to date."""


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
            held = _Held.of(rows, table, state["sum"])
            for (part, weights, sums), slopes in zip(held.parts, held.split(gradient), strict=True):
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
                _write(table, part, weights)
                _write(state["sum"], part, sums)
            step += 1


class LazyAdamW(torch.optim.AdamW):
    """AdamW that touches the rows that a step looks up, and makes up for what they have missed since the last time.

    Under AdamW a row without a gradient does not rest: its weights decay, its moments fade, and it goes on in the
    direction of the mean of its gradients. All of that is known in closed form from when it last had a gradient, so
    a row is brought up to date just before it is looked up, by `refresh`, and all rows are by `catch_up`. The result
    is AdamW's but for rounding, and for the epsilon of the steps missed, which is scaled with the fading moment.

    Args:
        groups: The parameters, as for `torch.optim.AdamW`.
        tables: Those of them to update lazily.
        betas: Decay of the running means of the gradient and of its square.
    """

    def __init__(self, groups: list[dict[str, Any]], tables: Iterable[Table], betas: tuple[float, float]) -> None:
        super().__init__(groups, betas=betas, fused=True)
        self.tables = list(tables)
        self._missed: dict[Table, _Missed] = {}
        self._held: dict[Table, _Held] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates the dense parameters, and of each lazy table the rows that have a gradient."""
        with _set_aside(self.tables):
            super().step(closure)
        for group, table, rows, gradient in _touched(self):
            state: dict[str, Any] = self.state[table]
            if not state:
                state["step"] = torch.zeros((), device=table.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
            if table not in self._missed:
                self._missed[table] = _Missed(table, group, state["step"].item())
            held = self._up_to_date(table, rows)
            del self._held[table]
            for (part, weights, means, squares), slopes in zip(held.parts, held.split(gradient), strict=True):
                adamw(
                    [weights],
                    [slopes],
                    [means],
                    [squares],
                    [],
                    [state["step"].clone()],  # which it counts up
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
        """Brings all rows of the lazy tables up to date: one pass over them."""
        for table, missed in self._missed.items():
            late = (missed.at < missed.now).nonzero().squeeze(1)
            for begin in range(0, len(late), CATCH_UP):
                self._up_to_date(table, late[begin : begin + CATCH_UP])
            self._write_moments(table)
        self._missed.clear()

    def state_dict(self) -> dict[str, Any]:
        """The state as AdamW has it: of rows that are all up to date."""
        self.catch_up()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave; the weights have to be those of then."""
        self._missed.clear()
        self._held.clear()
        super().load_state_dict(state_dict)

    def _up_to_date(self, table: Table, rows: Tensor) -> _Held:
        """Copies of these distinct rows and their moments, up to date; so are the table's weights, not its moments.

        The rows that are looked up are those that then have a gradient, as a rule: their copies are held so long.
        """
        held = self._held.get(table)
        if held is not None and torch.equal(held.rows, rows):
            return held
        self._write_moments(table)
        missed, state = self._missed[table], self.state[table]
        held = self._held[table] = _Held.of(rows, table, state["exp_avg"], state["exp_avg_sq"])
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
        """Writes the moments that are held."""
        if (held := self._held.pop(table, None)) is not None:
            for part, _, means, squares in held.parts:
                _write(self.state[table]["exp_avg"], part, means)
                _write(self.state[table]["exp_avg_sq"], part, squares)


class _Missed:
    """What AdamW does to a row of a table that has no gradient, from each step so far up to now.

    With decay λ, rate η_s and betas β₁ and β₂, a row whose moments after step t are m and v is moved at step s > t by
    `w ← (1 − η_s λ) w − a_s ρ^(s − t) m / (√v + …)`, where `a_s = η_s √(1 − β₂^s) / (1 − β₁^s)` and `ρ = β₁ / √β₂`.
    Over the steps up to now these are a factor of w and one of m / (√v + …), which depend on t alone.

    Args:
        table: The table, all rows of which are up to date.
        group: Its group of parameters.
        step: Steps so far.

    Attributes:
        at: Up to which step each row is up to date, counted from the first that is kept here, int32 `[rows]`.
    """

    def __init__(self, table: Table, group: dict[str, Any], step: float) -> None:
        self.group, self.step = group, step
        self.at = torch.zeros(len(table), dtype=torch.int32, device=table.device)
        self._factors = self._of_now()  # [6, steps kept]

    @property
    def now(self) -> int:
        """The present step, counted from the first that is kept here."""
        return self._factors.shape[1] - 1

    def add_step(self, rows: Tensor) -> None:
        """Counts a step in which only these rows had a gradient."""
        self.step += 1
        rate, (beta1, beta2) = self.group["lr"], self.group["betas"]
        kept = 1 - rate * self.group["weight_decay"]
        pace = rate * math.sqrt(1 - beta2**self.step) / (1 - beta1**self.step)
        self._factors *= self._factors.new_tensor([[kept], [kept], [1.0], [beta1], [beta2], [beta1 / math.sqrt(beta2)]])
        self._factors[1] += pace * self._factors[5]
        self._factors = torch.cat([self._factors, self._of_now()], dim=1)
        self.at.index_fill_(0, rows, self.now)

    def factors(self, rows: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
        """For the steps missed by rows `[n]`, `[n, 1]` each.

        Yields:
            The factor of the weights; the drift in units of `m / (√v + ε)`; that ε; the factors of m, v.
        """
        factors = self._factors[:5].index_select(1, self.at.index_select(0, rows))
        yield from factors.to(dtype).unsqueeze(2)

    def _of_now(self) -> Tensor:
        """Of a row that is up to date: what `factors` gives, and the power of ρ, `[6, 1]`."""
        epsilon = self.group["eps"] * (math.sqrt(1 - self.group["betas"][1] ** self.step) if self.step > 0 else 1.0)
        factors = [[1.0], [0.0], [epsilon], [1.0], [1.0], [1.0]]
        return torch.tensor(factors, dtype=torch.float64, device=self.at.device)


@dataclass(frozen=True)
class _Held:
    """Distinct rows of some tensors, copied.

    Attributes:
        rows: Their numbers, `[n]`.
        parts: The copies, some of the rows at a time: their numbers, then the copy of each tensor's.
    """

    rows: Tensor
    parts: list[tuple[Tensor, ...]]

    @classmethod
    def of(cls, rows: Tensor, *wholes: Tensor) -> _Held:
        """Copies these rows of each tensor."""
        size = max(1, CHUNK // wholes[0].shape[1]) if rows.device.type == "cpu" else max(1, len(rows))
        parts = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
        return cls(rows, [(part, *(whole.index_select(0, part) for whole in wholes)) for part in parts])

    def split(self, values: Tensor) -> list[Tensor]:
        """Values of the rows `[n, …]`, cut like the copies."""
        return list(values.split_with_sizes([len(part) for part, *_ in self.parts]))


def catch_up(optimizer: Optimizer) -> None:
    """Brings all rows of lazy tables up to date; called before the weights are used otherwise than in look-ups."""
    if isinstance(optimizer, LazyAdamW):
        optimizer.catch_up()


def lazy_look_ups(optimizer: Optimizer) -> AbstractContextManager[None]:
    """Inside the block, look-ups in the optimiser's lazy tables have sparse gradients, of rows up to date."""
    if isinstance(optimizer, LazyAdamW):
        return row_gradients(optimizer.tables, optimizer.refresh)
    return row_gradients(optimizer.tables if isinstance(optimizer, LazyAdagrad) else ())


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


def _write(whole: Tensor, rows: Tensor, values: Tensor) -> None:
    """Writes `values` `[n, dim]` to distinct rows of a tensor; on a CPU by NumPy, three times as fast as PyTorch."""
    if whole.device.type != "cpu" or not whole.is_contiguous():
        whole.index_copy_(0, rows, values)
        return
    row = np.dtype((np.void, whole.shape[1] * whole.element_size()))  # copied as a whole
    whole.detach().numpy().view(row)[rows.numpy(), 0] = values.numpy().view(row)[:, 0]
