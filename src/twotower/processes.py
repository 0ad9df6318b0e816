"""Worker processes that are their starter's to stop, and how many threads they and this process may use."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

GRACE = 5.0
"""Seconds that a worker has to end when it is told to."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What libraries with a pool of threads read, once, when they are loaded."""

START_METHOD = "spawn"
"""How workers start: anew, so that their libraries read the environment that they are given."""

CGROUPS = Path("/sys/fs/cgroup")


def allowed_threads() -> int:
    """Threads that this process may keep busy at once, its workers' included.

    The least of: the cores that it may run on, its control group's quota of processor time, `OMP_NUM_THREADS`, and
    what PyTorch is set to.
    """
    limits = [allowed_cores(), torch.get_num_threads(), _asked_for(os.environ.get("OMP_NUM_THREADS")), quota()]
    return max(1, min(limit for limit in limits if limit is not None))


def allowed_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(workers: int) -> int:
    """Threads for each of so many workers that share what this process may use."""
    return max(1, allowed_threads() // workers)


def quota(groups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Whole processors that this process's control groups let it use; None where they say nothing.

    Args:
        groups: Where control groups are mounted: version 2, or version 1 with its folder `cpu`.
        own: The file that says which is this process's.
    """
    shares = []
    for group in _own_groups(groups, own):
        try:
            limit, period = (group / "cpu.max").read_text().split()
            shares.append(float(limit) / float(period))
        except (OSError, ValueError):  # there is no such file, or it says "max"
            continue
    try:
        limit, period = ((groups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        shares += [float(limit) / float(period)] if float(limit) > 0 else []
    except (OSError, ValueError):
        pass
    return max(1, int(min(shares))) if shares else None


def start_worker(work: Callable[..., None], *arguments: Any, threads: int) -> SpawnProcess:
    """Starts a new process that runs `work(*arguments)`; it ends with this one.

    An interruption from the keyboard does not reach it.

    Args:
        work: A function of a module.
        arguments: What can be sent to another process: plain data, or ends of a pipe.
        threads: Of each of its libraries, PyTorch and BLAS among them; in its environment before they are loaded.
    """
    resource_tracker.ensure_running()  # it would be started below, and would unblock the signal
    process: SpawnProcess = multiprocessing.get_context(START_METHOD).Process(  # type: ignore[attr-defined]
        target=work, args=arguments, daemon=True
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited; what comes meanwhile waits
    try:
        with _threads_in_environment(threads):
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return process


def stop_workers(processes: Iterable[SpawnProcess]) -> None:
    """Ends what still runs, at first kindly."""
    processes = list(processes)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()


@contextmanager
def _threads_in_environment(threads: int) -> Iterator[None]:
    """Inside the block the environment, which a new process inherits, limits libraries to so many threads."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _asked_for(variable: str | None) -> int | None:
    """The first number of `OMP_NUM_THREADS`, which may be a list with one a level."""
    first = (variable or "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _own_groups(groups: Path, own: Path) -> list[Path]:
    """This process's control group and those it lies in, of version 2."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return [groups]
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    group = groups / path
    return [group, *(parent for parent in group.parents if parent.is_relative_to(groups))]
