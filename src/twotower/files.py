"""Writing without half-written results: everything is built beside its target and renamed over it."""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXCHANGE = 2
"""`RENAME_EXCHANGE` of Linux's renameat2: two names change places in one step."""

HERE = -100
"""`AT_FDCWD`: paths are relative to the working folder."""

ABANDONED = 24 * 3600
"""Seconds after which what was being built has been left by a killed process: nothing takes so long to write."""


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target` that takes its place when the block ends without an error.

    Where the system can let two names change places (Linux), there is a folder of that name at every moment. Elsewhere
    there is none for an instant between two renames.

    An error or an interruption removes the new folder and leaves `target` as it was. A killed process cannot; what it
    left beside `target` is removed by whoever writes there a day later.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".building", dir=target.parent))
    try:
        building.chmod(0o777 & ~_umask())
        yield building
        if exchanged(building, target):
            shutil.rmtree(building, ignore_errors=True)  # it is the old one now
        else:
            retired = building.with_suffix(".retired")
            if target.exists():
                target.rename(retired)
            building.rename(target)
            shutil.rmtree(retired, ignore_errors=True)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _remove_abandoned(target: Path) -> None:
    if not target.exists():  # it may have been killed between two renames: what it left is all that there is
        return
    for left in target.parent.glob(f".{glob.escape(target.name)}.*"):
        if left.suffix not in (".building", ".retired"):
            continue
        try:
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:  # somebody else has put it in its place, or removed it
            continue


def exchanged(one: Path, other: Path) -> bool:
    """Lets two folders change places in one step; False where one is not there or the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # no such function, or no such library
        return False
    done: int = rename(HERE, os.fsencode(one), HERE, os.fsencode(other), ctypes.c_uint(EXCHANGE))
    return done == 0


def write_file(target: Path, content: bytes | str) -> None:
    """Writes `content` (text as UTF-8) to `target`, which never holds a part of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    building = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        building.chmod(0o666 & ~_umask())
        building.replace(target)
    except BaseException:
        building.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
