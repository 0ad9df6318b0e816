"""`TrialLog`: the trials of a tuning in one JSON file, from which an interrupted tuning resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from twotower.errors import SavedFolderError
from twotower.experiments.plans import shown
from twotower.files import write_file

FORMAT = 1

State = Literal["complete", "pruned", "failed", "interrupted", "running"]


class TrialRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One trial.

    Attributes:
        number: Its number, from 0 in order of start.
        state: `running`; `complete`; `pruned`: stopped early; `failed`; `interrupted`: repeated by another trial.
        built_in: Whether it tries the built-in config.
        params: Optuna's parameters; empty for a built-in config outside its own space.
        parameters: The same as config values.
        changes: The values that differ from the built-in config.
        epochs: Validation score after each validated epoch.
        score: Score of the epoch that is kept; None unless complete.
        best_epoch: The epoch that is kept.
        seconds: How long it took.
        reason: Why it stopped early or failed.
    """

    number: int
    state: State
    built_in: bool
    params: dict[str, Any]
    parameters: dict[str, Any]
    changes: dict[str, Any]
    epochs: dict[int, float] = {}
    score: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    reason: str | None = None

    @property
    def so_far(self) -> float | None:
        """The score; before completion, the best score so far."""
        return max(self.epochs.values(), default=None) if self.score is None else self.score

    @property
    def has_ended(self) -> bool:
        """Whether it ended without being interrupted."""
        return self.state in ("complete", "pruned", "failed")

    @property
    def what_differs(self) -> str:
        """Its changes, named by the last part of each key."""
        if self.built_in:
            return "the built-in config"
        return ", ".join(f"{key.rpartition('.')[2]} {shown(value)}" for key, value in self.changes.items())


class _File(msgspec.Struct):
    identity: dict[str, str]
    trials: list[TrialRecord] = []
    format: int = FORMAT


class TrialLog:
    """All trials of a tuning so far, written to disk whenever one starts or ends.

    Args:
        path: The file; created when the first trial starts.
        identity: What the tuning depends on, by name.

    Raises:
        SavedFolderError: The file belongs to another tuning, or cannot be read.
    """

    def __init__(self, path: Path, identity: dict[str, str]) -> None:
        self.path, self._file = path, _File(identity)
        if path.exists():
            self._file = _read(path)
            known = self._file.identity
            if differing := [name for name, value in identity.items() if known.get(name) != value]:
                raise SavedFolderError(
                    f"{path.parent} holds another tuning (different: {', '.join(differing)}); choose another --out or "
                    f"delete the folder"
                )

    @property
    def records(self) -> list[TrialRecord]:
        """The trials, in order."""
        return list(self._file.trials)

    def begin(self, record: TrialRecord) -> None:
        """Adds a trial that starts."""
        self._file.trials.append(record)
        self._write()

    def change(self, number: int, **values: Any) -> TrialRecord:
        """Changes a trial's record, in memory only."""
        self._file.trials[number] = msgspec.structs.replace(self._file.trials[number], **values)
        return self._file.trials[number]

    def end(self, number: int, **values: Any) -> TrialRecord:
        """Records the end of a trial and writes the file."""
        record = self.change(number, **values)
        self._write()
        return record

    def interrupted(self) -> list[TrialRecord]:
        """Marks the trials that a killed command left running as interrupted, and returns them to be repeated."""
        left = [record for record in self.records if record.state == "running"]
        return [
            self.change(one.number, state="interrupted", reason="interrupted; tried again", epochs={}) for one in left
        ]

    def _write(self) -> None:
        write_file(self.path, msgspec.json.format(msgspec.json.encode(self._file), indent=1))


def _read(path: Path) -> _File:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise SavedFolderError(f"{path} does not hold the trials of a tuning: {error}") from error
    if found.format != FORMAT:
        raise SavedFolderError(f"{path} has format {found.format}; expected {FORMAT}: choose another --out")
    return found


def best_of(records: list[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the highest score; ties go to the built-in config, then to the earliest."""
    complete = [record for record in records if record.score is not None]
    return max(complete, key=lambda record: (record.score, record.built_in, -record.number), default=None)
