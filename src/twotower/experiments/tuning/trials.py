"""`TrialLog`: the trials of a tuning, in one JSON file from which an interrupted one resumes."""

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
        number: From 0, in the order they began.
        state: `complete`; `pruned`: stopped early; `failed`; `interrupted`, and tried again in another trial.
        built_in: Whether it is of the config as it is.
        params: What Optuna drew for each key; none where the config is outside its own space.
        parameters: The same as config values.
        changes: Those that the built-in config does not have.
        epochs: Score on validation after each validated epoch.
        score: Of the epoch that is kept; None unless complete.
        best_epoch: Which one that is.
        seconds: How long it took.
        reason: Why it was stopped.
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
        """The score, or the best one while there is none."""
        return max(self.epochs.values(), default=None) if self.score is None else self.score

    @property
    def has_ended(self) -> bool:
        """Whether it ended by itself."""
        return self.state in ("complete", "pruned", "failed")

    @property
    def what_differs(self) -> str:
        """What it changes, by the last name of each key."""
        if self.built_in:
            return "the built-in config"
        return ", ".join(f"{key.rpartition('.')[2]} {shown(value)}" for key, value in self.changes.items())


class _File(msgspec.Struct):
    identity: dict[str, str]
    trials: list[TrialRecord] = []
    format: int = FORMAT


class TrialLog:
    """All trials of a tuning so far, written whenever one begins or ends.

    Args:
        path: The file; made when the first trial begins.
        identity: What the tuning depends on, by name.

    Raises:
        SavedFolderError: The file is of another tuning, or cannot be read.
    """

    def __init__(self, path: Path, identity: dict[str, str]) -> None:
        self.path, self._file = path, _File(identity)
        if path.exists():
            self._file = _read(path)
            known = self._file.identity
            if differing := [name for name, value in identity.items() if known.get(name) != value]:
                raise SavedFolderError(
                    f"{path.parent} holds another tuning: {', '.join(differing)} differ; choose another --out, or "
                    f"delete it"
                )

    @property
    def records(self) -> list[TrialRecord]:
        """The trials, the first first."""
        return list(self._file.trials)

    def begin(self, record: TrialRecord) -> None:
        """Adds a trial that begins."""
        self._file.trials.append(record)
        self._write()

    def change(self, number: int, **values: Any) -> TrialRecord:
        """Changes what is known of a trial, in memory."""
        self._file.trials[number] = msgspec.structs.replace(self._file.trials[number], **values)
        return self._file.trials[number]

    def end(self, number: int, **values: Any) -> TrialRecord:
        """Takes in how a trial has ended."""
        record = self.change(number, **values)
        self._write()
        return record

    def interrupted(self) -> list[TrialRecord]:
        """The trials that a killed command left running, which are marked so: to be tried again."""
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
        raise SavedFolderError(f"{path} holds no trials of a tuning: {error}") from error
    if found.format != FORMAT:
        raise SavedFolderError(f"{path} has format {found.format}; expected {FORMAT}: choose another --out")
    return found


def best_of(records: list[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the highest score; the built-in config's, then the earliest, of equals."""
    complete = [record for record in records if record.score is not None]
    return max(complete, key=lambda record: (record.score, record.built_in, -record.number), default=None)
