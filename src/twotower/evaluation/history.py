"""`TrainingHistory`: the record of every epoch, which everything else reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from twotower.errors import ConfigError
from twotower.evaluation.metrics import Scores, merit_of, metric_label
from twotower.evaluation.tables import history_html

if TYPE_CHECKING:
    from twotower.evaluation.figures import NotebookFigure


class Epoch(msgspec.Struct, frozen=True):
    """One epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        loss: Mean loss over all its events.
        learning_rate: Learning rate at its end.
        seconds: Seconds spent training.
        validation: Scores after the epoch; None if it was not validated.
        validation_seconds: Seconds spent validating.
        waiting_seconds: The part of `seconds` spent waiting for a streamed log.
        accuracy: In-batch top-k accuracy, as `top_1`, `top_10` and so on: the share of training events whose candidate
            was among the k most probable ones that the loss compared it with, measured during the epoch on some events
            of each batch. Empty if the loss does not provide it.
        losses: Mean loss of each task, by name; `loss` is their sum, weighted by the task weights. Empty if the
            model has no tasks besides retrieval.
    """

    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    validation: Scores | None = None
    validation_seconds: float = 0.0
    waiting_seconds: float = 0.0
    accuracy: dict[str, float] = {}
    losses: dict[str, float] = {}


class TrainingHistory(msgspec.Struct):
    """All epochs so far, in order; displayed as a table in notebooks.

    Attributes:
        epochs: The record of each epoch.
        monitor: The metric that determines the best epoch, such as `all.top_100`.
        restored: The epoch whose weights the model has at the end, if not the last one.

    Example:
        >>> history = TrainingHistory(epochs=[Epoch(1, loss=2.5, learning_rate=0.01, seconds=0.1)])
        >>> history.to_table().column_names
        ['epoch', 'loss', 'learning_rate', 'seconds', 'validation_seconds', 'waiting_seconds']
        >>> history.plot().savefig("history.png")  # doctest: +SKIP
    """

    monitor: str = "all.top_100"
    epochs: list[Epoch] = []
    restored: int | None = None

    @property
    def validated(self) -> list[tuple[Epoch, Scores]]:
        """The epochs that were validated, with their scores."""
        return [(epoch, epoch.validation) for epoch in self.epochs if epoch.validation is not None]

    @property
    def best(self) -> Epoch:
        """The validated epoch with the best monitored metric; the earliest one if several are equal.

        Raises:
            ConfigError: No epoch was validated.
        """
        if not self.validated:
            raise ConfigError("no epoch was validated; give fit a validation part")
        return max(self.validated, key=lambda pair: pair[1].merit(self.monitor))[0]

    @property
    def best_value(self) -> float:
        """The monitored metric of the best epoch.

        Raises:
            ConfigError: No epoch was validated.
        """
        scores = self.best.validation
        assert scores is not None
        return scores.value(self.monitor)

    @property
    def best_merit(self) -> float:
        """`best_value`, negated if the metric is an error, so that higher is better.

        Raises:
            ConfigError: No epoch was validated.
        """
        return merit_of(self.monitor, self.best_value)

    @property
    def train_seconds(self) -> float:
        """Seconds spent training."""
        return sum(epoch.seconds for epoch in self.epochs)

    @property
    def validation_seconds(self) -> float:
        """Seconds spent validating."""
        return sum(epoch.validation_seconds for epoch in self.epochs)

    def to_table(self) -> pa.Table:
        """One row per epoch, as an Arrow table; `.to_pandas()` converts it to a DataFrame.

        Columns are those of `Epoch`, training accuracy as `training.top_10`, the loss of each task as `rating.loss`,
        and validation metrics as `all.mrr`, `unseen.top_100`, `rating.rmse` and so on, null for epochs that were not
        validated.
        """
        plain = [name for name in Epoch.__struct_fields__ if name not in ("validation", "accuracy", "losses")]
        columns = {name: [getattr(epoch, name) for epoch in self.epochs] for name in plain}
        for name in dict.fromkeys(name for epoch in self.epochs for name in epoch.accuracy):
            columns[f"training.{name}"] = [epoch.accuracy.get(name) for epoch in self.epochs]
        for task in dict.fromkeys(name for epoch in self.epochs for name in epoch.losses):
            columns[f"{task}.loss"] = [epoch.losses.get(task) for epoch in self.epochs]
        scores = [None if epoch.validation is None else epoch.validation.by_group for epoch in self.epochs]
        groups = dict.fromkeys(group for one in scores if one is not None for group in one)
        for group in groups:
            values = [None if one is None else one.get(group, {}) for one in scores]
            names = dict.fromkeys(name for metrics in values if metrics is not None for name in metrics)
            columns |= {
                f"{group}.{name}": [None if metrics is None else metrics.get(name) for metrics in values]
                for name in names
            }
        return pa.table(columns)

    def plot(self, metrics: Sequence[str] = ()) -> NotebookFigure:
        """Plots the loss and the validation metrics side by side; only the loss if nothing was validated.

        Args:
            metrics: Validation metrics to plot, such as `["all.mrr", "unseen.mrr"]`; default: the monitored metric.

        Returns:
            A figure that notebooks display; `figure.axes` has its panels, and `figure.savefig(path)` writes it.

        Raises:
            ConfigError: There are no epochs yet, or a metric was not measured.
        """
        from twotower.evaluation.figures import history_figure

        if not self.epochs:
            raise ConfigError("the history has no epochs; expected at least one to plot")
        losses = [(epoch.epoch, epoch.loss) for epoch in self.epochs]
        curves = {
            metric_label(metric): [(epoch.epoch, scores.value(metric)) for epoch, scores in self.validated]
            for metric in metrics or [self.monitor]
        }
        return history_figure(losses, curves, self.best.epoch if self.validated else None)

    def _repr_html_(self) -> str:
        """A table of the epochs, for notebooks."""
        best = self.best if self.validated else None
        rows = [
            (
                [
                    str(epoch.epoch),
                    f"{epoch.loss:.4f}",
                    "" if epoch.validation is None else f"{epoch.validation.value(self.monitor):.4f}",
                    f"{epoch.seconds + epoch.validation_seconds:.1f}",
                ],
                epoch is best,
            )
            for epoch in self.epochs
        ]
        return history_html(["epoch", "loss", metric_label(self.monitor), "seconds"], rows)
