"""Keeps the number of PyTorch threads right on a machine that other programs use, too.

The threads of a parallel kernel wait for the slowest of them. If another program keeps a core busy, every small kernel
waits until the system lets the thread on that core run again: with one of two cores busy, a step takes four times as
long on two threads as on one. Repeated work therefore runs within `adapted_threads`, which tries a few kernels on
fewer threads at the beginning and whenever the work slows down.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from twotower.processes import allowed_threads

TOLERANCE = 1.25
"""The most threads are kept unless a trial on them takes this many times as long as on the best number.

On a quiet machine they never do, so that the number, on which rounding depends, does not change there.
"""

TRIALS = 3
"""Trials that must all prefer another number before it is taken, since a short trial may meet a passing task."""

WINDOW = 0.5
"""Seconds of work over which its speed is measured."""

SLOWER = 1.3
"""Work has slowed down if its speed was this many times as high before."""

AGAIN = 10.0
"""Seconds after which a trial is stale: another follows if work begins, or runs on fewer threads than allowed.

Each that leaves the number below the allowed one doubles the time to the next, up to `RARELY`.
"""

RARELY = 120.0
"""The longest time between trials of work that runs on fewer threads than allowed."""

SOON = 2.0
"""Minimum seconds between trials, however much the speed varies."""

ROUNDS, ROWS, WIDTH, LAYERS = 8, 1024, 64, 8
"""Size of a trial: a batch that passes through some layers a few times; 10 ms for each number of threads."""

ENOUGH = 0.1
"""A trial that has taken this many seconds ends early: it is slow because other programs keep cores busy."""

Trial = Callable[[Sequence[int]], Sequence[float]]
"""Gives the seconds that the same work takes on each of some numbers of threads."""


class Pace:
    """The number of threads of one piece of repeated work, and the speed of its steps.

    Args:
        most: The largest number of threads.
        now: The number in use.
        trial: Measures numbers of threads.
        clock: Gives seconds.
    """

    def __init__(self, most: int, now: int, trial: Trial, clock: Callable[[], float] = time.perf_counter) -> None:
        self.most, self.now = most, now
        self.tried, self.pause = -math.inf, AGAIN
        self._trial, self._clock = trial, clock
        self._amount = self._seconds = self._best = 0.0

    @contextmanager
    def step(self, amount: int) -> Iterator[None]:
        """Times a step, then tries other numbers of threads if steps have slowed down.

        Args:
            amount: The size of the step, such as its number of events.
        """
        if self.most == 1:
            yield
            return
        started = self._clock()
        yield
        self._seconds += self._clock() - started
        self._amount += amount
        if self._seconds < WINDOW:
            return
        speed, self._amount, self._seconds = self._amount / self._seconds, 0.0, 0.0
        since = self._clock() - self.tried
        if (speed * SLOWER < self._best and since > SOON) or (self.now < self.most and since > self.pause):
            self.choose()
            self._best = speed
        self._best = max(self._best, speed)

    def choose(self) -> None:
        """Tries numbers of threads, and takes another if all trials prefer it."""
        counts = [self.most]
        while counts[-1] > 1:
            counts.append(counts[-1] // 2)
        before, preferred = self.now, []
        for _ in range(TRIALS):
            seconds = self._trial(counts)
            preferred.append(next(n for n, own in zip(counts, seconds, strict=True) if own <= TOLERANCE * min(seconds)))
            if preferred[-1] == self.now:
                break
        else:
            self.now = max(preferred)
        self.tried = self._clock()
        self.pause = AGAIN if self.now != before or self.now == self.most else min(2 * self.pause, RARELY)
        torch.set_num_threads(self.now)


class _Thread(threading.local):
    """What a thread of this process has in progress: OpenMP keeps the number of threads per thread."""

    pace: Pace | None = None
    last: Pace | None = None


_own = _Thread()
_fixed: bool | None = None


def fix_threads(fixed: bool) -> None:
    """Fixes the number of threads of this process, or lets it adapt; by default, `OMP_NUM_THREADS` fixes it."""
    global _fixed
    _fixed = fixed


def are_threads_fixed() -> bool:
    """Whether the number of threads of this process stays as it is, because the user has set `OMP_NUM_THREADS`."""
    return bool(os.environ.get("OMP_NUM_THREADS")) if _fixed is None else _fixed


@contextmanager
def adapted_threads() -> Iterator[Pace]:
    """Runs repeated work on as many threads as pay off; afterwards, the number is what it was before.

    That is at most `allowed_threads`, and fewer while other programs keep cores busy. Within another such block, the
    number is that block's.

    Yields:
        Times the steps of the work.
    """
    if _own.pace is not None:
        yield Pace(1, _own.pace.now, time_trial)
        return
    before = torch.get_num_threads()
    most = allowed_threads()
    pace = Pace(1 if are_threads_fixed() else most, most, time_trial)
    if pace.most > 1 and _own.last is not None and _own.last.most == most:
        pace.now, pace.tried, pace.pause = _own.last.now, _own.last.tried, _own.last.pause
    _own.pace = pace
    try:
        torch.set_num_threads(pace.now)
        if pace.most > 1 and time.perf_counter() - pace.tried > pace.pause:
            pace.choose()
        yield pace
    finally:
        _own.pace, _own.last = None, pace
        torch.set_num_threads(before)


def time_trial(counts: Sequence[int]) -> list[float]:
    """Seconds that a few small kernels take on each number of threads, in turns; see `Trial`."""
    seconds = [0.0] * len(counts)
    with torch.inference_mode():
        batch, weights = torch.full((ROWS, WIDTH), 0.5), torch.full((WIDTH, WIDTH), 1 / WIDTH)
        for turn in range(ROUNDS + 1):  # the first starts threads and is not counted
            for place, count in enumerate(counts):
                torch.set_num_threads(count)
                started = time.perf_counter()
                for _ in range(LAYERS):
                    torch.relu_(batch @ weights)
                seconds[place] += (time.perf_counter() - started) * (turn > 0)
            if sum(seconds) > ENOUGH:
                break
    return seconds
