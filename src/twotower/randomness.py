"""Random numbers for training: rows draw the same numbers whether one rank or several process the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

_part: ContextVar[tuple[slice, int] | None] = ContextVar("part", default=None)


@contextmanager
def part_of_rows(part: slice, rows: int) -> Iterator[None]:
    """In the block, draws for a part of a step's rows equal what those rows would get if all were drawn together.

    Numbers are drawn for all rows, and those of other parts are dropped, so that all ranks stay in sync.

    Args:
        part: The rows that this process has.
        rows: Total number of rows of the step.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> everything = uniform([4, 2], torch.device("cpu"))
        >>> _ = torch.manual_seed(0)
        >>> with part_of_rows(slice(1, 3), 4):
        ...     own = uniform([2, 2], torch.device("cpu"))
        >>> torch.equal(own, everything[1:3])
        True
    """
    token = _part.set((part, rows))
    try:
        yield
    finally:
        _part.reset(token)


def own_draws() -> AbstractContextManager[None]:
    """Marks a block whose draws are not one per row of the step, and keeps all ranks in sync after it.

    If this process has only a part of the rows, draws in the block come from a separate generator, seeded alike on all
    ranks. Otherwise this does nothing.
    """
    if torch.compiler.is_exporting() or _part.get() is None:  # torch.export does not support context variables
        return nullcontext()
    return _draws_from_a_shared_seed()


@contextmanager
def _draws_from_a_shared_seed() -> Iterator[None]:
    seed = int(torch.randint(1 << 62, ()))
    token = _part.set(None)
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield
    finally:
        _part.reset(token)


def uniform(shape: Sequence[int], device: torch.device) -> Tensor:
    """Uniform random numbers in [0, 1) of `shape` `[n, …]`, for n rows; custom features should draw with it.

    In a single process it equals `torch.rand`. When several ranks each embed a part of a step's rows, only this
    function keeps their random numbers in sync.
    """
    if (part := _part.get()) is None:
        return torch.rand(*shape, device=device)
    own, rows = part
    return torch.rand(rows, *shape[1:], device=device)[own]


def uniform_bytes(shape: Sequence[int], device: torch.device) -> Tensor:
    """Uniform random uint8 numbers, 0 to 255, of `shape` `[n, …]`, for n rows; each random int64 gives eight."""
    count = torch.Size(shape).numel()
    part = _part.get()
    each = count if part is None else count // shape[0]
    total = count if part is None else each * part[1]
    words = torch.empty(-(-total // 8), dtype=torch.int64, device=device).random_(-(2**63), None)
    numbers = words.view(torch.uint8)
    if part is None:
        return numbers[:count].view(*shape)
    return numbers[part[0].start * each : part[0].stop * each].view(*shape)
