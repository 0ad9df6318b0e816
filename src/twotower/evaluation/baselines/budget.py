"""Limits on the cost of a baseline: its budget, the estimate before it starts, and the clock while it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import torch
from scipy import sparse

from twotower.arguments import Settings
from twotower.errors import ConfigError, TwoTowerError
from twotower.evaluation.baselines.symmetric import invert
from twotower.progress import ReportStep, no_report

DEFAULT_SECONDS = 60.0
"""Seconds that a baseline may take to learn and to be measured."""

MEMORY_DIVISOR = 4
"""A baseline may use the free memory divided by this."""

PATIENCE = 2.0
"""Seconds into a step before its end is projected from its progress."""

PROJECTION_SLACK = 1.5
"""A baseline is stopped early if it is projected to take more than this many times its budget."""

TRIAL_SIZE = 3072
"""Rows of the matrix inverted to measure the speed of this machine. Inversions of at most this size are assumed to be
free, since they take about a second on any machine."""

TRIAL_PRODUCTS = 4_000_000
"""Multiplications of the sparse product that is timed; products of at most this size are assumed to be free, too."""


class BaselineBudget(Settings, frozen=True):
    """Limits on the cost of each baseline.

    Attributes:
        seconds: Time to learn and to be measured. Popularity, recent popularity and the oracle have no limit: they
            learn in no time, and take as long to measure as any model.
        memory: Memory in bytes; None: a quarter of the free memory.

    Raises:
        ConfigError: One of them is not above 0.

    Example:
        >>> BaselineBudget(seconds=300.0).seconds
        300.0
    """

    seconds: float = DEFAULT_SECONDS
    memory: int | None = None

    def check(self) -> None:
        """Refuses a budget that is not above 0."""
        if not self.seconds > 0 or (self.memory is not None and self.memory <= 0):
            raise ConfigError(
                f"a baseline's budget is {self.seconds:g} seconds and {self.memory} bytes; expected more than 0"
            )


class Cost(msgspec.Struct, frozen=True):
    """Estimated cost of a baseline, in seconds and bytes."""

    seconds: float
    memory: float

    def __str__(self) -> str:
        return f"{readable_seconds(self.seconds)} and {self.memory / 2**30:.1f} GiB"


class OverBudgetError(TwoTowerError):
    """A baseline exceeds its budget; the message says by how much, and how to allow it."""


class Machine:
    """Speed of this machine with the threads that this process may use; measured on first access.

    Measured in processor time, so estimates do not depend on what else is running.
    """

    @cached_property
    def inversion(self) -> float:
        """Seconds per n³ for inverting an n × n matrix."""
        return _processor_seconds(lambda: invert(torch.eye(TRIAL_SIZE))) / (torch.get_num_threads() * TRIAL_SIZE**3)

    @cached_property
    def multiplication(self) -> float:
        """Seconds per multiplication in a product of sparse matrices."""
        rows, each = TRIAL_PRODUCTS // 100, 10
        columns = np.random.default_rng(0).integers(0, 4 * TRIAL_SIZE, rows * each)
        entries = (np.ones(len(columns), np.float32), columns, np.arange(0, rows * each + 1, each))
        choices = sparse.csr_matrix(entries, shape=(rows, 4 * TRIAL_SIZE))
        transposed = choices.T.tocsr()
        return _processor_seconds(lambda: transposed @ choices) / TRIAL_PRODUCTS

    @cached_property
    def memory(self) -> int:
        """Free memory in bytes."""
        return free_memory()


def inversion_seconds(machine: Machine, size: int) -> float:
    """Estimated seconds to invert a matrix with `size` rows."""
    return 0.0 if size <= TRIAL_SIZE else machine.inversion * size**3


def product_seconds(machine: Machine, multiplications: float) -> float:
    """Estimated seconds for a product of sparse matrices with this many multiplications."""
    return 0.0 if multiplications <= TRIAL_PRODUCTS else machine.multiplication * multiplications


def check_cost(cost: Cost, budget: BaselineBudget, machine: Machine) -> None:
    """Refuses a baseline whose estimated cost exceeds the budget.

    Raises:
        OverBudgetError: It does.
    """
    memory = machine.memory // MEMORY_DIVISOR if budget.memory is None else budget.memory
    if cost.seconds <= budget.seconds and cost.memory <= memory:
        return
    flags = []
    if cost.seconds > budget.seconds:
        flags.append(_seconds_allow(cost.seconds))
    if cost.memory > memory:
        gibibytes = _two_digits(cost.memory / 2**30)
        flags.append(f"--baseline-memory {gibibytes:g} or BaselineBudget(memory={int(gibibytes * 2**30)})")
    allowed = Cost(budget.seconds, memory)
    raise OverBudgetError(f"it would take about {cost}, over its budget of {allowed}; to allow it: {', '.join(flags)}")


class Clock:
    """Reports the steps of a baseline, and stops it if it exceeds its time limit or is projected to.

    Args:
        seconds: Time limit, counted from now.
        report: Receives the current step.
        now: Returns the current time in seconds.
    """

    def __init__(
        self, seconds: float, report: ReportStep = no_report, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds, self._report, self._now = seconds, report, now
        self._started = now()
        self._step, self._step_started = "", self._started

    def __call__(self, step: str, share: float | None = None) -> None:
        """Records the progress of the baseline.

        Raises:
            OverBudgetError: The time is up, or this step is projected to exceed it.
        """
        now = self._now()
        if step != self._step:
            self._step, self._step_started = step, now
        elapsed, in_step = now - self._started, now - self._step_started
        if elapsed > self._seconds:
            raise OverBudgetError(
                f"it was stopped while {step}, over its budget of {readable_seconds(self._seconds)}; "
                f"to allow more: --baseline-seconds or BaselineBudget.seconds"
            )
        if share and in_step >= PATIENCE:
            projected = elapsed + in_step * (1 - share) / share
            if projected > self._seconds * PROJECTION_SLACK:
                raise OverBudgetError(
                    f"it would take about {readable_seconds(projected)}, over its budget of "
                    f"{readable_seconds(self._seconds)}; to allow it: {_seconds_allow(projected)}"
                )
        self._report(step, share)


def free_memory() -> int:
    """Bytes of memory that this process may still use: the machine's, or its container's if that is less."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    system = Path("/proc/meminfo")
    if system.is_file():
        lines = system.read_text(encoding="ascii").splitlines()
        free = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), free)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.stat")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        # The file cache can be reclaimed; memory that processes hold (`anon`) cannot.
        held = next((int(line.split()[1]) for line in used.read_text().splitlines() if line.startswith("anon ")), 0)
        free = min(free, max(0, int(text) - held))
    return free


def readable_seconds(seconds: float) -> str:
    """Seconds in a readable unit: `8 s`, `12 min`, `3 h`.

    Example:
        >>> [readable_seconds(seconds) for seconds in (8, 90, 750, 10_000)]
        ['8 s', '90 s', '12 min', '2.8 h']
    """
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.2g} h"


def _seconds_allow(seconds: float) -> str:
    allowed = _two_digits(seconds)
    return f"--baseline-seconds {allowed:g} or BaselineBudget(seconds={allowed:g})"


def _two_digits(value: float) -> float:
    """Adds at least 10%, since estimates err, and rounds up to two significant digits."""
    size = 10.0 ** (np.floor(np.log10(value)) - 1)
    return float(np.ceil(round(value * 1.1 / size, 6)) * size)


def _processor_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
