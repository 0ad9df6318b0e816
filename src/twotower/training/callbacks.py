"""Callbacks: what watches a training, one concern each."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch.optim import Optimizer

from twotower.model.two_tower import TwoTower
from twotower.training.history import Epoch, TrainingHistory


@dataclass
class TrainingState:
    """Where a training is; callbacks read it, and may ask it to stop.

    Attributes:
        model: The model, as it is now; after an epoch with the averaged weights, where weights are averaged.
        optimizer: Its optimiser.
        history: The epochs so far.
        epochs: Epochs to train.
        steps_per_epoch: Batches in an epoch.
        step: Batches done in this epoch.
        stop: Set to True to end after this epoch.
    """

    model: TwoTower
    optimizer: Optimizer
    history: TrainingHistory
    epochs: int
    steps_per_epoch: int
    step: int = 0
    stop: bool = field(default=False)


class Callback:
    """Does nothing at every moment of a training; a subclass fills in what it needs.

    Example:
        >>> class Patience(Callback):
        ...     def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        ...         state.stop = epoch.loss < 1.0
    """

    def on_start(self, state: TrainingState) -> None:
        """Before the first epoch, or the first after a resumption."""

    def on_step(self, state: TrainingState) -> None:
        """After each batch."""

    def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        """After each epoch and its validation."""


class ProgressBar(Callback):
    """A live line with epoch, loss and the monitored metric; used as a context, for one or many trainings.

    Args:
        console: Where to draw; it draws nothing where that is not a terminal.
        label: What is trained.
    """

    def __init__(self, console: Console, label: str = "training") -> None:
        self.label = label
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=not console.is_terminal,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> ProgressBar:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def on_start(self, state: TrainingState) -> None:
        """Opens a line."""
        total = state.epochs * state.steps_per_epoch
        done = len(state.history.epochs) * state.steps_per_epoch
        self.task = self.progress.add_task(self.label, total=total, completed=done, note="")

    def on_step(self, state: TrainingState) -> None:
        """Moves the bar."""
        if self.task is not None:
            done = len(state.history.epochs) * state.steps_per_epoch + state.step
            self.progress.update(self.task, completed=done)

    def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        """Shows the epoch's figures."""
        if self.task is None:
            return
        note = f"epoch {epoch.epoch} · loss {epoch.loss:.3f}"
        if state.history.validated:
            monitor = state.history.monitor
            last = state.history.validated[-1][1].value(monitor)
            note += f" · {monitor} {last:.4f}"
        self.progress.update(self.task, note=note)
        if state.stop:
            self.progress.update(self.task, total=epoch.epoch * state.steps_per_epoch)
