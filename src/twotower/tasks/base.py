"""`Task`: what a model is trained for: the column it needs, its head, its loss and its metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from twotower.data.dataset import Dataset
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
        value: A scalar with gradient: the mean over what counts, or its sum where the task says so.
        total: The sum over what counts, without gradient, by which an epoch's mean is made.
        weight: Sum of the weights of what counts.
    """

    value: Tensor
    total: Tensor
    weight: Tensor | float


BoundTask = Callable[[Step], TaskLoss | None]
"""A task that knows its training data: the loss of a step; None where nothing of the step counts."""


@runtime_checkable
class Task(Protocol):
    """What `Trainer` and `evaluate` need of a task.

    A task is a plain description, `Settings` with a tag, so that configs can name it, a checkpoint keeps it, and a
    training with another one does not resume from it. `twotower.testing.check_task` tries one out.

    Attributes:
        title: Its name in histories, tables and heads; no two tasks of a training have the same.
        weight: How much its loss counts beside those of other tasks, above 0.
        head: What it makes of a query and a candidate; None where it works on the towers' embeddings.
        column: A column of the interactions that it reads; None where it reads none.
        metric: What it is judged by: one of those that `measure` gives.
    """

    @property
    def title(self) -> str:
        """Its name."""
        ...

    @property
    def weight(self) -> float:
        """How much its loss counts."""
        ...

    @property
    def head(self) -> Head | None:
        """What it makes of a query and a candidate."""
        ...

    @property
    def column(self) -> str | None:
        """The column that it reads."""
        ...

    @property
    def metric(self) -> str:
        """What it is judged by."""
        ...

    def bind(self, train: Log) -> BoundTask:
        """The task for this training data.

        Raises:
            DataError: The column is missing, or holds nothing to learn from.
        """
        ...

    def start(self, head: HeadModule, train: Log) -> None:
        """Prepares a head that has not been trained yet."""
        ...

    def measured(self, events: Dataset) -> Callable[[TwoTower], Metrics]:
        """What measures the model on these events again and again, as training goes on."""
        ...

    def evaluate(
        self, model: TwoTower, test: Dataset, train: Log, *, baselines: bool = True, step: ReportStep = no_report
    ) -> TaskEvaluation:
        """The task's metrics on test, with intervals, beside its baselines.

        Args:
            model: The model, which has the task's head.
            test: The events to measure on.
            train: What the baselines learn from.
            baselines: Whether to measure them.
            step: Told what runs.
        """
        ...


TASKS: Kinds[type] = Kinds("task")
"""Tasks by kind. `@TASKS.register` makes one of your own known to configs."""
