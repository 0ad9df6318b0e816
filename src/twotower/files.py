"""Writing without half-written results and without loss: built beside a target, which is replaced if it is ours."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError

from twotower.errors import ConfigError

EXCHANGE = 2
"""`RENAME_EXCHANGE` of Linux's renameat2: two names change places in one step."""

HERE = -100
"""`AT_FDCWD`: paths are relative to the working folder."""

ABANDONED = 24 * 3600
"""Seconds after which an unfinished folder counts as left by a killed process: nothing takes so long to write."""

BROWSER_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that file browsers leave in any folder they show: nobody misses them."""


class FolderKind(Protocol):
    """What a command writes into a folder, and how it recognises a folder that it wrote before."""

    @property
    def name(self) -> str:
        """What such a folder is, as errors say it: `a bundle`."""

    def files_of(self, folder: Path) -> frozenset[str] | None:
        """Paths in the folder, with `/`, of all that its writer wrote; None where the folder is not of this kind."""


@dataclass(frozen=True)
class NewFolder:
    """A folder that may not be there before, unless it is empty."""

    name: str = "an empty folder"

    def files_of(self, folder: Path) -> None:
        """None: no folder is of this kind."""
        del folder


@dataclass(frozen=True)
class MarkedFolder:
    """A folder that is recognised by one file, the marker.

    Attributes:
        name: What it is, as errors say it.
        marker: Name of the marker.
        recognises: Whether the marker's content is ours.
        patterns: Names of what its writer writes, with `*` for anything.
    """

    name: str
    marker: str
    recognises: Callable[[bytes], bool]
    patterns: tuple[str, ...]

    def files_of(self, folder: Path) -> frozenset[str] | None:
        """The files that match a pattern, and what a killed writer left of them, be it a part of the marker alone."""
        try:
            if not self.recognises((folder / self.marker).read_bytes()):
                return None
        except FileNotFoundError:
            names = frozenset(names_in(folder))
            return names if all(plain_name(name) == self.marker for name in names) else None
        except OSError:
            return None
        patterns = (self.marker, *self.patterns)
        return frozenset(
            name for name in names_in(folder) if any(fnmatchcase(plain_name(name), pattern) for pattern in patterns)
        )


def remove_marked(folder: Path, marker: str) -> None:
    """Deletes a folder that is recognised by its marker, which goes last: what a fault leaves is recognised."""
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(_set_aside(entry))  # so that nobody takes what is left of it for a whole one
            elif entry.name != marker:
                entry.unlink()
        (folder / marker).unlink(missing_ok=True)
        folder.rmdir()


def _set_aside(folder: Path) -> Path:
    """Gives a folder a name by which nobody looks for it."""
    retired = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".retired", dir=folder.parent))
    retired.rmdir()
    return folder.rename(retired)


def plain_name(name: str) -> str:
    """The path without what building adds to it: `.final.k3_x0aq1.building/x` becomes `final/x`.

    Example:
        >>> plain_name("runs/.one.json.k3_x0aq1"), plain_name("runs/one.json")
        ('runs/one.json', 'runs/one.json')
    """
    return "/".join(re.sub(r"^\.(.+)\.[a-z0-9_]{8}(\.building|\.retired)?$", r"\1", part) for part in name.split("/"))


def names_in(folder: Path) -> Iterator[str]:
    """Paths, relative and with `/`, of all files and links in a folder and below.

    Raises:
        OSError: A folder cannot be read.
    """
    for root, folders, files in os.walk(folder, onerror=_raised):
        folders.sort()
        base = Path(root)
        links = [name for name in folders if (base / name).is_symlink()]
        for name in sorted(files + links):
            if name not in BROWSER_FILES:
                yield (base / name).relative_to(folder).as_posix()


def check_folder_target(target: Path, kind: FolderKind) -> Path:
    """The folder to write for `target`, links followed, after a check that nothing of anybody's is lost by it.

    It may not be there yet, be empty, or be of the kind that is to be written and hold nothing else. Call it before
    long work: it also tries whether a folder can be written there.

    Raises:
        ConfigError: The target is a file, another kind of folder, one with files of somebody else, the working folder
            or one around it, a mount point, or in a place where nothing can be written.
    """
    real = _resolved(target)
    if real == Path(real.anchor) or real in _around_here():
        raise ConfigError(f"{target} is the working folder or contains it; choose a folder of its own")
    if os.path.lexists(real) and not real.is_dir():
        raise ConfigError(f"{target} is a file; expected a folder to write")
    if real.is_dir() and os.path.ismount(real):
        raise ConfigError(f"{target} is a mount point, which cannot be replaced; choose a folder in it")
    _check_writable(target, real)
    if (refusal := _refusal(target, real, kind)) is not None:
        raise ConfigError(refusal)
    return real


def check_file_target(target: Path, is_ours: Callable[[Path], bool], name: str) -> Path:
    """The file to write for `target`, links followed, after a check that nothing of anybody's is lost by it.

    Args:
        target: The file; it may not be there yet, be empty, or be one that `is_ours` recognises.
        is_ours: Whether a file is what is going to be written, and may be replaced.
        name: What that is, as errors say it.

    Raises:
        ConfigError: The target is a folder or another file, or in a place where nothing can be written.
    """
    real = _resolved(target)
    if real.is_dir():
        raise ConfigError(f"{target} is a folder; expected the file to write")
    _check_writable(target, real)
    if os.path.lexists(real):
        try:
            replaceable = real.is_file() and (real.stat().st_size == 0 or is_ours(real))
        except OSError as error:
            raise ConfigError(f"{target} cannot be read: {error}") from error
        if not replaceable:
            raise ConfigError(f"{target} already exists and is not {name}; choose another file, or delete this one")
    return real


@contextmanager
def replaced_folder(target: Path, kind: FolderKind | None = None) -> Iterator[Path]:
    """Yields an empty folder beside `target` that takes its place when the block ends without an error.

    Where the system can let two names change places (Linux), there is a folder of that name at every moment. Elsewhere
    there is none for an instant between two renames.

    An error or an interruption removes the new folder and leaves `target` as it was. A killed process cannot; what it
    left beside `target` is removed by whoever writes there a day later. The new files are on the disk before anything
    takes its place, so that a power cut loses neither.

    Args:
        target: The folder; where it is a link, what it points to is replaced.
        kind: What may be replaced; default: only an empty folder.

    Raises:
        ConfigError: The target may not be replaced, see `check_folder_target`, or the system cannot write it.
    """
    kind = NewFolder() if kind is None else kind
    real = check_folder_target(target, kind)
    with writing(target):
        real.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(real)
        building = Path(tempfile.mkdtemp(prefix=f".{real.name}.", suffix=".building", dir=real.parent))
        try:
            building.chmod(0o777 & ~_umask())
            yield building
            sync_folder(building)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        publish(building, real, kind)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """What the system says against writing inside the block is said of `target`: a full disk, too many open files.

    Raises:
        ConfigError: It cannot be written, and why.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{target} cannot be written: {error}") from error


