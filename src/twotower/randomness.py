"""Random numbers of training: those of a part of the rows are what these rows would have drawn among all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

_part: ContextVar[tuple[slice, int] | None] = ContextVar("part", default=None)


@contextmanager
def part_of_rows(part: slice, rows: int) -> Iterator[None]:
    """Inside the block, what is drawn for some of a step's rows is what they would have drawn among all of them.

    All numbers are drawn and those of the others dropped, so that processes that each embed a part draw alike.

    Args:
        part: Which of the rows are there.
        rows: How many there are in all.

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
    """Inside the block, what is drawn is not for the rows of a step; afterwards all processes draw alike again.

    Where a process has a part of the rows, the numbers inside come from a seed that all have drawn. Elsewhere this does
    nothing.
    """
    if torch.compiler.is_exporting() or _part.get() is None:  # an export stumbles over context variables
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
    """Numbers uniform in [0, 1), of the `shape` `[n, …]` for n rows; features of your own should draw by it.

    `torch.rand` does the same in one process. Among several, by which each embeds a part of a step's rows, only this
    keeps their random numbers alike.
    """
    if (part := _part.get()) is None:
        return torch.rand(*shape, device=device)
    own, rows = part
    return torch.rand(rows, *shape[1:], device=device)[own]


def uniform_bytes(shape: Sequence[int], device: torch.device) -> Tensor:
    """Numbers uniform from 0 to 255, uint8, of the `shape` `[n, …]` for n rows: eight for each random word."""
    count = torch.Size(shape).numel()
    part = _part.get()
    each = count if part is None else count // shape[0]
    total = count if part is None else each * part[1]
    words = torch.empty(-(-total // 8), dtype=torch.int64, device=device).random_(-(2**63), None)
    numbers = words.view(torch.uint8)
    if part is None:
        return numbers[:count].view(*shape)
    return numbers[part[0].start * each : part[0].stop * each].view(*shape)
