"""Locks between processes: who writes a folder holds a lock file beside it; readers need none."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from twotower.errors import ConfigError, SavedFolderError
from twotower.files import FolderKind, check_folder_target

log = logging.getLogger("twotower")


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keeps other processes and threads that lock `target` out; waits, and says so, while another holds it.

    The lock is on the file `.NAME.lock` beside the target, which stays; it ends with the process, however that ends.
    Whoever holds it may take it again.

    Raises:
        ConfigError: The lock cannot be made.
    """
    try:
        lock = _lock_of(target)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("another process is writing %s; waiting for it", target)
            lock.acquire()
    except OSError as error:
        raise ConfigError(f"{target} cannot be locked: {error}") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def unfinished(target: Path, kind: FolderKind) -> Iterator[Path]:
    """Yields the folder `TARGET.partial` for the unfinished work on `target`; only one process at a time has it.

    The folder may be there, left by an interrupted command of this kind. Who finishes the work removes it.

    Raises:
        ConfigError: `TARGET.partial` is of somebody else.
        SavedFolderError: Another process is at work on it.
    """
    with exclusive(partial_of(target), kind, shown=target) as partial:
        yield partial


@contextmanager
def exclusive(folder: Path, kind: FolderKind, shown: Path | None = None) -> Iterator[Path]:
    """Yields a folder to work in, links followed; only one process at a time has it.

    Args:
        folder: The folder; it may not be there yet, or be of this kind.
        kind: What it is.
        shown: What errors call it; default: its path.

    Raises:
        ConfigError: It is of somebody else, or cannot be written.
        SavedFolderError: Another process is at work in it.
    """
    shown = folder if shown is None else shown
    real = check_folder_target(folder, kind)
    try:
        lock = _lock_of(real)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SavedFolderError(
            f"another process is writing {shown}; wait for it, or choose another place to write"
        ) from error
    except OSError as error:
        raise ConfigError(f"{shown} cannot be locked: {error}") from error
    try:
        check_folder_target(real, kind)
        yield real
    finally:
        lock.release()


def partial_of(target: Path) -> Path:
    """The folder for the unfinished work on a target, beside it.

    Example:
        >>> partial_of(Path("/shops/model")).name
        'model.partial'
    """
    real = Path(os.path.realpath(target))
    return real.with_name(f"{real.name}.partial")


def _lock_of(target: Path) -> FileLock:
    """The one lock of this process and thread for a target, however its path is written."""
    real = Path(os.path.realpath(target))
    real.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(real.with_name(f".{real.name}.lock"), is_singleton=True)
