"""System limits for the commands of `torture.py`: file descriptors, memory, a small disk, a jumping clock."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

YEAR = 365 * 24 * 3600.0


def _nothing(root: Path, level: int) -> AbstractContextManager[object]:
    """Sets nothing up."""
    del root, level
    return nullcontext()


@dataclass(frozen=True)
class LimitKind:
    """A kind of limit.

    Attributes:
        name: Its name in the table.
        levels: The limits to try.
        run: Runs work under a limit in this (forked) process; returns the exit code.
        around: Context manager that sets the limit up in the parent process and removes it.
        ends: Whether the command must exit by itself; without memory, a library may abort the process.
    """

    name: str
    levels: Sequence[int]
    run: Callable[[Callable[[], int], int], int]
    around: Callable[[Path, int], AbstractContextManager[object]] = _nothing
    ends: bool = True


def _few_descriptors(work: Callable[[], int], level: int) -> int:
    """Allows at most `level` more open files."""
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + level, free + level))
    return work()


def _little_memory(work: Callable[[], int], level: int) -> int:
    """Allows at most `level` MiB more of mapped memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (level << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return work()


def _jumping_clock(work: Callable[[], int], level: int) -> int:
    """Makes every reading of the clock wrong by up to a year."""
    draw, now = random.Random(level), time.time
    time.time = lambda: now() + draw.uniform(-YEAR, YEAR)
    return work()


def _plain(work: Callable[[], int], level: int) -> int:
    del level
    return work()


@contextmanager
def _small_disk(root: Path, level: int) -> Iterator[None]:
    """Turns the folder into a separate file system with `level` KiB of free space."""
    aside = root.with_name("aside")
    root.rename(aside)
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(root)], check=True)
    try:
        subprocess.run(["cp", "-a", f"{aside}/.", str(root)], check=True)
        subprocess.run(["rm", "-rf", str(aside)], check=True)
        used = os.statvfs(root)
        size = (used.f_blocks - used.f_bfree) * used.f_frsize + (level << 10)
        subprocess.run(["mount", "-o", f"remount,size={size}", str(root)], check=True)
        yield
        subprocess.run(["cp", "-a", str(root), str(aside)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)
        root.rmdir()
        if aside.exists():
            aside.rename(root)


def can_mount() -> bool:
    """Whether this process may mount a file system; often not even root may in a container."""
    if shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
        if mounted.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return mounted.returncode == 0


LIMITS = (
    LimitKind("few descriptors", range(0, 24), _few_descriptors),
    LimitKind("little memory", range(1, 64, 4), _little_memory, ends=False),
    LimitKind("jumping clock", range(12), _jumping_clock),
    *([LimitKind("small disk", range(4, 100, 4), _plain, _small_disk)] if can_mount() else []),
)
