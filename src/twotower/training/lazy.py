"""Optimisers that touch only those rows of embedding tables that a batch has looked up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adagrad import adagrad
from torch.optim.adamw import adamw

from twotower.features.lookups import Table, coalesced, row_gradients

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
            self.refresh(table, rows)  # no more than a look where they were looked up for this step
            moments = state["exp_avg"], state["exp_avg_sq"]
            for part, weights, means, squares, slopes in _gathered(rows, table, *moments, gradient=gradient):
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
                for whole, new in zip((table, *moments), (weights, means, squares), strict=True):
                    whole.index_copy_(0, part, new)
            state["step"] += 1
            self._missed[table].add_step(rows)

    @torch.no_grad()
    def refresh(self, table: Table, rows: Tensor) -> None:
        """Brings the `rows` `[…]` of a lazy table up to date."""
        if table in self._missed:
            rows = rows.flatten()
            late = self._missed[table].at.index_select(0, rows) < self._missed[table].now
            self._bring_up_to_date(table, torch.unique(rows[late]).long())

    @torch.no_grad()
    def catch_up(self) -> None:
        """Brings all rows of the lazy tables up to date: one pass over them."""
        for table, missed in self._missed.items():
            self._bring_up_to_date(table, (missed.at < missed.now).nonzero().squeeze(1))
        self._missed.clear()

    def state_dict(self) -> dict[str, Any]:
        """The state as AdamW has it: of rows that are all up to date."""
        self.catch_up()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave; the weights have to be those of then."""
        self._missed.clear()
        super().load_state_dict(state_dict)

    def _bring_up_to_date(self, table: Table, rows: Tensor) -> None:
        """Takes all the steps that these distinct rows have missed at once."""
        missed, state = self._missed[table], self.state[table]
        moments = state["exp_avg"], state["exp_avg_sq"]
        for part, weights, means, squares in _gathered(rows, table, *moments):
            decay, way, epsilon, fading, fading_squares = missed.factors(part, table.dtype)
            weights.mul_(decay).sub_(way * means / (squares.sqrt() + epsilon))
            for whole, new in zip((table, *moments), (weights, means * fading, squares * fading_squares), strict=True):
                whole.index_copy_(0, part, new)
        missed.at.index_fill_(0, rows, missed.now)


class _Missed:
    """What AdamW does to a row of a table that has no gradient, from each step so far up to now.

    With decay λ, rate η_s, betas β₁ and β₂, a row with moments m and v after step t is moved, at a step s > t, by
    `w ← (1 − η_s λ) w − a_s ρ^(s − t) m / (√v + …)`, with `a_s = η_s √(1 − β₂^s) / (1 − β₁^s)` and
    `ρ = β₁ / √β₂`; over the steps up to now that is a factor of w and one of m / (√v + …), which depend on t alone.

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
        self._one = torch.ones(1, dtype=torch.float64, device=table.device)
        self._decay, self._power, self._way = self._one, self._one, 0 * self._one  # [steps kept]
        self._epsilon = self._one * self._epsilon_now()

    @property
    def now(self) -> int:
        """The present step, counted from the first that is kept here."""
        return len(self._decay) - 1

    def add_step(self, rows: Tensor) -> None:
        """Counts a step in which only these rows had a gradient."""
        self.step += 1
        rate, (beta1, beta2) = self.group["lr"], self.group["betas"]
        kept = 1 - rate * self.group["weight_decay"]
        pace = rate * math.sqrt(1 - beta2**self.step) / (1 - beta1**self.step)
        self._power = self._power * (beta1 / math.sqrt(beta2))
        self._way = torch.cat([self._way * kept + pace * self._power, 0 * self._one])
        self._power = torch.cat([self._power, self._one])
        self._decay = torch.cat([self._decay * kept, self._one])
        self._epsilon = torch.cat([self._epsilon, self._one * self._epsilon_now()])
        self.at.index_fill_(0, rows, self.now)

    def factors(self, rows: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
        """For the steps missed by rows `[n]`, `[n, 1]` each.

        Yields:
            The factor of the weights; the length of the way in units of `m / (√v + ε)`; that ε; the factors of m, v.
        """
        at = self.at.index_select(0, rows)
        steps = (self.now - at).double()
        beta1, beta2 = self.group["betas"]
        known = (factor.index_select(0, at) for factor in (self._decay, self._way, self._epsilon))
        for factor in (*known, beta1**steps, beta2**steps):
            yield factor.to(dtype).unsqueeze(1)

    def _epsilon_now(self) -> float:
        epsilon: float = self.group["eps"]
        return epsilon * (math.sqrt(1 - self.group["betas"][1] ** self.step) if self.step > 0 else 1.0)


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


def _gathered(rows: Tensor, *wholes: Tensor, gradient: Tensor | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Some of the rows at a time: their numbers, a copy of each tensor's, and their gradient where one is given."""
    size = max(1, CHUNK // wholes[0].shape[1]) if rows.device.type == "cpu" else max(1, len(rows))
    for begin in range(0, len(rows), size):
        part = rows[begin : begin + size]
        copies = (whole.index_select(0, part) for whole in wholes)
        yield (part, *copies) if gradient is None else (part, *copies, gradient[begin : begin + size])
