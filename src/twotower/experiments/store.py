"""`Store`: what runs gave, kept by what they depend on, so that nothing is computed twice."""

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
    """A folder with one folder a run, each named after what the run depends on.

    Of joined ranks the first one reads for all and writes alone; each of them calls the same methods.

    A run is finished as soon as its `outcome.json` is there, which is written last. Before that its folder holds
    the checkpoint from which an interrupted run resumes.

    Args:
        folder: Where the runs are; made when the first one is kept.

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
        """Sixteen hexadecimal digits of what a run depends on: anything that JSON can hold."""
        return hashlib.sha256(msgspec.json.encode(spec, order="deterministic")).hexdigest()[:16]

    def folder_of(self, key: str) -> Path:
        """Where a run keeps its files: its model, its ranks."""
        return self.folder / key

    def checkpoint_of(self, key: str) -> Path:
        """Where a run that is not finished keeps its checkpoint."""
        return self.folder_of(key) / CHECKPOINT

    def begin(self, key: str, spec: Any) -> None:
        """Makes the folder of a run, with what it depends on for people to read."""
        if not current_ranks().is_first:
            return
        write_file(self.folder_of(key) / SPEC, msgspec.json.format(msgspec.json.encode(spec, order="sorted"), indent=1))

    def is_finished(self, key: str) -> bool:
        """Whether a run's outcome is there."""
        return current_ranks().from_first(lambda: (self.folder_of(key) / OUTCOME).is_file(), bool)

    def outcome(self, key: str, kind: type[T]) -> T | None:
        """What a finished run gave; None where it is not finished.

        Raises:
            SavedFolderError: Its file cannot be read.
        """
        return current_ranks().from_first(lambda: self._read(key, kind), kind | None)

    def _read(self, key: str, kind: type[T]) -> T | None:
        path = self.folder_of(key) / OUTCOME
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SavedFolderError(f"{path} cannot be read: {error}; delete {path.parent} to run it again") from error

    def keep(self, key: str, outcome: Any) -> None:
        """Marks a run as finished, and drops its checkpoint."""
        if not current_ranks().is_first:
            return
        write_file(self.folder_of(key) / OUTCOME, msgspec.json.encode(outcome))
        shutil.rmtree(self.checkpoint_of(key), ignore_errors=True)
