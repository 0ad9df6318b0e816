"""Shared by the speed benchmarks: alternating timings, this machine's peak rates for floors, and the JSON report."""

from __future__ import annotations

import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from twotower.files import write_file
from twotower.version import VERSION

RESULTS = Path(__file__).parent / "results"


class Timing(msgspec.Struct, frozen=True):
    """Seconds of each repetition of one function."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return readable(self.median)


class Rates(msgspec.Struct, frozen=True):
    """Peak rates of this machine, measured with the benchmark's number of threads.

    Attributes:
        flops: Floating-point operations per second in a product of float32 matrices that fit in the cache.
        exponentials: Float32 exponentials per second in cache: powers of e or of 2, whichever are faster.
        copy: Bytes per second read and written by a float32 copy that does not fit in the cache.
        read: Bytes per second read by a float32 sum that does not fit in the cache.
    """

    flops: float
    exponentials: float
    copy: float
    read: float


def time_alternately(
    sides: Mapping[str, Callable[[], object]], repetitions: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Times each function once per round, so that drift affects all alike; an extra first round is a warm-up.

    Args:
        sides: Functions to time, by name.
        repetitions: Timed rounds.
        clock: The clock; `time.process_time` counts only this process, whatever else the machine does.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(repetitions + 1):
        for name, side in sides.items():
            started = clock()
            side()
            if round_number:
                seconds[name].append(clock() - started)
    return {name: Timing(values) for name, values in seconds.items()}


def rates() -> Rates:
    """Measures the peak rates of this machine: the best of several short runs each."""
    left, right = torch.randn(256, 256), torch.randn(256, 256)
    product, small = torch.empty(256, 256), torch.randn(1 << 16)
    large, other = torch.randn(1 << 26), torch.empty(1 << 26)

    def best(work: Callable[[], object], amount: float, times: int) -> float:
        work()
        shortest = float("inf")
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(times):
                work()
            shortest = min(shortest, (time.perf_counter() - started) / times)
        return amount / shortest

    out = torch.empty_like(small)
    return Rates(
        flops=best(lambda: torch.mm(left, right, out=product), 2 * 256**3, 50),
        exponentials=max(best(partial(power, small, out=out), len(small), 200) for power in (torch.exp, torch.exp2)),
        copy=best(lambda: other.copy_(large), 8 * len(large), 1),
        read=best(large.sum, 4 * len(large), 1),
    )


def peak_memory() -> float:
    """Peak memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, a process inherits ru_maxrss from its parent
        lines = status.read_text(encoding="ascii").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1.0 if sys.platform == "darwin" else 1024.0)


def readable(seconds: float) -> str:
    """Formats a duration with a suitable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def write_report(name: str, results: Mapping[str, Any], out: Path | None = None) -> Path:
    """Writes results together with the command, machine and versions, and returns the path.

    Args:
        name: Name of the file: `results/NAME.json` beside this script.
        results: The measurements, as plain data or structs.
        out: Another path for the file.
    """
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "machine": {
            "architecture": platform.machine(),
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "vector instructions": torch.backends.cpu.get_cpu_capability(),
            "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"twotower": VERSION, "torch": str(torch.__version__), "python": platform.python_version()},
        **results,
    }
    write_file(path, msgspec.json.format(msgspec.json.encode(report), indent=1))
    return path


def _processor() -> str:
    """The CPU's model name; empty if unknown."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
