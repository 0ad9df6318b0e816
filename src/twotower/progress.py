"""Progress of long work: live lines in terminals and notebooks, plain lines at intervals elsewhere."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from twotower.notebooks import Output

PLAIN_INTERVAL = 5.0
"""Seconds between plain lines; work that ends sooner prints none."""

LEAST_SHARE = 0.02
"""The time left is shown once this share of a step was done."""

NOTEBOOK_INTERVAL = 0.1
"""Seconds between updates of a notebook's output; each update is a message to the browser."""


class ReportStep(Protocol):
    """Receives the name of the current step and the fraction of it that is done (None if unknown)."""

    def __call__(self, step: str, share: float | None = None) -> None:
        """Reports the step."""
        ...


def no_report(step: str, share: float | None = None) -> None:
    """Shows nothing."""
    del step, share


def is_watched(console: Console) -> bool:
    """Whether the console is a terminal or a notebook, so that a person sees live updates."""
    return console.is_terminal or console.is_jupyter


class Display:
    """Shows running work, its step and elapsed time; use it as a context manager.

    In a terminal or notebook, each label has a live line. Elsewhere a plain line is printed every few seconds, even
    during a step that reports nothing. Concurrent work needs one `source` each; within a source, a new label ends the
    previous one.

    Args:
        console: Where to show it.
        every: Seconds between plain lines.

    Example:
        >>> with Display(Console(quiet=True)) as display:
        ...     report = display.reporter("EASE")
        ...     report("counting", 0.5)
        ...     report("inverting", None)
    """

    def __init__(self, console: Console, every: float = PLAIN_INTERVAL) -> None:
        self._latest: dict[int, _Line] = {}
        self._shown: _Lines = _PlainLines(console, every)
        if console.is_jupyter:
            self._shown = _NotebookLines()
        elif console.is_terminal:
            self._shown = _LiveLines(console)

    def __enter__(self) -> Display:
        self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self._latest.values():
            if kind is None and not line.is_over:
                line.end()
                self._shown.show(line)
        self._shown.stop()

    def show(self, label: str, step: str, share: float | None = None, source: int = 0) -> None:
        """Shows the current step of `label`, and the fraction of the step that is done if known."""
        line = self._latest.get(source)
        if line is None or line.label != label or line.is_over:
            if line is not None and not line.is_over:
                line.end()
                self._shown.show(line)
            line = self._latest[source] = _Line(label)
        line.move(step, share)
        self._shown.show(line)

    def finish(self, source: int = 0) -> None:
        """Marks the latest label of a source as done; optional, since a new label or the end of the block also does."""
        line = self._latest.get(source)
        if line is not None and not line.is_over:
            line.end()
            self._shown.finish(line)

    def reporter(self, label: str) -> ReportStep:
        """A function that shows a step and its share under this label."""

        def report(step: str, share: float | None = None) -> None:
            self.show(label, step, share)

        return report


def opened(progress: Display | bool) -> AbstractContextManager[Display]:
    """The caller's own display, already open, or a new one.

    Args:
        progress: A display to reuse; True for a new one that shows progress in terminals and notebooks only; False for
            one that shows nothing.
    """
    if isinstance(progress, Display):
        return nullcontext(progress)
    console = Console(stderr=True)
    return Display(console if progress and is_watched(console) else Console(quiet=True))


