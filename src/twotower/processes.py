"""Starts and stops worker processes, and limits the threads that they and this process use."""

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

from twotower.startup import WorkerCall

GRACE = 5.0
"""Seconds that a worker has to terminate before it is killed."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Environment variables that libraries with thread pools read once, when they are loaded."""

START_METHOD = "spawn"
"""Workers start as fresh processes, so that their libraries read the environment set for them."""

CGROUPS = Path("/sys/fs/cgroup")


def allowed_threads() -> int:
    """Threads that this process and its workers may keep busy at once.

    The minimum of the cores that it may run on, the CPU quota of its cgroup, `OMP_NUM_THREADS`, and PyTorch's thread
    count.
    """
    limits = [allowed_cores(), torch.get_num_threads(), _thread_count(os.environ.get("OMP_NUM_THREADS")), quota()]
    return max(1, min(limit for limit in limits if limit is not None))


def allowed_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(workers: int) -> int:
    """Threads for each of `workers` workers that share this process's allowance."""
    return max(1, allowed_threads() // workers)


def quota(groups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """CPUs that this process's cgroups allow, rounded down, at least 1; None without a limit.

    Args:
        groups: Where cgroups are mounted: version 2, or version 1 with a folder for each controller.
        own: The file that names this process's cgroups.
    """
    shares = []
    for group in _own_groups(groups, own):
        try:
            if (group / "cpu.max").exists():
                limit, period = (group / "cpu.max").read_text().split()
            else:
                limit, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if float(limit) > 0:
                shares.append(float(limit) / float(period))
        except (OSError, ValueError):  # no limit: the file is missing or says "max"; version 1 says -1
            continue
    return max(1, int(min(shares))) if shares else None


def start_worker(work: Callable[..., None], *arguments: Any, threads: int) -> SpawnProcess:
    """Starts a process that runs `work(*arguments)` and ends when this one does.

    Keyboard interrupts do not reach it.

    Args:
        work: A module-level function.
        arguments: Picklable arguments: plain data, or ends of a pipe.
        threads: Threads for each of its libraries, such as PyTorch and BLAS; set in its environment before they load.
    """
    resource_tracker.ensure_running()  # otherwise it would be started below and unblock the signal
    process: SpawnProcess = multiprocessing.get_context(START_METHOD).Process(  # type: ignore[attr-defined]
        target=WorkerCall(work, *arguments), daemon=True
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by the worker; pending interrupts wait
    try:
        with _threads_in_environment(threads):
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return process


def stop_workers(processes: Iterable[SpawnProcess]) -> None:
    """Terminates the processes that still run, and kills those that do not end in time."""
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
    """Sets the thread limits in the environment, which a new process inherits, for the duration of the block."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _thread_count(variable: str | None) -> int | None:
    """The first number of `OMP_NUM_THREADS`, which may be a list with one number per nesting level."""
    first = (variable or "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _own_groups(groups: Path, own: Path) -> Iterator[Path]:
    """The folders of this process's cgroups, of both versions, and of their parents."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        lines = []
    lines += [["0", "", "/"], ["", "cpu", "/"]]  # in a container, its own group may be mounted as the root
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups / controllers
        group = root / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))
