"""Copies of bundles that are loaded instead of the folder itself: a private one, or one that several workers share."""

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
from twotower.retrieval.bundle import KIND
from twotower.saved import refuse_other

KEPT_COPIES = 2
"""Keep this many shared copies: that of the current bundle, and that of its replacement."""

RELOAD_SECONDS = 10.0
"""Wait at most this long for the other workers to reload."""


class Copies(Protocol):
    """Copies a bundle's folder, and coordinates reloads with other workers."""

    def of(self, folder: Path, identity: object) -> AbstractContextManager[Path]:
        """A copy of the folder.

        Args:
            folder: The folder.
            identity: Identifies its content.

        Raises:
            SavedFolderError: The folder cannot be read.
        """
        ...

    def announce(self, version: str) -> None:
        """Announces the version that this process now serves."""
        ...

    def request_reload(self, version: str) -> None:
        """Makes all other workers check the folder, and waits until they serve this version."""
        ...

    def is_reload_requested(self) -> bool:
        """Whether another worker has requested a reload since the last call."""
        ...


class PrivateCopies:
    """Copies for a process without other workers; each is deleted once it has been loaded."""

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

    def announce(self, version: str) -> None:
        """Does nothing: there are no other workers."""

    def request_reload(self, version: str) -> None:
        """Does nothing: there are no other workers."""

    def is_reload_requested(self) -> bool:
        """Always false: there are no other workers."""
        return False


class SharedCopies:
    """Copies that workers share: the first worker copies a bundle, and all map the same files.

    Args:
        home: A folder that all workers can write to.
        number: Number of this worker.
        workers: How many workers there are.
    """

    def __init__(self, home: Path, number: int, workers: int) -> None:
        self.home, self.number, self.workers = home, number, workers
        self._last_request = self._requested_at()

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

    def announce(self, version: str) -> None:
        """See `Copies.announce`."""
        own = self.home / f"version-{self.number}"
        building = own.with_suffix(".new")
        building.write_text(version)
        building.replace(own)

    def request_reload(self, version: str) -> None:
        """See `Copies.request_reload`."""
        (self.home / "reload").touch()
        self._last_request = self._requested_at()
        end = time.monotonic() + RELOAD_SECONDS
        while time.monotonic() < end and not self._all_serve(version):
            time.sleep(0.02)

    def is_reload_requested(self) -> bool:
        """See `Copies.is_reload_requested`."""
        before, self._last_request = self._last_request, self._requested_at()
        return self._last_request != before

    def _requested_at(self) -> int:
        try:
            return os.stat(self.home / "reload").st_mtime_ns  # noqa: PTH116 (the file may not exist)
        except OSError:
            return 0

    def _all_serve(self, version: str) -> bool:
        with suppress(OSError):
            return all((self.home / f"version-{number}").read_text() == version for number in range(self.workers))
        return False

    def _drop_old(self, newest: Path) -> None:
        """Deletes all but the last two copies; mapped files stay on disk until they are unmapped."""
        others = sorted(newest.parent.iterdir(), key=lambda one: one.stat().st_ctime_ns)
        for old in others[:-KEPT_COPIES]:
            if old != newest:
                shutil.rmtree(old, ignore_errors=True)


def _copy(folder: Path, copy: Path) -> None:
    refuse_other(folder, KIND)  # before a whole study is copied
    try:
        shutil.copytree(folder, copy, symlinks=True)
    except OSError as error:  # includes shutil.Error
        raise SavedFolderError(f"{folder} cannot be read: {error}") from error
