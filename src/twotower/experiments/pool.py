"""The pool: worker processes that share the cores, run one job at a time and report progress."""

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

from twotower.errors import DataWarning, TwoTowerError, is_system_failure
from twotower.interruption import Interruption
from twotower.processes import GRACE, start_worker, stop_workers
from twotower.progress import Display
from twotower.threads import are_threads_fixed, fix_threads
from twotower.training.callbacks import Line, Progress

TICK = 0.2
"""Seconds between progress messages of a worker, and between checks for an interruption."""


class Job(msgspec.Struct, frozen=True):
    """One piece of work.

    Attributes:
        label: Name shown while it runs.
        spec: The job as JSON, decoded by the worker.
        key: Identifies it to the desk.
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
    """How a job ended.

    Attributes:
        how: `done`; `stopped` by the desk or by its own deadline; `failed` with an error; `system`: failed because of
            the machine, such as a full disk, and may succeed later; `died` with its process.
        reason: Why, unless it is done.
    """

    how: Literal["done", "stopped", "failed", "system", "died"]
    reason: str = ""


_Message: TypeAlias = _Moved | _Reported | Ended


class Desk(Protocol):
    """Hands out jobs and handles their results. It runs in the process that started the pool."""

    def next_job(self) -> Job | None:
        """The next job, or None if there is none now. Called again whenever a job ends."""
        ...

    def reported(self, job: Job, step: int, value: float) -> bool:
        """Handles a value reported by a running job. False tells the job to stop."""
        ...

    def finished(self, job: Job, ended: Ended) -> None:
        """Handles the end of a job.

        Raises:
            TwoTowerError: The pool should stop.
        """
        ...


class StoppedError(TwoTowerError):
    """The desk told a job to stop."""


class Reporter(Progress):
    """Sends a job's messages to the process that started the pool; also a callback for its trainings.

    The worker exits if its parent is gone.
    """

    def __init__(self, connection: Connection, label: str) -> None:
        super().__init__(label)
        self._connection, self._latest, self._step = connection, -TICK, ""

    def show(self, line: Line) -> None:
        """Reports the progress of a training."""
        self(line.note or "training", line.done / line.total if line.total else None)

    def __call__(self, step: str, share: float | None = None) -> None:
        """Reports the running step and, if known, the share of it that is done; sends at most every `TICK` seconds."""
        if time.monotonic() - self._latest >= TICK or step != self._step:
            self._latest, self._step = time.monotonic(), step
            self._send(_Moved(step, None if share is None else float(share)))

    def report(self, step: int, value: float) -> None:
        """Reports a value that may lead the desk to stop the job.

        Raises:
            StoppedError: The desk told the job to stop.
        """
        self._send(_Reported(step, value))
        if not msgspec.json.decode(self._received(), type=bool):
            raise StoppedError("stopped by the desk")

    def end(self, ended: Ended) -> None:
        """Reports how the job ended."""
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
"""Runs a job and writes its results to files."""

MakeWork: TypeAlias = Callable[[], Work]
"""Makes the `Work` of one worker, which may keep data between jobs. It must be a module-level class or function."""


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
    """Runs jobs until the desk has no more and all have ended.

    A worker that dies fails its job and is replaced. An interruption or an error raised by the desk stops all workers;
    the files they wrote remain for the next run.

    Args:
        make: Makes the `Work` of each worker.
        desk: Hands out the jobs.
        workers: Maximum number of processes; no more are started than there are jobs.
        display: Shows progress.
        threads: Threads per process.

    Raises:
        TwoTowerError: Raised by the desk.
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
    """Lets idle workers exit."""
    for worker in pool:
        worker.end.close()
    for worker in pool:
        worker.process.join(GRACE)


def _free(pool: list[_Worker], workers: int, make: MakeWork, threads: int) -> _Worker | None:
    """An idle worker, started if there is room for one more; None if all are busy."""
    for worker in pool:
        if worker.job is None:
            return worker
    if len(pool) == workers:
        return None
    ours, theirs = Pipe()
    process = start_worker(serve_jobs, theirs, make, threads, are_threads_fixed(), threads=threads)
    pool.append(_Worker(process, ours, _next_number(pool)))
    theirs.close()
    return pool[-1]


def _next_number(pool: list[_Worker]) -> int:
    """The lowest number not in use, which identifies a worker's line in the display."""
    return next(number for number in range(len(pool) + 1) if all(worker.number != number for worker in pool))


def _hear(worker: _Worker, desk: Desk, display: Display) -> bool:
    """Handles one message of a busy worker; False if it died."""
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


def serve_jobs(connection: Connection, make: MakeWork, threads: int, fixed: bool) -> None:
    """The loop of a worker process: runs one job after another until the other end closes.

    Args:
        connection: Receives jobs and sends reports.
        make: Makes the `Work` that runs the jobs.
        threads: PyTorch threads.
        fixed: Whether their number stays the same while other programs keep cores busy.
    """
    torch.set_num_threads(threads)
    fix_threads(fixed)
    warnings.simplefilter("ignore", DataWarning)  # the parent process has already shown it
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
        except (TwoTowerError, torch.OutOfMemoryError, OSError, MemoryError) as error:
            reason = str(error) or "not enough memory"
            ended = Ended("system" if is_system_failure(error) else "failed", reason)
        reporter.end(ended)
