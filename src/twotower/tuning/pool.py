"""The worker processes of a tuning: started, watched, and stopped whatever happens."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess

import msgspec

from twotower.errors import TwoTowerError
from twotower.interruption import Interruption
from twotower.tuning.database import Database
from twotower.tuning.worker import Job, work

TICK = 0.5
"""Seconds between two looks at the workers."""

GRACE = 5.0
"""Seconds that a worker has to end when it is told to."""


def run_workers(job: Job, count: int, database: Database, on_tick: Callable[[], None]) -> None:
    """Runs workers until all have ended; one that dies in a trial is replaced, its trial set to failed.

    Args:
        job: What they do.
        count: How many at a time.
        database: Where their trials are.
        on_tick: Called about twice a second.

    Raises:
        TwoTowerError: All workers died before they had a trial.
    """
    raw, numbers = msgspec.json.encode(job), itertools.count()
    running = {number: _started(raw, number) for number in itertools.islice(numbers, count)}
    ended = 0
    try:
        with Interruption() as interruption:
            while running:
                wait([process.sentinel for process in running.values()], timeout=TICK)
                interruption.raise_if_asked()
                for number, process in [pair for pair in running.items() if not pair[1].is_alive()]:
                    del running[number]
                    if process.exitcode == 0:
                        ended += 1
                    elif database.fail_those_of(number, f"its process ended with code {process.exitcode}"):
                        replacement = next(numbers)
                        running[replacement] = _started(raw, replacement)
                on_tick()
            interruption.raise_if_asked()
    finally:
        _stop(list(running.values()))
    if not ended:
        raise TwoTowerError("no worker could start; what each said is above")


def _started(raw: bytes, number: int) -> SpawnProcess:
    """A new process that an interruption from the keyboard does not reach: it is this one's to stop it."""
    resource_tracker.ensure_running()  # it would be started below, and would unblock the signal
    process = multiprocessing.get_context("spawn").Process(target=work, args=(raw, number), daemon=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited; what comes meanwhile waits
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return process


def _stop(processes: list[SpawnProcess]) -> None:
    """Ends what still runs; a transaction of its database that is cut short is undone by SQLite."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()
