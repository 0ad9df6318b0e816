"""Several workers behind one address: processes that share the socket and the bundle's files."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from twotower.errors import TwoTowerError
from twotower.serving.copies import Copies, SharedCopies
from twotower.serving.logs import fields, log, write_logs
from twotower.serving.metrics import METRICS
from twotower.serving.running import run
from twotower.serving.service import Service

RESTART_SECONDS = 1.0
"""Replace a dead worker after this many seconds."""

PARENT_SECONDS = 1.0
"""How often a worker checks that its parent process is alive."""

ENDING = (signal.SIGTERM, signal.SIGINT)
"""Signals that stop the service."""

REFUSED = 3
"""The exit code of a worker whose bundle cannot be served."""


class Workers:
    """Starts workers, replaces those that die, and stops them all.

    Each worker loads the bundle itself, but from one copy that all of them map, so memory holds the embeddings only
    once. Each notices new bundles, and a reload request to one reaches all.

    Args:
        count: How many workers to start.
        make: Creates the service of a worker.
        listener: The socket from which all workers accept connections.
        threads: Number of threads per search.
    """

    def __init__(self, count: int, make: Callable[[Copies], Service], listener: socket.socket, threads: int) -> None:
        self.count, self.make, self.listener, self.threads = count, make, listener, threads
        self.home = Path(tempfile.mkdtemp(prefix="twotower-workers-"))
        self._numbers: dict[int, int] = {}  # the worker number of each process
        self._is_ending = False

    def run(self) -> None:
        """Runs until SIGTERM or SIGINT, which is forwarded to all workers.

        Raises:
            TwoTowerError: The bundle cannot be served.
        """
        (self.home / "metrics").mkdir()
        os.environ[METRICS] = str(self.home / "metrics")
        write_logs()
        for own in ENDING:
            signal.signal(own, self._end)
        try:
            for number in range(self.count):
                self._start(number)
            self._watch()
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def _watch(self) -> None:
        """Waits for workers, and replaces those that die unless the service is stopping."""
        while self._numbers:
            process, status = os.wait()
            number = self._numbers.pop(process, None)
            if number is None or self._is_ending:
                continue
            code = os.waitstatus_to_exitcode(status)
            if code == REFUSED:
                self._end(signal.SIGTERM, None)
                self._wait()
                raise TwoTowerError((self.home / f"refused-{number}").read_text(encoding="utf-8"))
            log.error("worker died", extra=fields(worker=number, code=code))
            time.sleep(RESTART_SECONDS)
            if not self._is_ending:
                self._start(number)

    def _wait(self) -> None:
        while self._numbers:
            self._numbers.pop(os.wait()[0], None)

    def _start(self, number: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        process = os.fork()
        if process:
            self._numbers[process] = number
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            return
        code = 1
        try:
            code = self._work(number)
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    def _work(self, number: int) -> int:
        """Serves in a worker's process; returns its exit code."""
        os.setpgid(0, 0)  # signals from a terminal reach only the parent, which forwards them
        for own in ENDING:
            signal.signal(own, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
        try:
            service = self.make(SharedCopies(self.home, number, self.count))
        except TwoTowerError as error:
            (self.home / f"refused-{number}").write_text(str(error), encoding="utf-8")
            return REFUSED
        run(service, self.listener, self.threads)
        return 0

    def _end(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._is_ending = True
        for process in list(self._numbers):
            os.kill(process, number)


def _end_with(parent: int) -> None:
    """Stops this process with SIGTERM when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
