"""Atomic writes: results are built beside the target, which is replaced only if twotower wrote it."""

from __future__ import annotations

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
from twotower.swapping import exchanged

ABANDONED_AFTER = 24 * 3600
"""Seconds after which an unfinished folder counts as left by a killed process: no write takes that long."""

BROWSER_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that file browsers leave in the folders they show; they may be deleted."""


class FolderKind(Protocol):
    """What a command writes into a folder, and how it recognises a folder that it wrote before."""

    @property
    def name(self) -> str:
        """What errors call such a folder: `a bundle`."""

    def files_of(self, folder: Path) -> frozenset[str] | None:
        """Relative paths, with `/`, of the files that its writer wrote; None if the folder is not of this kind."""


@dataclass(frozen=True)
class NewFolder:
    """A folder that must not exist yet, or be empty."""

    name: str = "an empty folder"

    def files_of(self, folder: Path) -> None:
        """None: no existing folder is of this kind."""
        del folder


@dataclass(frozen=True)
class MarkedFolder:
    """A folder that is recognised by a marker file.

    Attributes:
        name: What errors call it.
        marker: Name of the marker file.
        recognises: Whether the content of the marker is from twotower.
        patterns: Names of the files that its writer writes; `*` matches anything.
    """

    name: str
    marker: str
    recognises: Callable[[bytes], bool]
    patterns: tuple[str, ...]

    def files_of(self, folder: Path) -> frozenset[str] | None:
        """The files that match a pattern, including temporary files of a killed writer, even if it wrote no marker."""
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
    """Deletes a folder, its marker last, so that it is still recognised if the deletion fails half-way."""
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(_set_aside(entry))  # renamed first: no reader finds a half-deleted folder
            elif entry.name != marker:
                entry.unlink()
        (folder / marker).unlink(missing_ok=True)
        folder.rmdir()


def _set_aside(folder: Path) -> Path:
    """Renames a folder to a hidden name that no reader looks for."""
    retired = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".retired", dir=folder.parent))
    retired.rmdir()
    return folder.rename(retired)


def plain_name(name: str) -> str:
    """The path without the affixes of temporary names: `.final.k3_x0aq1.building/x` becomes `final/x`.

    Example:
        >>> plain_name("runs/.one.json.k3_x0aq1"), plain_name("runs/one.json")
        ('runs/one.json', 'runs/one.json')
    """
    return "/".join(re.sub(r"^\.(.+)\.[a-z0-9_]{8}(\.building|\.retired)?$", r"\1", part) for part in name.split("/"))


def names_in(folder: Path) -> Iterator[str]:
    """Relative paths, with `/`, of all files and links below a folder.

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
    """Resolves links in `target` and checks that writing there loses nobody's files.

    The target may be missing, empty, or a folder of the given kind without foreign files. Call this before long work:
    it also checks that the place is writable.

    Raises:
        ConfigError: The target is a file, another kind of folder, contains foreign files, is the working folder or one
            of its parents, is a mount point, or cannot be written.
    """
    real = _resolved(target)
    if real == Path(real.anchor) or real in _around_here():
        raise ConfigError(f"{target} is the working folder or contains it; choose another folder")
    if os.path.lexists(real) and not real.is_dir():
        raise ConfigError(f"{target} is a file; expected a folder to write")
    if real.is_dir() and os.path.ismount(real):
        raise ConfigError(f"{target} is a mount point, which cannot be replaced; choose a folder in it")
    _check_writable(target, real)
    if (refusal := _refusal(target, real, kind)) is not None:
        raise ConfigError(refusal)
    return real


