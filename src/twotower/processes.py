"""Worker processes that are their starter's to stop: an interruption from the keyboard does not reach them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any

GRACE = 5.0
"""Seconds that a worker has to end when it is told to."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker(work: Callable[..., None], *arguments: Any) -> SpawnProcess:
    """Starts a new process that runs `work(*arguments)`; it ends with this one.

    Args:
        work: A function of a module.
        arguments: What can be sent to another process: plain data, or ends of a pipe.
    """
    resource_tracker.ensure_running()  # it would be started below, and would unblock the signal
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments, daemon=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited; what comes meanwhile waits
    try:
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
