"""`Rating`: predicts a number per event, such as stars, seconds watched, or whether it was a click."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
import torch
from torch import Tensor

from twotower.arguments import Follows, Settings, refuse_nameless
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.errors import ConfigError, DataError
from twotower.evaluation.intervals import cluster_interval, weighted_mean
from twotower.evaluation.metrics import FloatArray, Metrics
from twotower.evaluation.predictions import (
    auc_interval,
    calibration_error,
    log_losses,
    reliability,
    rmse_interval,
    squared_errors,
)
from twotower.evaluation.rating_baselines import RATING_BASELINES
from twotower.evaluation.task_scores import Measured, TaskEvaluation, TaskScores, Units, evaluated
from twotower.model.heads import BuiltInHead, DotHead, Head, HeadModule
from twotower.model.pointwise import PointLoss, pointwise_values
from twotower.model.reduction import reduced
from twotower.model.two_tower import TwoTower
from twotower.progress import ReportStep, no_report
from twotower.tasks.base import TASKS, BoundTask, TaskLoss
from twotower.tasks.checks import check_task_name
from twotower.tasks.predictor import Predictor
from twotower.tasks.shown import Shown, known_choices, tells_choices, with_shown
from twotower.tasks.step import Step
from twotower.tasks.targets import known_targets, targets_of

if TYPE_CHECKING:
    AnyHead = Head
else:  # the kinds that configs can name, or any class that follows the protocol
    AnyHead = Annotated[BuiltInHead, Follows(Head)]


@TASKS.register
class Rating(Settings, frozen=True, kw_only=True, tag="rating", tag_field="kind"):
    """Predicts a number for each event. Events without a number do not count.

    If the target is the column `chosen` of the log, it predicts whether what is shown is chosen: 1 for events, and 0
    for each candidate that was shown with them and not chosen. Events that were shown together divide the weight of
    the latter. Logs leave out requests in which nothing was chosen, so the prediction is for requests with a choice.

    Attributes:
        target: The column of the interactions with the number, or the column `chosen`.
        loss: `squared`, `huber`, or `cross_entropy` for probabilities or values of 0 and 1.
        head: The head that predicts.
        delta: Error above which the `huber` loss grows linearly, in the column's units.
        weight: Weight of its loss among those of other tasks.
        name: Name in histories and tables, and of the model's head.

    Raises:
        ConfigError: A setting has the wrong type or is out of range.

    Example:
        >>> from twotower import Category, Tower, Trainer, TwoTower, data
        >>> log = data.simulated(50, 40, 1000)
        >>> stars = np.where(log.candidate_index % 2 == 0, 5.0, 1.0)  # even candidates please
        >>> import dataclasses, pyarrow as pa
        >>> log = dataclasses.replace(log, interactions=log.interactions.append_column("stars", pa.array(stars)))
        >>> model = TwoTower(Tower([Category("user_id", 8)]), Tower([Category("movie_id", 8)]))
        >>> trainer = Trainer(epochs=5, batch_size=64, tasks=[Rating(target="stars")])
        >>> history = trainer.fit(model, log)
        >>> history.epochs[-1].losses["rating"] < history.epochs[0].losses["rating"]
        True
    """

    target: str
    loss: PointLoss = "squared"
    head: AnyHead = DotHead()
    delta: float = 1.0
    weight: float = 1.0
    name: str = "rating"

    def check(self) -> None:
        """Refuses values out of range, and sets the head's link to match the loss."""
        check_task_name(self.name, self.weight)
        refuse_nameless("rating", target=self.target)
        if not self.delta > 0:
            raise ConfigError(f"delta={self.delta}; expected a number above 0", field="delta")
        link = "sigmoid" if self.is_probability else "identity"
        if isinstance(self.head, msgspec.Struct) and self.head.link != link:
            msgspec.structs.force_setattr(self, "head", msgspec.structs.replace(self.head, link=link))

    @property
    def title(self) -> str:
        """Its name."""
        return self.name

    @property
    def column(self) -> str:
        """The target's column."""
        return self.target

    @property
    def grouping(self) -> None:
        """None, as each event is read by itself."""
        return None

    @property
    def is_probability(self) -> bool:
        """Whether the number is a probability."""
        return self.loss == "cross_entropy"

    @property
    def metric(self) -> str:
        """The metric that models are compared by: the one that the loss minimises."""
        return {"squared": "rmse", "huber": "mae", "cross_entropy": "log_loss"}[self.loss]

    def bind(self, train: Log) -> BoundTask:
        """Binds the task to its training data.

        Raises:
            DataError: The column is missing, has no value, or has one outside 0 to 1 with `cross_entropy`.
        """
        self._known(train)
        return _Bound(self, Shown(train) if tells_choices(train, self.target) else None)

    def start(self, head: HeadModule, train: Log) -> None:
        """Initialises the head with the targets' mean and deviation, and limits its predictions to their range."""
        events, targets = self._known(train)
        mean = float(np.average(targets, weights=events.weights))
        if self.is_probability:
            p = min(max(mean, 1e-6), 1 - 1e-6)
            head.set_range(float(np.log(p / (1 - p))), 1.0, -np.inf, np.inf)
        else:
            deviation = float(np.sqrt(np.average((targets - mean) ** 2, weights=events.weights)))
            head.set_range(mean, deviation or 1.0, float(targets.min()), float(targets.max()))

    def measured(self, events: Dataset, train: Log) -> Callable[[TwoTower], Metrics]:
        """A function that measures the model on these events, to be called repeatedly."""
        del train
        events, targets = _counting(events, self.target)
        weights = None if events.weight is None else events.weights.astype(np.float64)
        predictors: list[Predictor] = []

        def measure(model: TwoTower) -> Metrics:
            if not predictors:
                predictors.append(Predictor(model, events))
            predictions = predictors[0].answers(model, self.name)
            found = {
                "rmse": weighted_mean(squared_errors(predictions, targets), weights) ** 0.5,
                "mae": weighted_mean(np.abs(predictions - targets), weights),
            }
            if self.is_probability:
                found["log_loss"] = weighted_mean(log_losses(predictions, targets), weights)
                auc = auc_interval(predictions, targets, events.query_index, weights)
                found |= {} if auc is None else {"auc": auc.mean}
            return found

        return measure

    def evaluate(
        self, model: TwoTower, test: Dataset, train: Log, *, baselines: bool = True, step: ReportStep = no_report
    ) -> TaskEvaluation:
        """Errors on test with intervals over queries, for the model and for means, biases and matrix factorisation."""
        known, learned = self._known(train)
        events, targets = _counting(test, self.target)
        weights = None if events.weight is None else events.weights.astype(np.float64)
        units = Units("events", events.query_index, weights)
        step(f"{self.name}: predicting")
        own = self.score(Predictor(model, events).answers(model, self.name), targets, units)
        beside = {}
        for kind in RATING_BASELINES if baselines else ():
            step(f"{self.name}: {RATING_BASELINES[kind].label}")
            predictions = RATING_BASELINES[kind](known, learned).predict(events)
            predictions = np.clip(predictions, learned.min(), learned.max())
            beside[kind] = RATING_BASELINES[kind].label, self.score(predictions, targets, units)
        return evaluated(self.name, "rating", self.metric, units, own, beside, _missing_note(test, events, self.target))

    def score(self, predictions: FloatArray, targets: FloatArray, units: Units) -> Measured:
        """All metrics of some predictions.

        Args:
            predictions: Prediction for each event, `[N]`.
            targets: True value for each event, `[N]`.
            units: The events.
        """
        queries, weights = units.queries, units.weights
        curve = reliability(predictions, targets, weights)
        found = {
            "rmse": rmse_interval(predictions, targets, queries, weights),
            "mae": cluster_interval(np.abs(predictions - targets), queries, weights),
        }
        values = {"rmse": squared_errors(predictions, targets), "mae": np.abs(predictions - targets)}
        if self.is_probability:
            values["log_loss"] = log_losses(predictions, targets)
            found["log_loss"] = cluster_interval(values["log_loss"], queries, weights)
            if (auc := auc_interval(predictions, targets, queries, weights)) is not None:
                found["auc"] = auc
        metrics = {name: one.mean for name, one in found.items()} | {"calibration_error": calibration_error(curve)}
        half_widths = {name: one.half_width for name, one in found.items() if one.half_width is not None}
        return Measured(TaskScores(metrics, half_widths, curve), values[self.metric], self.metric == "rmse")

    def _known(self, train: Log) -> tuple[Dataset, FloatArray]:
        known = known_choices if tells_choices(train, self.target) else known_targets
        events, targets = known(train, self.target)
        if self.is_probability and (wrong := np.flatnonzero((targets < 0) | (targets > 1))).size:
            raise DataError(
                f"column {self.target!r} holds {targets[wrong[0]]:g}; expected numbers from 0 to 1 for cross_entropy",
                column=self.target,
            )
        return events, targets