def sync_file(path: Path) -> None:
    """Waits until what was written to a file is on the disk, so that it survives a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until what was written to all files in a folder is on the disk."""
    for name in names_in(folder):
        if not (folder / name).is_symlink():
            sync_file(folder / name)


def publish(building: Path, target: Path, kind: FolderKind) -> None:
    """Puts a finished folder in the place of `target`, and deletes what was there.

    Raises:
        ConfigError: Meanwhile somebody has put something else there; the finished folder is kept beside it.
    """
    try:
        refusal = _refusal(target, target, kind) or _replaced(building, target, kind)
    except OSError as error:
        refusal = f"{target} cannot be written: {error}"
    if refusal is None:
        return
    kept = next(path for path in _free_names(target) if not os.path.lexists(path))
    building.rename(kept)
    raise ConfigError(f"{refusal}. What was to be written is kept as {kept}")


def _replaced(building: Path, target: Path, kind: FolderKind) -> str | None:
    """Lets the folders change places and deletes the old one; gives why not where it holds what is not ours."""
    if exchanged(building, target):
        refusal = _refusal(target, building, kind)  # it is the old one now
        if refusal is None:
            shutil.rmtree(building, ignore_errors=True)
        else:
            exchanged(building, target)
        return refusal
    if not target.exists():
        building.rename(target)
        return None
    retired = _set_aside(target)
    refusal = _refusal(target, retired, kind)
    if refusal is None:
        building.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
    else:
        retired.rename(target)
    return refusal