def check_file_target(target: Path, is_ours: Callable[[Path], bool], name: str) -> Path:
    """Resolves links in `target` and checks that writing there loses nobody's file.

    Args:
        target: The file; it may be missing, empty, or recognised by `is_ours`.
        is_ours: Whether an existing file is of the kind to be written, and may be replaced.
        name: What errors call this kind of file.

    Raises:
        ConfigError: The target is a folder or another kind of file, or cannot be written.
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
    """Yields an empty folder beside `target` that replaces it if the block ends without an error.

    On systems that can swap two names atomically (Linux), `target` exists at every moment. Elsewhere it is missing
    for an instant between two renames.

    An error or an interruption removes the new folder and leaves `target` as it was. A killed process leaves the new
    folder beside `target`; a later write, at least a day after, removes it. The new files are synced to disk before
    the swap, so that a power cut loses neither the old nor the new ones.

    Args:
        target: The folder; if it is a link, the folder it points to is replaced.
        kind: The kind of folder that may be replaced; default: only an empty folder.

    Raises:
        ConfigError: The target must not be replaced, see `check_folder_target`, or cannot be written.
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
    """Turns OS errors in the block, such as a full disk or too many open files, into a `ConfigError` about `target`.

    Raises:
        ConfigError: It cannot be written; the message says why.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{target} cannot be written: {error}") from error


def sync_file(path: Path) -> None:
    """Flushes a file to disk, so that it survives a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flushes all files in a folder to disk."""
    for name in names_in(folder):
        if not (folder / name).is_symlink():
            sync_file(folder / name)


def publish(building: Path, target: Path, kind: FolderKind) -> None:
    """Moves a finished folder to `target` and deletes the previous one.

    Raises:
        ConfigError: Something else was put there in the meantime; the finished folder is kept beside it.
    """
    failed: OSError | None = None
    try:
        refusal = _refusal(target, target, kind) or _swap_in(building, target, kind)
    except OSError as error:
        refusal, failed = f"{target} cannot be written: {error}", error
    if refusal is None:
        return
    kept = next(path for path in _free_names(target) if not os.path.lexists(path))
    building.rename(kept)
    raise ConfigError(f"{refusal}. The new folder is kept as {kept}") from failed


def _swap_in(building: Path, target: Path, kind: FolderKind) -> str | None:
    """Swaps the folders and deletes the old one. If that holds foreign files, swaps back and returns the reason."""
    if exchanged(building, target):
        refusal = _refusal(target, building, kind)  # `building` is the old folder now
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


def write_file(target: Path, content: bytes | str) -> None:
    """Writes `content` (text as UTF-8) to `target` atomically: it never holds a part, not even after a power cut.

    Raises:
        ConfigError: The system cannot write it.
    """
    with replaced_file(target) as building:
        building.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replaced_file(target: Path) -> Iterator[Path]:
    """Yields an empty file beside `target` that replaces it, synced to disk, if the block ends without an error.

    Raises:
        ConfigError: The system cannot write it.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        building = Path(name)
        try:
            yield building
            sync_file(building)
            building.chmod(0o666 & ~_umask())
            building.replace(target)
        except BaseException:
            with suppress(OSError):
                building.unlink(missing_ok=True)
            raise


def _refusal(target: Path, folder: Path, kind: FolderKind) -> str | None:
    """Why a folder must not be deleted; None if it may be. The message calls it `target`."""
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
    """The absolute path with links resolved, even if it does not exist: a link may name what is yet to be written."""
    try:
        real = Path(os.path.realpath(target))
        real.exists()  # raises if a name is too long or a parent folder may not be entered
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(target)[:200]!r} cannot be written: {error}") from error
    if real.is_symlink():
        raise ConfigError(f"{target} is a link in a loop of links; expected a writable path")
    return real


def _around_here() -> list[Path]:
    """The working folder and its parents; empty if it was deleted."""
    try:
        here = Path(os.path.realpath(Path.cwd()))
    except OSError:
        return []
    return [here, *here.parents]


def _check_writable(target: Path, real: Path) -> None:
    """Tries to create a folder beside `real`, or in its nearest existing parent.

    Raises:
        ConfigError: None can be created.
    """
    place = real.parent
    while not os.path.lexists(place):
        place = place.parent
    try:
        Path(tempfile.mkdtemp(prefix=f".{real.name}.", suffix=".building", dir=place)).rmdir()
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: cannot create files in {place}: {error.strerror}") from error


def _free_names(target: Path) -> Iterator[Path]:
    number = 1
    while True:
        yield target.with_name(f"{target.name}.new" if number == 1 else f"{target.name}.new-{number}")
        number += 1


def _remove_abandoned(target: Path) -> None:
    if not target.exists():  # a process killed between the two renames left the only copy
        return
    left_by_us = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.(building|retired)")
    for left in target.parent.iterdir():
        with suppress(FileNotFoundError):  # another process has renamed or removed it
            if left_by_us.fullmatch(left.name) and time.time() - left.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(left, ignore_errors=True)


def _raised(error: OSError) -> None:
    raise error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
