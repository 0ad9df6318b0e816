"""What the pool's workers do in tests; a module of its own, as processes import it."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import msgspec
import torch

from twotower.errors import DataError
from twotower.experiments.pool import Reporter, Work
from twotower.files import writing
from twotower.threads import are_threads_fixed


class Task(msgspec.Struct):
    """What a job is to do, and the file that says it was done."""

    do: str
    file: str


def make() -> Work:
    """What a worker of the pool does."""
    return work


def work(spec: msgspec.Raw, reporter: Reporter) -> None:
    task = msgspec.json.decode(spec, type=Task)
    match task.do:
        case "fail":
            raise DataError("column 'x' is missing")
        case "disk":
            with writing(Path(task.file)):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleep":
            time.sleep(60)
        case "count":
            count_up(reporter)
        case "threads":
            Path(task.file).write_text(f"{torch.get_num_threads()} {are_threads_fixed()}")
            return
    Path(task.file).write_text(str(os.getpid()))


def count_up(reporter: Reporter) -> None:
    for step in range(1, 1000):
        reporter.report(step, step / 10)
