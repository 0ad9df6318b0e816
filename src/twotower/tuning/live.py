"""What a tuning shows while it runs: its latest trials, the best so far, and the time left."""

from __future__ import annotations

import time
from types import TracebackType

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from twotower.progress import Display
from twotower.tuning.budget import Budget
from twotower.tuning.database import Database
from twotower.tuning.results import TrialRecord, best_of, shown_changes
from twotower.tuning.space import SearchSpace

ROWS = 12
EVERY_SECONDS = 1.0
STYLES = {"running": "cyan", "pruned": "dim", "failed": "red", "interrupted": "dim"}


class LiveTable:
    """Draws itself again when asked to; used as a context. Where there is no terminal it prints a line now and then.

    Args:
        console: Where to draw.
        database: Where the trials are.
        space: What they are drawn from.
        budget: What is left of it is shown.
    """

    def __init__(self, console: Console, database: Database, space: SearchSpace, budget: Budget) -> None:
        self.console, self.database, self.space, self.budget = console, database, space, budget
        self._live = Live(console=console, auto_refresh=False)
        self._lines = Display(console)
        self._drawn = 0.0

    def __enter__(self) -> LiveTable:
        if self.console.is_terminal:
            self._live.start()
        else:
            self._lines.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._drawn = 0.0
            self.update()
            self._live.stop()
        else:
            self._lines.__exit__(kind, error, trace)

    def update(self) -> None:
        """Draws what is known now, unless that was done a moment ago."""
        if time.monotonic() - self._drawn <= EVERY_SECONDS:
            return
        records = [TrialRecord.of(trial, self.space) for trial in self.database.trials()]
        if self.console.is_terminal:
            self._live.update(trials_table(records, self.budget, time.time()), refresh=True)
        else:
            self._lines.show("tuning", status(records, self.budget, time.time()))
        self._drawn = time.monotonic()


def trials_table(records: list[TrialRecord], budget: Budget, now: float) -> Table:
    """The latest trials, the best one marked.

    Args:
        records: All trials.
        budget: What the command may spend.
        now: In seconds since 1970.
    """
    begun = [record for record in records if record.state != "waiting"]
    best = best_of(begun)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("trial", "state", "epochs", "score"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    table.add_column("what differs")
    for record in begun[-ROWS:]:
        mark = " ★" if record is best else ""
        score = "" if record.so_far is None else f"{record.so_far:.4f}"
        differs = (record.reason or "") if record.state == "failed" else shown_changes(record)
        table.add_row(
            str(record.number),
            record.state + mark,
            str(max(record.epochs, default=0)),
            score,
            escape(differs),
            style="bold" if record is best else STYLES.get(record.state),
        )
    table.caption, table.caption_justify = status(records, budget, now), "left"
    return table


def status(records: list[TrialRecord], budget: Budget, now: float) -> str:
    """How many trials have ended, the best so far, and the time left, in a line."""
    best = best_of([record for record in records if record.state != "waiting"])
    finished = sum(record.state in ("complete", "pruned", "failed") for record in records)
    parts = [f"{finished} of {budget.trials} trials" if budget.trials is not None else f"{finished} trials"]
    if best is not None:
        parts.append(f"best so far {best.score:.4f} (trial {best.number})")
    if budget.end is not None:
        minutes, seconds = divmod(max(0, round(budget.end - now)), 60)
        parts.append(f"{minutes}:{seconds:02d} left, final training included")
    return " · ".join(parts)
