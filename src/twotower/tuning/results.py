"""What a tuning found, as the plain values that `tune.json` holds and the report is made of."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from optuna.trial import FrozenTrial, TrialState

from twotower.evaluation.metrics import Scores
from twotower.study.results import DataSummary, Seconds
from twotower.tuning.database import INTERRUPTED, REASON, is_built_in, seconds_of
from twotower.tuning.objective import BEST_EPOCH
from twotower.tuning.space import SearchSpace

State = Literal["complete", "pruned", "failed", "interrupted", "running", "waiting"]

STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


class TrialRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One trial.

    Attributes:
        number: From 0, in the order they began.
        state: `complete`; `pruned`: stopped early; `failed`; `interrupted`, and tried again in another trial.
        built_in: Whether it is of the config as it is built in.
        parameters: Value of each key of the space; none where the built-in config is outside it.
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
    parameters: dict[str, Any]
    changes: dict[str, Any]
    epochs: dict[int, float]
    score: float | None
    best_epoch: int | None
    seconds: float
    reason: str | None

    @classmethod
    def of(cls, trial: FrozenTrial, space: SearchSpace) -> TrialRecord:
        """What the database knows of a trial."""
        values = space.values(trial.params)
        return cls(
            number=trial.number,
            state="interrupted" if INTERRUPTED in trial.user_attrs else STATES[trial.state],
            built_in=is_built_in(trial),
            parameters=values,
            changes=space.changes(values),
            epochs=trial.intermediate_values,
            score=trial.value if trial.state == TrialState.COMPLETE else None,
            best_epoch=trial.user_attrs.get(BEST_EPOCH),
            seconds=seconds_of(trial),
            reason=trial.user_attrs.get(REASON),
        )

    @property
    def so_far(self) -> float | None:
        """The score, or the best one while there is none."""
        return max(self.epochs.values(), default=None) if self.score is None else self.score


class Final(msgspec.Struct, frozen=True, kw_only=True):
    """A config trained on all of train and measured on test.

    Attributes:
        trial: Number of its trial; None: the built-in config, of which no trial is complete.
        score: Of its trial, on validation.
        parameters: Trained numbers in the model.
        best_epoch: Epochs that it was trained for.
        seconds: Of training and validating.
        test: Its scores on test.
    """

    trial: int | None
    score: float | None
    parameters: int
    best_epoch: int
    seconds: Seconds
    test: Scores


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a tuning found.

    Attributes:
        data: The data and its split.
        metric: What trials are compared by, on the validation part.
        space: Range of each key.
        trials: All that ended, the first first.
        best: The config that validated best; the built-in one where none is better.
        built_in: The built-in config; None where its training failed.
        importances: Share of the differences between trials that each key explains; none where they are few.
        baselines: Those that were measured, by the names of `NAMES`, on test.
        verdicts: What the figures say, in sentences.
        command: The command that repeats it.
        versions: Of twotower, Python, PyTorch and Optuna; the workers and their threads.
        created: When, in ISO 8601.
        seconds: Seconds of the last command.
    """

    data: DataSummary
    metric: str
    space: dict[str, Any]
    trials: list[TrialRecord]
    best: Final
    built_in: Final | None
    importances: dict[str, float]
    baselines: dict[str, Scores]
    verdicts: list[str]
    command: str
    versions: dict[str, str]
    created: str
    seconds: float


def best_of(records: list[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the highest score; the built-in config's, then the earliest, of equals."""
    complete = [record for record in records if record.score is not None]
    return max(complete, key=lambda record: (record.score, record.built_in, -record.number), default=None)


def shown(value: object) -> str:
    """A value as tables show it: `[64, 32]`, `0.00312`, `in_batch_softmax mask_known=true`."""
    if isinstance(value, dict):
        kind = [str(value["kind"])] if "kind" in value else []
        return " ".join([*kind, *(f"{name}={shown(inner)}" for name, inner in value.items() if name != "kind")])
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode().replace(",", ", ")


def shown_changes(record: TrialRecord) -> str:
    """What a trial changes, by the last name of each key."""
    if record.built_in:
        return "the built-in config"
    return ", ".join(f"{key.rpartition('.')[2]} {shown(value)}" for key, value in record.changes.items())
