"""Callbacks: what watches a training, one concern each; progress is one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

import msgspec
from rich.console import Console
from torch.optim import Optimizer

from twotower.arguments import checks_arguments
from twotower.evaluation.history import Epoch, TrainingHistory
from twotower.model.two_tower import TwoTower
from twotower.progress import Display, is_watched
from twotower.ranks import ALONE, Ranks
from twotower.training.settings import TrainerSettings


@dataclass
class TrainingState:
    """Where a training is; callbacks read it, and may ask it to stop.

    Attributes:
        model: The model, as it is now.
        settings: How it is trained.
        optimizer: Its optimiser.
        history: The epochs so far.
        epochs: Number of the last epoch to train.
        steps_per_epoch: Batches in an epoch.
        step: Batches done in this epoch.
        stop: Set to True to end after this epoch.
        ranks: Those that train together, the first of which calls callbacks; with what it has exchanged.
    """

    model: TwoTower
    settings: TrainerSettings
    optimizer: Optimizer
    history: TrainingHistory
    epochs: int
    steps_per_epoch: int
    step: int = 0
    stop: bool = field(default=False)
    ranks: Ranks = ALONE


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

    def on_end(self, state: TrainingState) -> None:
        """After the last epoch, when the model has its final weights."""

    def on_failure(self, state: TrainingState, error: BaseException) -> None:
        """When an error or an interruption has ended the training, instead of `on_end`."""


class Line(msgspec.Struct, frozen=True):
    """Where one of several trainings is.

    Attributes:
        training: Number of the training, among those that one `Progress` has watched.
        label: What is trained.
        done: Batches so far.
        total: Batches in all.
        note: Its epoch, and the latest figures.
        is_over: Whether it has ended.
    """

    training: int
    label: str
    done: int
    total: int
    note: str = ""
    is_over: bool = False


class Progress(Callback):
    """Says where one training after the other is; a subclass shows it.

    Args:
        label: What is trained.

    Attributes:
        stage: Which of the trainings that it takes, where there are several.
    """

    def __init__(self, label: str = "training") -> None:
        self.label, self.stage = label, ""
        self.line = Line(0, label, 0, 0)
        self._figures = ""

    @property
    def name(self) -> str:
        """What is trained, and which of its trainings this is."""
        return f"{self.label}, {self.stage}" if self.stage else self.label

    def show(self, line: Line) -> None:
        """Shows where a training is."""
        raise NotImplementedError

    def on_start(self, state: TrainingState) -> None:
        """Begins a line."""
        self._figures = ""
        total = state.epochs * state.steps_per_epoch
        done = len(state.history.epochs) * state.steps_per_epoch
        self._move(Line(self.line.training + 1, self.label, done, total))

    def on_step(self, state: TrainingState) -> None:
        """Moves on."""
        before = len(state.history.epochs)
        done = before * state.steps_per_epoch + state.step
        self._move(msgspec.structs.replace(self.line, done=done, note=self._note(before + 1, state)))

    def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        """Says the epoch's figures."""
        monitor = state.history.monitor
        each = ", ".join(f"{task} {loss:.3f}" for task, loss in epoch.losses.items())
        self._figures = f" · loss {epoch.loss:.3f}" + (f" ({each})" if len(epoch.losses) > 1 else "")
        if epoch.accuracy:
            length = monitor.rpartition(".")[2]
            shown = length if length in epoch.accuracy else list(epoch.accuracy)[-1]
            self._figures += f" · training.{shown} {epoch.accuracy[shown]:.4f}"
        if state.history.validated:
            last = state.history.validated[-1][1].value(monitor)
            self._figures += f" · {monitor} {last:.4f}"
        total = epoch.epoch * state.steps_per_epoch if state.stop else self.line.total
        self._move(msgspec.structs.replace(self.line, note=self._note(epoch.epoch, state), total=total))

    def on_end(self, state: TrainingState) -> None:
        """Ends the line."""
        del state
        self._move(msgspec.structs.replace(self.line, is_over=True))

    def _note(self, epoch: int, state: TrainingState) -> str:
        stage = f"{self.stage}, " if self.stage else ""
        return f"{stage}epoch {epoch} of {state.epochs}{self._figures}"

    def _move(self, line: Line) -> None:
        self.line = line
        self.show(line)


class ProgressBar(Progress):
    """A live line with epoch, loss and the monitored metric; used as a context, for one or many trainings.

    In a notebook it is an output of the cell; where nobody watches, a plain line every few seconds and one at the end.
    `Trainer.fit` shows one by itself where a person watches.

    Args:
        console: Where to draw; default: standard error.
        label: What is trained.
    """

    @checks_arguments
    def __init__(self, console: Console | None = None, label: str = "training") -> None:
        super().__init__(label)
        self.display = Display(Console(stderr=True) if console is None else console)

    def __enter__(self) -> ProgressBar:
        self.display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.display.__exit__(kind, error, trace)

    def show(self, line: Line, source: int = 0) -> None:
        """Draws the line of a training; of those elsewhere, `source` tells which process it is."""
        share = line.done / line.total if line.total else None
        self.display.show(line.label, line.note, share, source)
        if line.is_over:
            self.display.finish(source)


@contextmanager
def watched(callbacks: Sequence[Callback], progress: bool | None) -> Iterator[Sequence[Callback]]:
    """The callbacks, with a `ProgressBar` beside them where it is wanted; inside the block it is shown.

    Args:
        callbacks: Those of the caller; where one of them shows progress, none is added.
        progress: Whether to show it; None: where a person watches.
    """
    console = Console(stderr=True)
    wanted = is_watched(console) if progress is None else progress
    if not wanted or any(isinstance(callback, Progress) for callback in callbacks):
        yield callbacks
        return
    with ProgressBar(console) as bar:
        yield [*callbacks, bar]