class _Bound:
    """The task bound to its training data; `shown` if the target is whether something was chosen."""

    def __init__(self, task: Rating, shown: Shown | None) -> None:
        self.task, self.shown = task, shown

    def __call__(self, step: Step) -> TaskLoss | None:
        if self.shown is not None:
            return self._of_choices(step, *self.shown.in_step(step.batch.events))
        targets = step.column(self.task.target)
        known = (~targets.isnan()).nonzero().squeeze(1)
        if len(known) == 0:
            return None
        everything = len(known) == len(targets)
        queries = step.queries if everything else step.queries.take(known)
        logits = step.logits(self.task.name, queries, step.batch.candidates[known])
        return self._loss(step, logits, targets[known], known)

    def _of_choices(self, step: Step, position: Tensor, candidates: Tensor, shares: Tensor) -> TaskLoss:
        """The loss of the step's events, and of what was shown with them: pairs of a position and a candidate."""
        events = torch.arange(len(step.rows), device=position.device)
        rows = torch.cat([events, position])
        logits = step.logits(self.task.name, step.queries.take(rows), torch.cat([step.batch.candidates, candidates]))
        targets = (torch.arange(len(rows), device=rows.device) < len(events)).float()
        return self._loss(step, logits, targets, rows, torch.cat([torch.ones_like(events, dtype=shares.dtype), shares]))

    def _loss(
        self, step: Step, logits: Tensor, targets: Tensor, rows: Tensor, shares: Tensor | None = None
    ) -> TaskLoss:
        """The loss of pairs, given the row of the step that each belongs to, and their shares of its weight."""
        weights = logits.new_ones(len(rows)) if step.batch.weights is None else step.batch.weights[rows]
        weights = weights if shares is None else weights * shares.to(weights.dtype)
        values = pointwise_values(logits, targets, self.task.loss, self.task.delta)
        total = reduced(values, weights, "sum")
        weight = weights.sum()
        return TaskLoss(total / weight.clamp_min(torch.finfo(total.dtype).tiny), total.detach(), weight)


def _counting(events: Dataset, column: str) -> tuple[Dataset, FloatArray]:
    """The events with a target and a weight above 0, and the targets.

    Raises:
        DataError: There are no such events.
    """
    events, targets = with_shown(events) if tells_choices(events, column) else (events, targets_of(events, column))
    counted = ~np.isnan(targets) & (events.weights > 0)
    if not counted.any():
        raise DataError(f"column {column!r}: no event to measure has a value and a weight above 0", column=column)
    return events.take(counted), targets[counted]


def _missing_note(test: Dataset, measured: Dataset, column: str) -> list[str]:
    missing = 0 if tells_choices(test, column) else len(test) - len(measured)
    return [f"{missing:,} of the {len(test):,} test events have no {column} and are not measured."] if missing else []
