"""Writing without half-written results: everything is built beside its target and renamed over it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target` that takes its place when the block ends without an error.

    An error or an interruption removes the new folder and leaves `target` as it was.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".building", dir=target.parent))
    try:
        building.chmod(0o777 & ~_umask())
        yield building
        retired = building.with_suffix(".retired")
        if target.exists():
            target.rename(retired)
        building.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


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
