"""`TaskValidation`: measuring the tasks of one model again and again on the same events, as training goes on."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from twotower.data.dataset import Dataset
from twotower.evaluation.metrics import DEFAULT_KS, Scores
from twotower.evaluation.validation import Validation
from twotower.model.two_tower import TwoTower
from twotower.tasks.base import Task


class TaskValidation:
    """Validation events, for a model that has learned its vocabularies and has the tasks' heads.

    Args:
        model: The model that will be trained.
        tasks: What is measured; retrieval, which has no head, by ranks.
        events: The events to measure on.
        train: What `unseen` excludes.
        ks: Lengths of lists of retrieval.

    Raises:
        DataError: The events are of other data than `train`, or none of them counts for a task.
    """

    def __init__(
        self, model: TwoTower, tasks: Sequence[Task], events: Dataset, train: Dataset, ks: Sequence[int] = DEFAULT_KS
    ) -> None:
        retrieves = any(task.head is None for task in tasks)
        self.ranks = Validation(model, events, train, ks) if retrieves else None
        self.tasks = {task.title: task.measured(events) for task in tasks if task.head is not None}

    def measure(self, model: TwoTower) -> Scores:
        """The metrics of every task, of the model as it is now.

        Raises:
            TwoTowerError: An embedding or an answer is not finite.
        """
        ranks = Scores({}, {}) if self.ranks is None else self.ranks.measure(model)
        return msgspec.structs.replace(ranks, tasks={name: measure(model) for name, measure in self.tasks.items()})
