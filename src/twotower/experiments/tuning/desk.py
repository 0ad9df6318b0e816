"""`TrialDesk`: asks Optuna for trials, hands them to the pool as runs, and reports their results to Optuna."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import MedianPruner
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from twotower.errors import ConfigError, TwoTowerError
from twotower.evaluation.history import TrainingHistory
from twotower.experiments.desks import waiting_for
from twotower.experiments.orders import SearchRun
from twotower.experiments.pool import Ended, Job
from twotower.experiments.store import Store
from twotower.experiments.tuning.budget import Budget
from twotower.experiments.tuning.sampler import INTERRUPTED, SeededSampler
from twotower.experiments.tuning.space import SearchSpace
from twotower.experiments.tuning.trials import TrialLog, TrialRecord
from twotower.recipes.recipe import Recipe

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}

MAX_DEATHS = 3
"""The search gives up when this many processes die in a row."""


@dataclass
class _Running:
    trial: Trial
    recipe: Recipe
    began: float


class TrialDesk:
    """Hands out trials until the budget is spent.

    Optuna's study exists only in this process and is rebuilt from the log when a search resumes. Workers receive only
    plain runs.

    Args:
        space: The search space.
        log: The trials so far.
        store: Where runs are kept.
        data: Identity of the parts.
        recipe_of: Resolves the recipe of a config on these data.
        budget: When to stop.
        seed: Seed of the sampler.
        say: Prints a line about a trial that ended.
    """

    def __init__(
        self,
        space: SearchSpace,
        log: TrialLog,
        store: Store,
        data: str,
        recipe_of: Callable[[Any], Recipe],
        budget: Budget,
        seed: int,
        say: Callable[[TrialRecord], None],
    ) -> None:
        self.space, self.log, self.store, self.data = space, log, store, data
        self.recipe_of, self.budget, self.say = recipe_of, budget, say
        self._running: dict[str, _Running] = {}
        self._deaths = 0
        again = log.interrupted()
        self._study = _study_of(log, space, seed)
        self._queue: list[tuple[dict[str, Any], bool]] = [(one.params, one.built_in) for one in again]
        if not any(one.built_in for one in log.records):
            self._queue.insert(0, (space.base_params or {}, True))

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, as Optuna stores them."""
        return self._study.get_trials(deepcopy=False)

    def next_job(self) -> Job | None:
        """The next trial; None if enough are done or running, or time is up."""
        while self._may_begin():
            params, built_in = self._queue.pop(0) if self._queue else ({}, False)
            if params:
                self._study.enqueue_trial(params)
            trial = self._study.ask()
            values = {} if built_in and self.space.base_params is None else self.space.suggest(trial)
            record = TrialRecord(
                number=trial.number,
                state="running",
                built_in=built_in,
                params=trial.params,
                parameters=values,
                changes=self.space.changes(values),
            )
            self.log.begin(record)
            try:
                config = self.space.config(values)
                recipe = self.recipe_of(config)
            except ConfigError as error:
                self._tell(trial, TrialState.FAIL, state="failed", reason=str(error))
                continue
            run = SearchRun(config, reports=True, deadline=self._deadline())
            waiting = waiting_for(f"trial {trial.number}", run, self.store, self.data)
            self._running[waiting.label] = _Running(trial, recipe, time.time())
            return Job(waiting.label, msgspec.Raw(msgspec.json.encode(waiting.order)), waiting.key)
        return None

    def reported(self, job: Job, step: int, value: float) -> bool:
        """Records an epoch's score. A trial stops if it is below the median of the others at the same epoch.

        The built-in config is never stopped, as the others are compared with it.
        """
        trial = self._running[job.label].trial
        trial.report(value, step)
        record = self.log.records[trial.number]
        self.log.change(trial.number, epochs=record.epochs | {step: value})
        return record.built_in or not trial.should_prune()

    def finished(self, job: Job, ended: Ended) -> None:
        """Tells Optuna how a trial ended.

        A trial that fails because of the machine remains `running` in the log, so it is repeated when the search
        resumes.

        Raises:
            TwoTowerError: The machine failed, such as a full disk, or `MAX_DEATHS` processes died in a row.
        """
        if ended.how == "system":
            raise TwoTowerError(f"{job.label}: {ended.reason}; rerun the command to resume")
        running = self._running.pop(job.label)
        seconds = time.time() - running.began
        if ended.how == "done":
            self._complete(job, running, seconds)
        elif ended.how == "stopped":
            out_of_time = "out of time" in ended.reason
            reason = "out of time" if out_of_time else "below the median of the others at the same epoch"
            self._tell(running.trial, TrialState.PRUNED, state="pruned", reason=reason, seconds=seconds)
        else:
            self._tell(running.trial, TrialState.FAIL, state="failed", reason=ended.reason, seconds=seconds)
        self._deaths = self._deaths + 1 if ended.how == "died" else 0
        if self._deaths == MAX_DEATHS:
            raise TwoTowerError(f"{MAX_DEATHS} trials in a row died with their process: {ended.reason}")

    def _complete(self, job: Job, running: _Running, seconds: float) -> None:
        """Records the score of the epoch that the recipe would keep."""
        history = self.store.outcome(job.key, TrainingHistory)
        assert history is not None
        epoch, scores = history.validated[-1]
        if running.recipe.validate_on == "validation":
            epoch, scores = next(pair for pair in history.validated if pair[0] is history.best)
        score, epochs = scores.value(history.monitor), _scores(history)
        for step, value in epochs.items():
            if step not in self.log.records[running.trial.number].epochs:  # the outcome was already stored
                running.trial.report(value, step)
        values = {"epochs": epochs, "score": score, "best_epoch": epoch.epoch, "seconds": seconds}
        self._tell(running.trial, score, state="complete", **values)

    def _tell(self, trial: Trial, outcome: float | TrialState, **values: Any) -> None:
        if isinstance(outcome, TrialState):
            self._study.tell(trial, state=outcome)
        else:
            self._study.tell(trial, outcome)
        self.say(self.log.end(trial.number, **values))

    def _may_begin(self) -> bool:
        ended = [record for record in self.log.records if record.has_ended]
        if self.budget.trials is not None and len(ended) + len(self._running) >= self.budget.trials:
            return False
        deadline, shortest = self._deadline(), min((record.seconds for record in ended), default=0.0)
        return deadline is None or time.time() + shortest <= deadline

    def _deadline(self) -> float | None:
        return self.budget.deadline([one.seconds for one in self.log.records if one.state == "complete"])


def _scores(history: TrainingHistory) -> dict[int, float]:
    return {epoch.epoch: scores.value(history.monitor) for epoch, scores in history.validated}


def _study_of(log: TrialLog, space: SearchSpace, seed: int) -> optuna.Study:
    """Optuna's study with the trials of the log."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the pool's display shows progress
    study = optuna.create_study(
        direction="maximize",
        sampler=SeededSampler(seed, space.distributions),
        # Hyperband would divide the trials among brackets with one sampler each. That pays off with hundreds of trials
        # of many epochs; here there are tens of trials of about ten epochs.
        pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=3, n_min_trials=3),
    )
    study.add_trials([_frozen(record, space.distributions) for record in log.records])
    return study


def _frozen(record: TrialRecord, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    known = {key: distributions[key] for key in record.params}
    return create_trial(
        state=STATES.get(record.state, TrialState.FAIL),
        value=record.score,
        params=record.params,
        distributions=known,
        intermediate_values=record.epochs,
        user_attrs={INTERRUPTED: True} if record.state == "interrupted" else {},
    )
