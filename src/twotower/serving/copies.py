"""Copies of bundles that are read in place of the folder itself: one's own, or one that several workers share."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from twotower.errors import SavedFolderError

KEPT = 2
"""Copies that workers keep: of the bundle that is served, and of the one that takes its place."""

TOLD_SECONDS = 10.0
"""For how long somebody who reloads waits for the other workers."""


class Copies(Protocol):
    """Makes copies of a bundle's folder, and says to others what happened here."""

    def of(self, folder: Path, identity: object) -> AbstractContextManager[Path]:
        """A copy of the folder.

        Args:
            folder: The folder.
            identity: What tells its content from another.

        Raises:
            SavedFolderError: The folder cannot be read.
        """
        ...

    def serves(self, version: str) -> None:
        """Says which version this process serves from now on."""
        ...

    def tell(self, version: str) -> None:
        """Has all other workers look at the folder, and waits until they serve this version."""
        ...

    def is_told(self) -> bool:
        """Whether somebody has said so since this was last asked."""
        ...


class OwnCopies:
    """Copies of a process that has no others beside it; each is gone when it has been read."""

    @contextmanager
    def of(self, folder: Path, identity: object) -> Iterator[Path]:
        """See `Copies.of`."""
        del identity
        private = Path(tempfile.mkdtemp(prefix="twotower-serve-"))
        try:
            _copy(folder, private / "bundle")
            yield private / "bundle"
        finally:
            shutil.rmtree(private, ignore_errors=True)

    def serves(self, version: str) -> None:
        """Nobody asks."""

    def tell(self, version: str) -> None:
        """There are no others."""

    def is_told(self) -> bool:
        """Nobody says anything."""
        return False


class SharedCopies:
    """Copies that workers share: whoever is first copies a bundle, and all map the same files.

    Args:
        home: A folder that all workers may write.
        number: Which worker this is.
        workers: How many there are.
    """

    def __init__(self, home: Path, number: int, workers: int) -> None:
        self.home, self.number, self.workers = home, number, workers
        self._heard = self._said()

    @contextmanager
    def of(self, folder: Path, identity: object) -> Iterator[Path]:
        """See `Copies.of`."""
        name = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
        copy = self.home / "copies" / name
        with FileLock(self.home / "copying.lock"):
            copy.parent.mkdir(exist_ok=True)
            if not copy.exists():
                building = self.home / f"building-{self.number}"
                shutil.rmtree(building, ignore_errors=True)
                _copy(folder, building)
                building.rename(copy)
                self._drop_old(copy)
        yield copy

    def serves(self, version: str) -> None:
        """See `Copies.serves`."""
        own = self.home / f"version-{self.number}"
        building = own.with_suffix(".new")
        building.write_text(version)
        building.replace(own)

    def tell(self, version: str) -> None:
        """See `Copies.tell`."""
        (self.home / "reload").touch()
        self._heard = self._said()
        end = time.monotonic() + TOLD_SECONDS
        while time.monotonic() < end and not self._all_serve(version):
            time.sleep(0.02)

    def is_told(self) -> bool:
        """See `Copies.is_told`."""
        before, self._heard = self._heard, self._said()
        return self._heard != before

    def _said(self) -> int:
        try:
            return os.stat(self.home / "reload").st_mtime_ns  # noqa: PTH116 (a name that may not be there)
        except OSError:
            return 0

    def _all_serve(self, version: str) -> bool:
        with suppress(OSError):
            return all((self.home / f"version-{number}").read_text() == version for number in range(self.workers))
        return False

    def _drop_old(self, newest: Path) -> None:
        """Drops copies but the last two; what is mapped of them stays until nobody maps it."""
        others = sorted(newest.parent.iterdir(), key=lambda one: one.stat().st_ctime_ns)
        for old in others[:-KEPT]:
            if old != newest:
                shutil.rmtree(old, ignore_errors=True)


def _copy(folder: Path, copy: Path) -> None:
    try:
        shutil.copytree(folder, copy, symlinks=True)
    except OSError as error:  # shutil.Error is one, too
        raise SavedFolderError(f"{folder} cannot be read: {error}") from error
