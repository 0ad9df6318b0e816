"""The worker processes of a tuning: started, watched, and stopped whatever happens."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from multiprocessing.connection import wait

import msgspec

from twotower.errors import TwoTowerError
from twotower.interruption import Interruption
from twotower.processes import start_worker, stop_workers
from twotower.tuning.database import Database
from twotower.tuning.worker import Job, work

TICK = 0.5
"""Seconds between two looks at the workers."""


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
    running = {
        number: start_worker(work, raw, number, threads=job.threads) for number in itertools.islice(numbers, count)
    }
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
                        running[replacement] = start_worker(work, raw, replacement, threads=job.threads)
                on_tick()
            interruption.raise_if_asked()
    finally:
        stop_workers(running.values())  # a transaction of its database that is cut short is undone by SQLite
    if not ended:
        raise TwoTowerError("no worker could start; what each said is above")
