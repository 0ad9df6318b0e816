"""Callbacks that observe training, one concern each; progress is one of them."""

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
from twotower.evaluation.metrics import metric_label
from twotower.model.two_tower import TwoTower
from twotower.progress import Display, is_watched
from twotower.ranks import ALONE, Ranks
from twotower.training.settings import TrainerSettings


@dataclass
class TrainingState:
    """The state of a training; callbacks read it, and may stop the training.

    Attributes:
        model: The model with its current weights.
        settings: The trainer's settings.
        optimizer: The optimiser.
        history: The epochs so far.
        epochs: Number of the last epoch to train.
        steps_per_epoch: Batches per epoch.
        step: Batches done in this epoch.
        stop: Set to True to stop after this epoch.
        ranks: The ranks that train together, with this rank's `traffic`; only the first one calls callbacks.
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
    """Base class of callbacks: its methods do nothing, and subclasses override those they need.

    Example:
        >>> class StopAtLoss(Callback):
        ...     def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        ...         state.stop = epoch.loss < 1.0
    """

    def on_start(self, state: TrainingState) -> None:
        """Called before the first epoch, also when training resumes."""

    def on_step(self, state: TrainingState) -> None:
        """Called after each batch."""

    def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        """Called after each epoch and its validation."""

    def on_end(self, state: TrainingState) -> None:
        """Called after the last epoch, when the model has its final weights."""

    def on_failure(self, state: TrainingState, error: BaseException) -> None:
        """Called instead of `on_end` if an error or an interruption ended the training."""


class Line(msgspec.Struct, frozen=True):
    """Progress of one training.

    Attributes:
        training: Number of the training, among those that one `Progress` has observed.
        label: What is being trained.
        done: Batches so far.
        total: Total number of batches.
        note: The epoch and the latest metrics.
        is_over: Whether the training has ended.
    """

    training: int
    label: str
    done: int
    total: int
    note: str = ""
    is_over: bool = False


class Progress(Callback):
    """Tracks the progress of consecutive trainings; a subclass shows it.

    Args:
        label: What is being trained.

    Attributes:
        stage: Name of the current training, if there are several; otherwise empty.
    """

    def __init__(self, label: str = "training") -> None:
        self.label, self.stage = label, ""
        self.line = Line(0, label, 0, 0)
        self._figures = ""

    @property
    def name(self) -> str:
        """The label, followed by the stage if there is one."""
        return f"{self.label}, {self.stage}" if self.stage else self.label

    def show(self, line: Line) -> None:
        """Shows the progress of a training."""
        raise NotImplementedError

    def on_start(self, state: TrainingState) -> None:
        """Starts a line."""
        self._figures = ""
        total = state.epochs * state.steps_per_epoch
        done = len(state.history.epochs) * state.steps_per_epoch
        self._move(Line(self.line.training + 1, self.label, done, total))

    def on_step(self, state: TrainingState) -> None:
        """Advances the line."""
        before = len(state.history.epochs)
        done = before * state.steps_per_epoch + state.step
        self._move(msgspec.structs.replace(self.line, done=done, note=self._note(before + 1, state)))

    def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        """Shows the epoch's metrics."""
        monitor = state.history.monitor
        each = ", ".join(f"{task} {loss:.3f}" for task, loss in epoch.losses.items())
        self._figures = f" · loss {epoch.loss:.3f}" + (f" ({each})" if len(epoch.losses) > 1 else "")
        if epoch.accuracy:
            length = monitor.rpartition(".")[2]
            shown = length if length in epoch.accuracy else list(epoch.accuracy)[-1]
            self._figures += f" · training {metric_label(shown)} {epoch.accuracy[shown]:.4f}"
        if state.history.validated:
            last = state.history.validated[-1][1].value(monitor)
            self._figures += f" · {metric_label(monitor)} {last:.4f}"
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
    """A live line with epoch, loss and monitored metric; a context manager that serves one or more trainings.

    In a notebook it is an output of the cell. If the console is neither a terminal nor a notebook, it prints a plain
    line every few seconds and one at the end. `Trainer.fit` shows one by default in terminals and notebooks.

    Args:
        console: Where to draw; default: standard error.
        label: What is being trained.
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
        """Draws a training's line; `source` is the number of the process if trainings run in several."""
        share = line.done / line.total if line.total else None
        self.display.show(line.label, line.note, share, source)
        if line.is_over:
            self.display.finish(source)


@contextmanager
def watched(callbacks: Sequence[Callback], progress: bool | None) -> Iterator[Sequence[Callback]]:
    """Adds a `ProgressBar` to the callbacks if wanted, and shows it during the block.

    Args:
        callbacks: The caller's callbacks; if one of them shows progress, no bar is added.
        progress: Whether to show progress; None shows it in terminals and notebooks.
    """
    console = Console(stderr=True)
    wanted = is_watched(console) if progress is None else progress
    if not wanted or any(isinstance(callback, Progress) for callback in callbacks):
        yield callbacks
        return
    with ProgressBar(console) as bar:
        yield [*callbacks, bar]
