"""Locks between processes: a writer holds a lock file beside its target; readers need no lock."""

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
    """Holds an exclusive lock on `target`; while another process or thread holds it, logs a warning and waits.

    The lock file is `.NAME.lock` beside the target and is never deleted. The lock is released when the process ends,
    however it ends. The lock is reentrant.

    Raises:
        ConfigError: The lock file cannot be created.
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
    """Yields the folder `TARGET.partial` for unfinished work on `target`; only one process at a time gets it.

    It may already exist, left by an interrupted command of this kind. The caller removes it when the work is done.

    Raises:
        ConfigError: `TARGET.partial` is not of this kind.
        SavedFolderError: Another process is using it.
    """
    with exclusive(partial_of(target), kind, shown=target) as partial:
        yield partial


@contextmanager
def exclusive(folder: Path, kind: FolderKind, shown: Path | None = None) -> Iterator[Path]:
    """Yields a folder to work in, with links resolved; only one process at a time gets it.

    Args:
        folder: The folder; it may be missing, or be of this kind.
        kind: The kind of folder.
        shown: The path in error messages; default: its path.

    Raises:
        ConfigError: It is not of this kind, or cannot be written.
        SavedFolderError: Another process is using it.
    """
    shown = folder if shown is None else shown
    real = check_folder_target(folder, kind)
    try:
        lock = _lock_of(real)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SavedFolderError(
            f"another process is writing {shown}; wait for it to finish, or choose another target"
        ) from error
    except OSError as error:
        raise ConfigError(f"{shown} cannot be locked: {error}") from error
    try:
        check_folder_target(real, kind)
        yield real
    finally:
        lock.release()


def partial_of(target: Path) -> Path:
    """The folder for unfinished work on a target, beside it.

    Example:
        >>> partial_of(Path("/shops/model")).name
        'model.partial'
    """
    real = Path(os.path.realpath(target))
    return real.with_name(f"{real.name}.partial")


def _lock_of(target: Path) -> FileLock:
    """The lock for a target, one per process and thread however the path is spelled."""
    real = Path(os.path.realpath(target))
    real.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(real.with_name(f".{real.name}.lock"), is_singleton=True)
