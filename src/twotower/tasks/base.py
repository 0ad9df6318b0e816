"""`Task`: a training objective, with the column it reads, its head, its loss and its metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.grouped import Grouping
from twotower.data.log import Log
from twotower.evaluation.metrics import Metrics
from twotower.evaluation.task_scores import TaskEvaluation
from twotower.kinds import Kinds
from twotower.model.heads import Head, HeadModule
from twotower.model.two_tower import TwoTower
from twotower.progress import ReportStep, no_report
from twotower.tasks.step import Step


@dataclass(frozen=True)
class TaskLoss:
    """A task's loss of one step.

    Attributes:
        value: A scalar with gradient: the mean over everything that counts, or the sum if the task uses sums.
        total: The sum over everything that counts, without gradient, used for the epoch's mean.
        weight: Sum of the weights of everything that counts.
    """

    value: Tensor
    total: Tensor
    weight: Tensor | float


BoundTask = Callable[[Step], TaskLoss | None]
"""A task bound to its training data: computes the loss of a step; None if nothing in the step counts."""


@runtime_checkable
class Task(Protocol):
    """The interface of a task for `Trainer` and `evaluate`.

    A task is a plain description, `Settings` with a tag. Configs can therefore name it, a checkpoint stores it, and
    training with another task does not resume from that checkpoint. `twotower.testing.check_task` tests a task.

    Attributes:
        title: Its name in histories, tables and heads; unique within a training.
        weight: Weight of its loss among those of other tasks, above 0.
        head: The head that predicts from a query and a candidate; None if the task uses the towers' embeddings.
        column: The column of the interactions that it reads; None if it reads none.
        grouping: Which events it needs in memory together; None if it reads each event by itself.
        metric: The metric that models are compared by, one of those that `measured` computes.
    """

    @property
    def title(self) -> str:
        """Its name."""
        ...

    @property
    def weight(self) -> float:
        """Weight of its loss."""
        ...

    @property
    def head(self) -> Head | None:
        """The head that predicts from a query and a candidate."""
        ...

    @property
    def column(self) -> str | None:
        """The column that it reads."""
        ...

    @property
    def grouping(self) -> Grouping | None:
        """Which events it needs in memory together."""
        ...

    @property
    def metric(self) -> str:
        """The metric that models are compared by."""
        ...

    def bind(self, train: Log) -> BoundTask:
        """Binds the task to its training data.

        Raises:
            DataError: The column is missing, or has nothing to learn from.
        """
        ...

    def start(self, head: HeadModule, train: Log) -> None:
        """Prepares an untrained head."""
        ...

    def measured(self, events: Dataset, train: Log) -> Callable[[TwoTower], Metrics]:
        """A function that measures the model on these events, to be called repeatedly during training.

        Args:
            events: The events to measure on.
            train: The events that the model learns from, for metrics that depend on them.
        """
        ...

    def evaluate(
        self, model: TwoTower, test: Dataset, train: Log, *, baselines: bool = True, step: ReportStep = no_report
    ) -> TaskEvaluation:
        """The metrics of the model and the task's baselines on test, with intervals.

        Args:
            model: A model with the task's head.
            test: The events to measure on.
            train: The events that the baselines learn from.
            baselines: Whether to measure the baselines.
            step: Reports progress.
        """
        ...


TASKS: Kinds[type] = Kinds("task")
"""Tasks by kind. `@TASKS.register` makes your own task available to configs."""