def exchanged(one: Path, other: Path) -> bool:
    """Lets two folders change places in one step; False where one is not there or the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # no such function, or no such library
        return False
    done: int = rename(HERE, os.fsencode(one), HERE, os.fsencode(other), ctypes.c_uint(EXCHANGE))
    return done == 0


def write_file(target: Path, content: bytes | str) -> None:
    """Writes `content` (text as UTF-8) to `target`, which never holds a part of it, after a power cut neither.

    Raises:
        ConfigError: The system cannot write it.
    """
    raw = content.encode() if isinstance(content, str) else content
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        building = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            building.chmod(0o666 & ~_umask())
            building.replace(target)
        except BaseException:
            with suppress(OSError):
                building.unlink(missing_ok=True)
            raise


def _refusal(target: Path, folder: Path, kind: FolderKind) -> str | None:
    """Why a folder's content may not be deleted; None where it may. Errors call it `target`."""
    if not os.path.lexists(folder):
        return None
    try:
        first = next(names_in(folder), None)
        if first is None:
            return None
        owned = kind.files_of(folder)
        if owned is None:
            return (
                f"{target} already exists and is not {kind.name} (it contains {first}); choose another folder, or "
                f"delete this one"
            )
        foreign = next((name for name in names_in(folder) if name not in owned), None)
    except OSError as error:
        return f"{target} already exists and cannot be read: {error}"
    if foreign is None:
        return None
    return (
        f"{target} is {kind.name} that also contains {foreign}, which would be lost; move that file, or choose another "
        f"folder"
    )


def _resolved(target: Path) -> Path:
    """The absolute path, links followed; of a link to nothing, what it points to."""
    try:
        real = Path(os.path.realpath(target))
        real.exists()  # raises where a name is too long or a folder on the way may not be entered
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(target)[:200]!r} cannot be written: {error}") from error
    if real.is_symlink():
        raise ConfigError(f"{target} is a link that leads nowhere; expected a path to write")
    return real


def _around_here() -> list[Path]:
    """The working folder and all around it; none where it has been deleted."""
    try:
        here = Path(os.path.realpath(Path.cwd()))
    except OSError:
        return []
    return [here, *here.parents]


def _check_writable(target: Path, real: Path) -> None:
    """Tries to make a folder where `real` will be, or in the nearest folder that is there.

    Raises:
        ConfigError: None can be made.
    """
    place = real.parent
    while not os.path.lexists(place):
        place = place.parent
    try:
        Path(tempfile.mkdtemp(prefix=f".{real.name}.", suffix=".building", dir=place)).rmdir()
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: no file can be made in {place}: {error.strerror}") from error


def _free_names(target: Path) -> Iterator[Path]:
    number = 1
    while True:
        yield target.with_name(f"{target.name}.new" if number == 1 else f"{target.name}.new-{number}")
        number += 1


def _remove_abandoned(target: Path) -> None:
    if not target.exists():  # it may have been killed between two renames: what it left is all that there is
        return
    left_by_us = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.(building|retired)")
    for left in target.parent.iterdir():
        with suppress(FileNotFoundError):  # somebody else has put it in its place, or removed it
            if left_by_us.fullmatch(left.name) and time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _raised(error: OSError) -> None:
    raise error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
