"""The pool: processes that share the cores, take one job after the other, and report as they go."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Literal, Protocol, TypeAlias

import msgspec
import torch

from twotower.errors import DataWarning, TwoTowerError
from twotower.interruption import Interruption
from twotower.processes import GRACE, start_worker, stop_workers
from twotower.progress import Display
from twotower.training.callbacks import Line, Progress

TICK = 0.2
"""Seconds between two progress messages of a worker, and between two looks at an interruption."""


class Job(msgspec.Struct, frozen=True):
    """One piece of work.

    Attributes:
        label: What people call it while it runs.
        spec: What it is, as the worker reads it.
        key: By which the desk knows it.
    """

    label: str
    spec: msgspec.Raw
    key: str = ""


class _Moved(msgspec.Struct, frozen=True, tag="moved"):
    step: str
    share: float | None


class _Reported(msgspec.Struct, frozen=True, tag="reported"):
    step: int
    value: float


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """How a job has ended.

    Attributes:
        how: `done`; `stopped`, as the desk or its own deadline wanted; `failed`, by an error that it explains; `died`
            with its process.
        reason: Why, unless it is done.
    """

    how: Literal["done", "stopped", "failed", "died"]
    reason: str = ""


_Message: TypeAlias = _Moved | _Reported | Ended


class Desk(Protocol):
    """Hands jobs out and takes in how they ended; it lives in the process that started the pool."""

    def next_job(self) -> Job | None:
        """The next job; None where there is none now. It is asked again whenever a job has ended."""
        ...

    def reported(self, job: Job, step: int, value: float) -> bool:
        """Takes in a value of a job that runs; False asks it to stop."""
        ...

    def finished(self, job: Job, ended: Ended) -> None:
        """Takes in that a job has ended, and how.

        Raises:
            TwoTowerError: The pool should stop.
        """
        ...


class StoppedError(TwoTowerError):
    """The desk has asked a job to stop."""


class Reporter(Progress):
    """How a job speaks to the process that started the pool; a callback of its trainings, too.

    A parent that is gone ends the worker.
    """

    def __init__(self, connection: Connection, label: str) -> None:
        super().__init__(label)
        self._connection, self._latest, self._step = connection, -TICK, ""

    def show(self, line: Line) -> None:
        """Says where a training is."""
        self(line.note or "training", line.done / line.total if line.total else None)

    def __call__(self, step: str, share: float | None = None) -> None:
        """Says which step of the job runs, and how much of it is done, where that is known; a few times a second."""
        if time.monotonic() - self._latest >= TICK or step != self._step:
            self._latest, self._step = time.monotonic(), step
            self._send(_Moved(step, None if share is None else float(share)))

    def report(self, step: int, value: float) -> None:
        """Reports a value that the desk may stop the job by.

        Raises:
            StoppedError: The desk has asked it to.
        """
        self._send(_Reported(step, value))
        if not msgspec.json.decode(self._received(), type=bool):
            raise StoppedError("stopped by the desk")

    def end(self, ended: Ended) -> None:
        """Says that the job has ended, and how."""
        self._send(ended)

    def _received(self) -> bytes:
        try:
            return self._connection.recv_bytes()
        except EOFError:
            raise SystemExit(1) from None

    def _send(self, message: _Message) -> None:
        try:
            self._connection.send_bytes(msgspec.json.encode(message))
        except (BrokenPipeError, ConnectionResetError):
            raise SystemExit(1) from None


Work: TypeAlias = Callable[[msgspec.Raw, Reporter], None]
"""Does a job. What it gives, it keeps in files."""

MakeWork: TypeAlias = Callable[[], Work]
"""Makes what does the jobs of one worker, which may keep data from one job to the next; a class or function of a
module."""


@dataclass
class _Worker:
    process: SpawnProcess
    end: Connection
    number: int
    job: Job | None = None

    def begin(self, job: Job) -> None:
        self.job = job
        self.end.send_bytes(msgspec.json.encode(job))


def run_jobs(make: MakeWork, desk: Desk, workers: int, display: Display, threads: int) -> None:
    """Runs what the desk hands out until it has nothing more and all jobs have ended.

    A worker that dies fails its job, and another one takes its place. An interruption, or the desk's own error, ends
    all workers; what they have kept in files is there for the next time.

    Args:
        make: Makes what does the jobs of a worker.
        desk: Hands jobs out.
        workers: Processes at a time, at most; no more are started than there are jobs.
        display: Shows where jobs are.
        threads: Threads of each process.

    Raises:
        TwoTowerError: As the desk.
        KeyboardInterrupt: The user interrupted.
    """
    pool: list[_Worker] = []
    try:
        with Interruption() as interruption:
            while True:
                while (worker := _free(pool, workers, make, threads)) and (job := desk.next_job()):
                    worker.begin(job)
                busy = {worker.end: worker for worker in pool if worker.job is not None}
                if not busy:
                    _dismiss(pool)
                    return
                for end in wait(list(busy), timeout=TICK):
                    assert isinstance(end, Connection)
                    if not _hear(busy[end], desk, display):
                        pool.remove(busy[end])
                interruption.raise_if_asked()
    finally:
        stop_workers([worker.process for worker in pool])


def _dismiss(pool: list[_Worker]) -> None:
    """Lets workers without a job end by themselves."""
    for worker in pool:
        worker.end.close()
    for worker in pool:
        worker.process.join(GRACE)


def _free(pool: list[_Worker], workers: int, make: MakeWork, threads: int) -> _Worker | None:
    """A worker without a job, a new one where there may be more; None where all are busy."""
    for worker in pool:
        if worker.job is None:
            return worker
    if len(pool) == workers:
        return None
    ours, theirs = Pipe()
    pool.append(_Worker(start_worker(serve_jobs, theirs, make, threads, threads=threads), ours, _next_number(pool)))
    theirs.close()
    return pool[-1]


def _next_number(pool: list[_Worker]) -> int:
    """The lowest number that no worker has, by which its line in the display is known."""
    return next(number for number in range(len(pool) + 1) if all(worker.number != number for worker in pool))


def _hear(worker: _Worker, desk: Desk, display: Display) -> bool:
    """Takes in one message of a busy worker; False where it has died."""
    job = worker.job
    assert job is not None
    try:
        message = msgspec.json.decode(worker.end.recv_bytes(), type=_Message)
    except (EOFError, ConnectionResetError):
        worker.process.join()
        desk.finished(job, Ended("died", f"its process ended with code {worker.process.exitcode}"))
        return False
    match message:
        case _Moved(step, share):
            display.show(job.label, step, share, worker.number)
        case _Reported(step, value):
            worker.end.send_bytes(msgspec.json.encode(desk.reported(job, step, value)))
        case Ended():
            worker.job = None
            display.finish(worker.number)
            desk.finished(job, message)
    return True


def serve_jobs(connection: Connection, make: MakeWork, threads: int) -> None:
    """Takes one job after the other, until the other end is closed: what a worker process does.

    Args:
        connection: Where jobs come from, and reports go to.
        make: Makes what does the jobs.
        threads: Of PyTorch.
    """
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", DataWarning)  # the process that started this one has said it
    work = make()
    while True:
        try:
            job = msgspec.json.decode(connection.recv_bytes(), type=Job)
        except EOFError:
            return
        reporter = Reporter(connection, job.label)
        try:
            work(job.spec, reporter)
            ended = Ended("done")
        except StoppedError as stopped:
            ended = Ended("stopped", str(stopped))
        except (TwoTowerError, torch.OutOfMemoryError) as error:
            ended = Ended("failed", str(error))
        reporter.end(ended)
