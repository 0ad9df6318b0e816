"""`TaskValidation`: measures a model's tasks on the same events repeatedly during training."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.evaluation.metrics import DEFAULT_KS, Scores
from twotower.evaluation.validation import Validation
from twotower.model.two_tower import TwoTower
from twotower.tasks.base import Task


class TaskValidation:
    """Validation events, for a model that has learned its vocabularies and has the tasks' heads.

    Args:
        model: The model to be trained.
        tasks: The tasks to measure; retrieval, which has no head, is measured by ranks.
        events: The events to measure on.
        train: The events that the model learns from; `unseen` excludes their choices.
        ks: List lengths of retrieval metrics.

    Raises:
        DataError: The events do not belong to the data of `train`, or none counts for a task.
    """

    def __init__(
        self, model: TwoTower, tasks: Sequence[Task], events: Dataset, train: Log, ks: Sequence[int] = DEFAULT_KS
    ) -> None:
        retrieves, known = any(task.head is None for task in tasks), train.events_of(events)
        self.ranks = Validation(model, events, known, ks) if retrieves else None
        self.tasks = {task.title: task.measured(events, train) for task in tasks if task.head is not None}

    def measure(self, model: TwoTower) -> Scores:
        """The metrics of every task for the model in its current state.

        Raises:
            TwoTowerError: An embedding or a prediction is not finite.
        """
        ranks = Scores({}, {}) if self.ranks is None else self.ranks.measure(model)
        return msgspec.structs.replace(ranks, tasks={name: measure(model) for name, measure in self.tasks.items()})
