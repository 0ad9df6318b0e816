"""Callbacks: what watches a training, one concern each."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
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


class Line(msgspec.Struct, frozen=True):
    """Where one of several trainings is.

    Attributes:
        training: Number of the training, among those that one `Progress` has watched.
        label: What is trained.
        done: Batches so far.
        total: Batches in all.
        note: The latest epoch's figures.
    """

    training: int
    label: str
    done: int
    total: int
    note: str = ""


class Progress(Callback):
    """Says where one training after the other is; a subclass shows it.

    Args:
        label: What is trained.
    """

    def __init__(self, label: str = "training") -> None:
        self.label = label
        self.line = Line(0, label, 0, 0)

    def show(self, line: Line) -> None:
        """Shows where a training is."""
        raise NotImplementedError

    def on_start(self, state: TrainingState) -> None:
        """Begins a line."""
        total = state.epochs * state.steps_per_epoch
        done = len(state.history.epochs) * state.steps_per_epoch
        self._move(Line(self.line.training + 1, self.label, done, total))

    def on_step(self, state: TrainingState) -> None:
        """Moves on."""
        done = len(state.history.epochs) * state.steps_per_epoch + state.step
        self._move(msgspec.structs.replace(self.line, done=done))

    def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        """Says the epoch's figures."""
        note = f"epoch {epoch.epoch} · loss {epoch.loss:.3f}"
        if state.history.validated:
            monitor = state.history.monitor
            last = state.history.validated[-1][1].value(monitor)
            note += f" · {monitor} {last:.4f}"
        total = epoch.epoch * state.steps_per_epoch if state.stop else self.line.total
        self._move(msgspec.structs.replace(self.line, note=note, total=total))

    def _move(self, line: Line) -> None:
        self.line = line
        self.show(line)


class ProgressBar(Progress):
    """A live line with epoch, loss and the monitored metric; used as a context, for one or many trainings.

    Args:
        console: Where to draw; it draws nothing where that is not a terminal.
        label: What is trained.
    """

    def __init__(self, console: Console, label: str = "training") -> None:
        super().__init__(label)
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=not console.is_terminal,
            disable=not console.is_terminal,
        )
        self.tasks: dict[tuple[int, int], TaskID] = {}

    def __enter__(self) -> ProgressBar:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def show(self, line: Line, source: int = 0) -> None:
        """Draws the line of a training; of those elsewhere, `source` tells which process it is."""
        key = source, line.training
        if key not in self.tasks:
            self.tasks[key] = self.bars.add_task(line.label, note="")
        self.bars.update(self.tasks[key], completed=line.done, total=line.total, note=line.note)
