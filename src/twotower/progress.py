"""Progress of long work: live lines where a person watches, a plain line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

PLAIN_EVERY = 5.0
"""Seconds between two lines where the output is no terminal; what ends sooner prints none."""


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
    during a step that says nothing itself.

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
        self._shown: _Lines = _LiveLines(console) if is_watched(console) else _PlainLines(console, every)

    def __enter__(self) -> Display:
        self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.stop()

    def show(self, label: str, step: str, share: float | None = None) -> None:
        """Shows that `label` is at this step, and what share of the step is done, where that is known."""
        self._shown.show(label, step, share)

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


class _Lines:
    """A way to show lines."""

    def start(self) -> None:
        """Before the first line."""

    def stop(self) -> None:
        """After the last."""

    def show(self, label: str, step: str, share: float | None) -> None:
        raise NotImplementedError


class _LiveLines(_Lines):
    """One live line for each label; the clock of a line stands still once the next label has begun."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            _Share(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[step]}", markup=False),
            console=console,
            transient=True,
        )
        self._label = ""
        self._task = self._bars.add_task("", start=False, visible=False, step="")

    def start(self) -> None:
        self._bars.start()

    def stop(self) -> None:
        self._bars.stop()

    def show(self, label: str, step: str, share: float | None) -> None:
        if label != self._label:
            self._bars.update(self._task, total=1.0, completed=1.0, step="")  # a finished task's clock stands still
            self._label, self._task = label, self._bars.add_task(label, total=None, step=step)
        total = None if share is None else 1.0
        self._bars.update(self._task, total=total, completed=min(share or 0.0, 0.999), step=step)


class _Share(ProgressColumn):
    """The share that is done; nothing where nobody knows it."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:4.0%}")


class _PlainLines(_Lines):
    """Prints the latest step every few seconds, from a thread of its own."""

    def __init__(self, console: Console, every: float) -> None:
        self._console, self._every = console, every
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._run, daemon=True, name="twotower-progress")
        self._latest: tuple[str, str, float | None] | None = None
        self._begun = 0.0

    def start(self) -> None:
        self._clock.start()

    def stop(self) -> None:
        self._ended.set()
        self._clock.join()

    def show(self, label: str, step: str, share: float | None) -> None:
        if self._latest is None or self._latest[0] != label:
            self._begun = time.monotonic()
        self._latest = label, step, share

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            if self._latest is not None:
                label, step, share = self._latest
                done = "" if share is None else f" {share:.0%}"
                elapsed = time.monotonic() - self._begun
                self._console.print(
                    f"{label}: {step}{done}, {elapsed:.0f} s", highlight=False, markup=False, soft_wrap=True
                )
