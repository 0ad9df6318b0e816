"""Fault injection for `torture.py`: the n-th call that changes a file fails, kills the process, or loses unsynced data.

`faults.c` is compiled and preloaded before the C library, so that the faults hit every library that writes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
LOADED = "TWOTOWER_FAULTS"
"""Environment variable of processes that have the shim loaded."""

COUNT, FAIL_ONCE, FAIL_FROM, KILL = range(4)
"""Modes of `faults.c`."""

HANG_SECONDS = 120.0
"""Seconds after which a command counts as hung."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault at the n-th call.

    Attributes:
        name: Its name in the table.
        mode: Mode of the shim.
        error: The `errno` that calls fail with.
        power: Whether files that were written but not synced also lose their content.
    """

    name: str
    mode: int
    error: int = 0
    power: bool = False


KINDS = (
    Kind("full disk from there on", FAIL_FROM, errno.ENOSPC),
    Kind("one I/O error", FAIL_ONCE, errno.EIO),
    Kind("killed", KILL),
    Kind("power cut", KILL, power=True),
)
READ_ONLY = Kind("read-only folder", FAIL_FROM, errno.EROFS)


@dataclass(frozen=True)
class Ended:
    """How a forked process ended.

    Attributes:
        code: Its exit code; negative: the signal that ended it.
        said: Its standard error.
        calls: Number of calls that changed files below the root.
        fired: Number of injected faults.
    """

    code: int
    said: str
    calls: int
    fired: int


def load_shim() -> None:
    """Restarts this program with the shim loaded, unless it already is.

    Raises:
        SystemExit: There is no C compiler, or the system is not Linux.
    """
    if LOADED in os.environ:
        return
    library = Path(tempfile.mkdtemp(prefix="twotower-faults-")) / "faults.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"the shim cannot be compiled ({error}); expected Linux and a C compiler, cc") from error
    environment = {**os.environ, "LD_PRELOAD": str(library), LOADED: str(library.parent), "OMP_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def run_with_fault(work: Callable[[], int], root: Path, kind: Kind, at: int) -> Ended:
    """Runs `work` in a forked process and injects a fault at call number `at` below `root`; 0 injects none."""
    shim = ctypes.CDLL(None)
    shim.faults_arm(os.fsencode(root), ctypes.c_long(at), kind.mode if at else COUNT, kind.error)
    try:
        code, said = in_child(work)
    finally:
        shim.faults_disarm()
    if kind.power and code == -signal.SIGKILL:
        _lose_unsynced(root, shim)
    shim.faults_calls.restype = shim.faults_fired.restype = ctypes.c_long
    return Ended(code, said, shim.faults_calls(), shim.faults_fired())


def in_child(work: Callable[[], int]) -> tuple[int, str]:
    """Runs `work` in a forked process with its own process group; returns the exit code and standard error."""
    return in_children([work])[0]


def in_children(works: Sequence[Callable[[], int]]) -> list[tuple[int, str]]:
    """Like `in_child`, with several processes at once."""
    with ExitStack() as opened:
        files = [opened.enter_context(tempfile.TemporaryFile()) for _ in works]
        children = []
        for work, said in zip(works, files, strict=True):
            child = os.fork()
            if child == 0:
                _run_and_exit(work, said.fileno())
            children.append(child)
        codes = [_waited(child) for child in children]
        for said in files:
            said.seek(0)
        return [(code, said.read().decode(errors="replace")) for code, said in zip(codes, files, strict=True)]


def _run_and_exit(work: Callable[[], int], said: int) -> None:
    """Runs `work` and exits the process with its return code; never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(said, 2)
        code = work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _waited(child: int) -> int:
    """Waits for a child and returns its exit code; kills the group of one that hangs and returns -SIGALRM."""
    end = time.monotonic() + HANG_SECONDS
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGALRM


def _lose_unsynced(root: Path, shim: ctypes.CDLL) -> None:
    """Empties the files that were written but not synced: the worst case of a power cut."""
    for path in root.rglob("*"):
        if path.is_file() and shim.faults_is_dirty(ctypes.c_ulong(path.stat().st_ino)):
            os.truncate(path, 0)
