"""One trial: a config trained on a part of train and validated on the rest, each epoch reported."""

from __future__ import annotations

import sys
import time
from multiprocessing import parent_process

import torch
from optuna import TrialPruned
from optuna.study import Study
from optuna.trial import Trial, TrialState

from twotower.data.dataset import Dataset
from twotower.errors import TwoTowerError
from twotower.training.callbacks import Callback, TrainingState
from twotower.training.history import Epoch
from twotower.tuning.database import REASON, is_built_in
from twotower.tuning.space import SearchSpace, Values

BEST_EPOCH = "best_epoch"


class Reporting(Callback):
    """Reports each validated epoch to Optuna, and ends a trial that is pruned or out of time.

    Args:
        trial: The trial.
        deadline: When it has to stop, in seconds since 1970; None: never.
    """

    def __init__(self, trial: Trial, deadline: float | None) -> None:
        self.trial, self.deadline = trial, deadline

    def on_step(self, state: TrainingState) -> None:
        """Stops at the deadline, or when nobody waits for the result any more."""
        del state
        if (parent := parent_process()) is not None and not parent.is_alive():
            sys.exit(1)
        if self.deadline is not None and time.time() > self.deadline:
            raise TrialPruned("out of time")

    def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        """Reports; the built-in config is what others are compared with, and is never pruned."""
        if epoch.validation is None:
            return
        self.trial.report(epoch.validation.value(state.history.monitor), epoch.epoch)
        if not is_built_in(self.trial) and self.trial.should_prune():
            raise TrialPruned("below the median of the others at the same epoch")


def run_trial(
    study: Study,
    trial: Trial,
    space: SearchSpace,
    train: Dataset,
    parts: tuple[Dataset, Dataset],
    deadline: float | None,
) -> None:
    """Trains, and tells Optuna how it ended: with a score, pruned, or failed and why.

    Args:
        study: Where it is told.
        trial: The trial.
        space: What it is drawn from.
        train: The training split.
        parts: Its two parts: to learn from, and to validate on.
        deadline: When it has to stop, in seconds since 1970.
    """
    try:
        values = _values(trial, space)
        score, epoch = _validated(space, values, train, parts, Reporting(trial, deadline))
    except TrialPruned as pruned:
        trial.set_user_attr(REASON, str(pruned))
        study.tell(trial, state=TrialState.PRUNED)
    except (TwoTowerError, torch.OutOfMemoryError) as error:
        trial.set_user_attr(REASON, str(error))
        study.tell(trial, state=TrialState.FAIL)
    else:
        trial.set_user_attr(BEST_EPOCH, epoch)
        study.tell(trial, score)


def _values(trial: Trial, space: SearchSpace) -> Values:
    """The trial's values; none where it is the built-in config and the space lacks it."""
    return {} if is_built_in(trial) and space.base_params is None else space.suggest(trial)


def _validated(
    space: SearchSpace, values: Values, train: Dataset, parts: tuple[Dataset, Dataset], reporting: Reporting
) -> tuple[float, int]:
    """The score of the epoch that its recipe would keep, and which one that is."""
    config = space.config(values)
    recipe = config.resolved_recipe(train)
    history = recipe.trainer.fit(config.model.build(train, recipe), *parts, callbacks=[reporting], progress=False)
    epoch, scores = history.validated[-1]
    if recipe.validate_on == "validation":
        epoch, scores = next(pair for pair in history.validated if pair[0] is history.best)
    return scores.value(history.monitor), epoch.epoch
