"""`Database`: the trials of a tuning in a SQLite file, shared by its workers and kept over interruptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from twotower.errors import SavedFolderError

NAME = "tune"
IDENTITY, BUILT_IN, INTERRUPTED, REASON, WORKER = "identity", "built_in", "interrupted", "reason", "worker"
LOCK_SECONDS = 60.0
"""How long a worker waits while another one writes."""


class Database:
    """The trials of one tuning; open it with `Database.opened`.

    Attributes:
        study: Optuna's view of it.
    """

    def __init__(self, study: Study, storage: RDBStorage) -> None:
        self.study, self._storage = study, storage

    @classmethod
    @contextmanager
    def opened(cls, path: Path, sampler: BaseSampler | None = None) -> Iterator[Database]:
        """Opens the file, or makes it.

        Raises:
            SavedFolderError: It is there and holds something else.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # what happens is shown by the live table
        try:
            storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}})
        except (SQLAlchemyError, RuntimeError) as error:
            raise SavedFolderError(f"{path} is no database of a tuning: {_first_line(error)}") from error
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=NAME,
                direction="maximize",
                load_if_exists=True,
                sampler=sampler,
                pruner=_pruner(),
            )
            yield cls(study, storage)
        finally:
            storage.remove_session()
            storage.engine.dispose()

    def claim_identity(self, identity: Mapping[str, str]) -> None:
        """Marks a new database as that of one tuning; refuses another's.

        Args:
            identity: What the tuning depends on, by name.

        Raises:
            SavedFolderError: The database is of another tuning.
        """
        known = self.study.user_attrs.get(IDENTITY)
        if known is None:
            self.study.set_user_attr(IDENTITY, dict(identity))
        elif differing := [name for name, value in identity.items() if known.get(name) != value]:
            raise SavedFolderError(
                f"it holds another tuning: {', '.join(differing)} differ; choose another --out, or delete it"
            )

    def enqueue_built_in(self, params: Mapping[str, Any] | None) -> None:
        """Puts the built-in config first, unless it is there; without parameters where the space lacks it."""
        if not any(BUILT_IN in trial.user_attrs for trial in self.trials()):
            self.study.enqueue_trial(dict(params or {}), user_attrs={BUILT_IN: True})

    def trials(self) -> list[FrozenTrial]:
        """All trials, the first first."""
        return self.study.get_trials(deepcopy=False)

    def finished(self) -> list[FrozenTrial]:
        """Trials that ended by themselves: complete, pruned or failed, but not interrupted."""
        return [one for one in self.trials() if one.state.is_finished() and INTERRUPTED not in one.user_attrs]

    def fail_those_of(self, worker: int, reason: str) -> bool:
        """Sets the running trials of a dead worker to failed; False where it had none."""
        own = [one for one in self._running() if one.user_attrs.get(WORKER) == worker]
        for trial in own:
            self._fail(trial, reason)
        return bool(own)

    def requeue_interrupted(self) -> None:
        """Sets trials that nobody runs any more to failed, and puts their parameters first in the queue."""
        for trial in self._running():
            self._set(trial, INTERRUPTED, True)
            self._fail(trial, "interrupted; tried again")
            kept = {BUILT_IN: True} if BUILT_IN in trial.user_attrs else {}
            self.study.enqueue_trial(trial.params, user_attrs=kept)

    def _running(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials() if trial.state == TrialState.RUNNING]

    def _fail(self, trial: FrozenTrial, reason: str) -> None:
        self._set(trial, REASON, reason)
        self.study.tell(trial.number, state=TrialState.FAIL)

    def _set(self, trial: FrozenTrial, name: str, value: Any) -> None:
        study = self._storage.get_study_id_from_name(NAME)
        number = self._storage.get_trial_id_from_study_id_trial_number(study, trial.number)
        self._storage.set_trial_user_attr(number, name, value)


def seconds_of(trial: FrozenTrial) -> float:
    """How long a trial took; 0 where it has not ended."""
    return trial.duration.total_seconds() if trial.duration is not None else 0.0


def is_built_in(trial: FrozenTrial | Trial) -> bool:
    """Whether the trial is of the config as it is built in."""
    return BUILT_IN in trial.user_attrs


def _pruner() -> BasePruner:
    """Stops a trial whose best epoch so far is below the median of the others at the same epoch.

    Hyperband would share the trials among brackets, each with a sampler of its own, which pays with
    hundreds of trials of many epochs; here there are tens, of about ten.
    """
    return MedianPruner(n_startup_trials=5, n_warmup_steps=3, n_min_trials=3)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
