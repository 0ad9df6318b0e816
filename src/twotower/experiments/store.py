"""`Store`: outcomes of runs, keyed by what they depend on, so that nothing is computed twice."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from twotower.errors import SavedFolderError
from twotower.files import write_file
from twotower.ranks import current_ranks

OUTCOME, SPEC, CHECKPOINT = "outcome.json", "order.json", "checkpoint"

T = TypeVar("T")


class Store:
    """A folder with one subfolder per run, named by a hash of what the run depends on.

    Joined ranks all call the same methods; the first one reads for all and is the only one that writes.

    A run is finished once its `outcome.json` exists, which is written last. Until then its folder holds the checkpoint
    from which an interrupted run resumes.

    Args:
        folder: The folder; created when the first run is stored.

    Example:
        >>> import tempfile
        >>> store = Store(Path(tempfile.mkdtemp()))
        >>> key = store.key({"seed": 3})
        >>> store.outcome(key, dict[str, float]) is None
        True
        >>> store.keep(key, {"score": 0.5})
        >>> store.outcome(key, dict[str, float])
        {'score': 0.5}
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def key(spec: Any) -> str:
        """A hash of what a run depends on, in sixteen hexadecimal digits; `spec` is anything that fits into JSON."""
        return hashlib.sha256(msgspec.json.encode(spec, order="deterministic")).hexdigest()[:16]

    def folder_of(self, key: str) -> Path:
        """The folder with a run's files, such as its model and ranks."""
        return self.folder / key

    def checkpoint_of(self, key: str) -> Path:
        """The checkpoint of an unfinished run."""
        return self.folder_of(key) / CHECKPOINT

    def begin(self, key: str, spec: Any) -> None:
        """Creates the folder of a run and writes what it depends on, for people to read."""
        if not current_ranks().is_first:
            return
        write_file(self.folder_of(key) / SPEC, msgspec.json.format(msgspec.json.encode(spec, order="sorted"), indent=1))

    def is_finished(self, key: str) -> bool:
        """Whether a run's outcome is stored."""
        return current_ranks().from_first(lambda: self._is_finished(key), bool)

    def _is_finished(self, key: str) -> bool:
        finished = (self.folder_of(key) / OUTCOME).is_file()
        if finished:
            self._clean(key)  # `keep` may have been killed before it did
        return finished

    def outcome(self, key: str, kind: type[T]) -> T | None:
        """The outcome of a run; None if it is not finished.

        Raises:
            SavedFolderError: The file cannot be read.
        """
        return current_ranks().from_first(lambda: self._read(key, kind), kind | None)

    def _read(self, key: str, kind: type[T]) -> T | None:
        path = self.folder_of(key) / OUTCOME
        if not self._is_finished(key):
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SavedFolderError(f"{path} cannot be read: {error}; delete {path.parent} to run it again") from error

    def keep(self, key: str, outcome: Any) -> None:
        """Stores the outcome, which marks the run as finished, and deletes its checkpoint."""
        if not current_ranks().is_first:
            return
        write_file(self.folder_of(key) / OUTCOME, msgspec.json.encode(outcome))
        self._clean(key)

    def _clean(self, key: str) -> None:
        """Deletes a run's checkpoint, and folders that a failing disk kept from taking their place."""
        for folder in (self.checkpoint_of(key), *self.folder_of(key).glob("*.new*")):
            shutil.rmtree(folder, ignore_errors=True)