def duration(seconds: float) -> str:
    """A rough duration.

    Example:
        >>> duration(42.4), duration(130), duration(5400)
        ('42 s', '2 min', '1.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass(eq=False)
class _Line:
    """One piece of work, running or finished."""

    label: str
    step: str = ""
    share: float | None = None
    begun: float = field(default_factory=time.monotonic)
    ended: float | None = None
    _from: tuple[float, float] | None = None
    """When the current step's share was first known, and what it was."""

    def move(self, step: str, share: float | None) -> None:
        """Moves on to a step and the share of it that is done."""
        if share is None:
            self._from = None
        elif self._from is None or self.share is None or share < self.share:  # the share of another step
            self._from = time.monotonic(), share
        self.step, self.share = step, share

    @property
    def is_over(self) -> bool:
        return self.ended is not None

    @property
    def text(self) -> str:
        done = "" if self.share is None else f" {self.share:.0%}"
        now = self.ended or time.monotonic()
        return f"{self.label}: {self.step}{done}, {now - self.begun:.0f} s{self._left(now)}"

    def _left(self, now: float) -> str:
        """The time left for the current step at its speed so far; nothing if that is unknown."""
        if self.is_over or self.share is None or self._from is None:
            return ""
        since, at_first = self._from
        if self.share >= 1 or self.share - at_first < LEAST_SHARE:
            return ""
        return f", about {duration((now - since) * (1 - self.share) / (self.share - at_first))} left"

    def end(self) -> None:
        self.ended = time.monotonic()
        self.share = None if self.share is None else 1.0


class _Lines:
    """Base class: shows lines in one kind of output."""

    def start(self) -> None:
        """Called before the first line."""

    def stop(self) -> None:
        """Called after the last line."""

    def show(self, line: _Line) -> None:
        raise NotImplementedError

    def finish(self, line: _Line) -> None:
        """Shows a finished line, also where running lines are shown only at intervals."""
        self.show(line)


class _LiveLines(_Lines):
    """One live line per label; a line's clock stops when its work ends."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            _Share(),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            _Left(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[step]}", markup=False),
            console=console,
        )
        self._tasks: dict[_Line, TaskID] = {}

    def start(self) -> None:
        self._bars.start()

    def stop(self) -> None:
        self._bars.stop()

    def show(self, line: _Line) -> None:
        if line not in self._tasks:
            self._tasks[line] = self._bars.add_task(line.label, total=None, step=line.step)
        if line.is_over:
            self._bars.update(self._tasks[line], total=1.0, completed=1.0, step=line.step)
            return
        total = None if line.share is None else 1.0
        self._bars.update(self._tasks[line], total=total, completed=min(line.share or 0.0, 0.999), step=line.step)


class _Share(ProgressColumn):
    """The percentage that is done; blank if unknown."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:4.0%}")


class _Left(ProgressColumn):
    """The time left at the current speed; blank if unknown."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if task.finished or task.total is None or task.time_remaining is None:
            return Text("")
        minutes, seconds = divmod(int(task.time_remaining), 60)
        return Text(f"{minutes}:{seconds:02d} left")


class _NotebookLines(_Lines):
    """All lines in one output below the cell, updated in place."""

    def __init__(self) -> None:
        self._output = Output()
        self._lines: dict[_Line, None] = {}
        self._updated = 0.0

    def stop(self) -> None:
        self._update()

    def show(self, line: _Line) -> None:
        self._lines[line] = None
        if time.monotonic() - self._updated >= NOTEBOOK_INTERVAL:
            self._update()

    def _update(self) -> None:
        if self._lines:
            self._output.show("\n".join(line.text for line in self._lines))
            self._updated = time.monotonic()


class _PlainLines(_Lines):
    """Prints the running lines every few seconds from a separate thread."""

    def __init__(self, console: Console, every: float) -> None:
        self._console, self._every = console, every
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._run, daemon=True, name="twotower-progress")
        self._running: dict[_Line, None] = {}

    def start(self) -> None:
        self._clock.start()

    def stop(self) -> None:
        self._ended.set()
        self._clock.join()

    def show(self, line: _Line) -> None:
        if line.is_over:
            self._running.pop(line, None)
        else:
            self._running[line] = None

    def finish(self, line: _Line) -> None:
        self.show(line)
        self._print(line)

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            for line in list(self._running):
                self._print(line)

    def _print(self, line: _Line) -> None:
        self._console.print(line.text, highlight=False, markup=False, soft_wrap=True)
