"""Progress of long work: live lines where a person watches, a plain line now and then elsewhere."""

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

PLAIN_EVERY = 5.0
"""Seconds between two lines where nobody watches; what ends sooner prints none."""

NOTEBOOK_EVERY = 0.1
"""Seconds between two updates of a notebook's output, each of which is a message to the browser."""


class ReportStep(Protocol):
    """Takes the name of the step that runs now, and the share of it that is done (None: not known)."""

    def __call__(self, step: str, share: float | None = None) -> None:
        """Reports the step."""
        ...


def no_report(step: str, share: float | None = None) -> None:
    """Shows nothing."""
    del step, share


def is_watched(console: Console) -> bool:
    """Whether a person watches: a terminal or a notebook."""
    return console.is_terminal or console.is_jupyter


class Display:
    """Shows what runs now, its step and the time since it began; used as a context.

    Where a person watches, each label has a live line. Elsewhere a plain line is printed every few seconds, also
    during a step that says nothing itself. What runs at the same time has a `source` each; of one source, a new
    label ends the one before.

    Args:
        console: Where to show it.
        every: Seconds between two plain lines.

    Example:
        >>> with Display(Console(quiet=True)) as display:
        ...     report = display.reporter("EASE")
        ...     report("counting", 0.5)
        ...     report("inverting", None)
    """

    def __init__(self, console: Console, every: float = PLAIN_EVERY) -> None:
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
        """Shows that `label` is at this step, and what share of the step is done, where that is known."""
        line = self._latest.get(source)
        if line is None or line.label != label or line.is_over:
            if line is not None and not line.is_over:
                line.end()
                self._shown.show(line)
            line = self._latest[source] = _Line(label)
        line.step, line.share = step, share
        self._shown.show(line)

    def finish(self, source: int = 0) -> None:
        """Shows that the latest label of a source is done; without it a new label or the end of all says so."""
        line = self._latest.get(source)
        if line is not None and not line.is_over:
            line.end()
            self._shown.finish(line)

    def reporter(self, label: str) -> ReportStep:
        """A function of step and share that shows them under this label."""

        def report(step: str, share: float | None = None) -> None:
            self.show(label, step, share)

        return report


def opened(progress: Display | bool) -> AbstractContextManager[Display]:
    """The display that a caller asked for: its own, already open, or one of ours.

    Args:
        progress: True: one that shows what runs where a person watches. False: one that shows nothing.
    """
    if isinstance(progress, Display):
        return nullcontext(progress)
    console = Console(stderr=True)
    return Display(console if progress and is_watched(console) else Console(quiet=True))


@dataclass(eq=False)
class _Line:
    """One thing that runs, or ran."""

    label: str
    step: str = ""
    share: float | None = None
    begun: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def is_over(self) -> bool:
        return self.ended is not None

    @property
    def text(self) -> str:
        done = "" if self.share is None else f" {self.share:.0%}"
        return f"{self.label}: {self.step}{done}, {(self.ended or time.monotonic()) - self.begun:.0f} s"

    def end(self) -> None:
        self.ended = time.monotonic()
        self.share = None if self.share is None else 1.0


class _Lines:
    """A way to show lines."""

    def start(self) -> None:
        """Before the first line."""

    def stop(self) -> None:
        """After the last."""

    def show(self, line: _Line) -> None:
        raise NotImplementedError

    def finish(self, line: _Line) -> None:
        """The line is over, and is worth saying."""
        self.show(line)


class _LiveLines(_Lines):
    """One live line for each label; the clock of a line stands still once it is over."""

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
    """The share that is done; nothing where nobody knows it."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:4.0%}")


class _Left(ProgressColumn):
    """The time that is left, by the latest speed; nothing where nobody knows it."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if task.finished or task.total is None or task.time_remaining is None:
            return Text("")
        minutes, seconds = divmod(int(task.time_remaining), 60)
        return Text(f"{minutes}:{seconds:02d} left")


class _NotebookLines(_Lines):
    """All lines in one output below the cell, replaced as they move on."""

    def __init__(self) -> None:
        self._output = Output()
        self._lines: dict[_Line, None] = {}
        self._updated = 0.0

    def stop(self) -> None:
        self._update()

    def show(self, line: _Line) -> None:
        self._lines[line] = None
        if time.monotonic() - self._updated >= NOTEBOOK_EVERY:
            self._update()

    def _update(self) -> None:
        if self._lines:
            self._output.show("\n".join(line.text for line in self._lines))
            self._updated = time.monotonic()


class _PlainLines(_Lines):
    """Prints every few seconds, from a thread of its own, where that which runs is."""

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
