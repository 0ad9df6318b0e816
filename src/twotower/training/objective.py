"""Training objectives: the retrieval loss, or the weighted sum of the losses of several tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from twotower.data.log import Log
from twotower.model.encoding import EncodedSide
from twotower.model.losses import Batch, BoundLoss
from twotower.model.two_tower import TwoTower
from twotower.ranks import shared_rows
from twotower.tasks.base import BoundTask, Task
from twotower.tasks.step import Step
from twotower.training.batches import Part
from twotower.training.precision import towers_in
from twotower.training.settings import TrainerSettings


@dataclass(frozen=True)
class StepLoss:
    """The loss of a step.

    Attributes:
        value: A scalar with gradient; None if no event of the step counts.
        totals: Sum of the losses, by task.
        weights: Sum of the weights of the events that count, by task.
    """

    value: Tensor | None
    totals: Sequence[Tensor | float]
    weights: Sequence[Tensor | float]


class Objective(Protocol):
    """Computes the loss of a step."""

    @property
    def names(self) -> list[str]:
        """Names of the tasks; empty if a model is trained for retrieval only."""
        ...

    def __call__(self, part: Part, rows: Tensor, ranks: Tensor) -> StepLoss:
        """The loss of the events at `rows` of a part; retrieval writes the ranks of some of them to `ranks`."""
        ...

    def mean(self, means: Tensor) -> Tensor:
        """The loss of an epoch, from the mean loss of each task, `[tasks]`."""
        ...


def objective_of(settings: TrainerSettings, model: TwoTower, train: Log, candidates: EncodedSide) -> Objective:
    """Creates the objective for a model that was fitted on these events."""
    if not settings.tasks:
        return _Retrieval(settings, model, settings.loss.bind(train), candidates)
    tasks = {task.title: (task, task.bind(train)) for task in settings.resolved_tasks}
    return _Tasks(settings, model, tasks, candidates)


class _Retrieval:
    """The retrieval loss over the towers' embeddings."""

    names: list[str] = []  # noqa: RUF012 (never changed)

    def __init__(self, settings: TrainerSettings, model: TwoTower, loss: BoundLoss, candidates: EncodedSide) -> None:
        self.settings, self.model, self.loss, self.candidates = settings, model, loss, candidates

    def __call__(self, part: Part, rows: Tensor, ranks: Tensor) -> StepLoss:
        model = self.model
        weights = None if part.weights is None else part.weights.index_select(0, rows)
        query_rows, candidate_rows = (side.index_select(0, rows) for side in (part.query_rows, part.candidate_rows))
        times = None if part.times is None else part.times.index_select(0, rows)
        batch = Batch(query_rows, candidate_rows, weights, ranks, part.numbers_of(rows), times)
        value = self.loss(
            model.interests_of(self._embedded(model.query_vectors, part.queries, rows)),
            batch,
            lambda wanted: self._embedded(model.candidate_vectors, self.candidates, wanted),
        )
        counted = len(rows) if weights is None else weights.sum()
        total = value.detach() * (counted if self.settings.loss.reduction == "mean" else 1)
        return StepLoss(value, [total], [counted])

    def mean(self, means: Tensor) -> Tensor:
        return means[0]

    def _embedded(self, vectors: Callable[[list[Tensor]], Tensor], side: EncodedSide, rows: Tensor) -> Tensor:
        """Embeds the `rows` of a side in training precision."""
        with towers_in(self.settings.precision, rows.device):
            return shared_rows(lambda own: [vectors(side.gather(own))], rows)[0]


class _Tasks:
    """The weighted sum of the task losses; a task without events that count in a step is skipped."""

    def __init__(
        self,
        settings: TrainerSettings,
        model: TwoTower,
        tasks: Mapping[str, tuple[Task, BoundTask]],
        candidates: EncodedSide,
    ) -> None:
        self.precision, self.model, self.candidates = settings.precision, model, candidates
        self.names, self.bound = list(tasks), [bound for _, bound in tasks.values()]
        self.weights = [task.weight for task, _ in tasks.values()]
        retrieves = any(task.head is None for task, _ in tasks.values())
        self.vectors = retrieves or any(model.heads[task.title].reads_vectors for task, _ in tasks.values())

    def __call__(self, part: Part, rows: Tensor, ranks: Tensor) -> StepLoss:
        def embedding() -> AbstractContextManager[object]:
            return towers_in(self.precision, rows.device)

        step = Step(self.model, part, rows, self.candidates, self.vectors, embedding, ranks)
        found = [bound(step) for bound in self.bound]
        values = [weight * one.value for weight, one in zip(self.weights, found, strict=True) if one is not None]
        return StepLoss(
            sum(values[1:], start=values[0]) if values else None,
            [0.0 if one is None else one.total for one in found],
            [0.0 if one is None else one.weight for one in found],
        )

    def mean(self, means: Tensor) -> Tensor:
        return torch.dot(means.new_tensor(self.weights), means)
