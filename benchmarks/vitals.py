"""Memory, descriptors and threads of a process over time, and whether they grow. Linux only."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from twotower.evaluation.intervals import Interval, student_t

FLAT_PER_HOUR = 0.02
"""A value is called flat if it surely grows by less than this fraction of itself in an hour."""

HOUR = 3600.0


class Vitals(msgspec.Struct, frozen=True):
    """What a process holds at one moment.

    Attributes:
        resident: Resident memory in bytes.
        descriptors: Number of open file descriptors.
        threads: Number of threads.
    """

    resident: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Vitals:
        """Reads them from `/proc`."""
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        values = dict(line.split(":", 1) for line in lines)
        resident = 1024 * int(values["VmRSS"].split()[0])
        return cls(resident, len(os.listdir(f"/proc/{pid}/fd")), int(values["Threads"]))  # noqa: PTH208


class Monitor:
    """Reads the vitals of a process at an interval, in a thread, while the block runs.

    Args:
        pid: The process.
        seconds: The interval.
    """

    def __init__(self, pid: int, seconds: float) -> None:
        self.times: list[float] = []
        self.vitals: list[Vitals] = []
        self._pid, self._seconds = pid, seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            self.times.append(time.perf_counter() - self._started)
            self.vitals.append(Vitals.of(self._pid))

    def highest(self) -> Vitals:
        """The highest value of each, not necessarily of the same moment."""
        each = zip(*map(msgspec.structs.astuple, self.vitals), strict=True)
        return Vitals(*map(max, each))


def growth_per_hour(times: list[float], values: list[float]) -> Interval:
    """The slope of a line through values over time, per hour, with its 95% interval.

    Neighbouring samples are alike, so the interval counts only n · (1 − r) / (1 + r) of them, where r is the
    correlation of a residual with the next one.

    Args:
        times: When each value was read, in seconds.
        values: The values.

    Example:
        >>> growth_per_hour([0.0, 1800.0, 3600.0], [5.0, 6.0, 7.0])
        Interval(mean=2.0, half_width=None)
    """
    hours, height = np.array(times) / HOUR, np.array(values)
    slope, start = np.polyfit(hours, height, 1)
    residuals = height - start - slope * hours
    total = float((residuals**2).sum())
    if total <= 1e-18 * max(1.0, float((height**2).sum())):
        return Interval(round(float(slope), 9), 0.0 if len(values) > 3 else None)
    alike = min(max(float((residuals[:-1] * residuals[1:]).sum()) / total, 0.0), 0.99)
    free = len(values) * (1 - alike) / (1 + alike) - 2
    if free < 1:
        return Interval(float(slope))
    variance = total / free / float(((hours - hours.mean()) ** 2).sum())
    return Interval(float(slope), student_t(0.975, int(free)) * math.sqrt(variance))


def verdict(growth: Interval, level: float) -> str:
    """What a growth per hour means for a value of this level: `flat`, `grows`, or `unclear` if it was too short to say.

    Example:
        >>> verdict(Interval(0.1, 0.2), 100.0), verdict(Interval(5.0, 1.0), 100.0), verdict(Interval(2.0, 9.0), 100.0)
        ('flat', 'grows', 'unclear')
    """
    bound = FLAT_PER_HOUR * level
    if growth.half_width is None:
        return "unclear"
    return "flat" if growth.high < bound else "grows" if growth.low > bound else "unclear"
