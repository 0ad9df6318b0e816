"""The report of `store_load.py`: its measurements, what was not as promised, and its tables as Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from store_checks import OUTAGE, Contents, Phase


class Change(msgspec.Struct, frozen=True):
    """One change of models.

    Attributes:
        version: The new version.
        publish: Seconds to publish its vectors in the store.
        save: Seconds to save the bundle.
        takeover: Seconds from then until the service answered with the new version.
    """

    version: str
    publish: float
    save: float
    takeover: float


class Edit(msgspec.Struct, frozen=True):
    """One addition and one withdrawal.

    Attributes:
        add: Seconds until the addition returned.
        late: Number of answers after that without the new candidates.
        withdraw: Seconds until the withdrawal returned.
    """

    add: float
    late: int
    withdraw: float


class Outage(msgspec.Struct, frozen=True):
    """The outage of PostgreSQL.

    Attributes:
        down: Seconds from the kill until PostgreSQL was started again.
        database_ready: Seconds from then until it accepted connections.
        first_answer: Seconds from the start of PostgreSQL until the first answer with status 200.
        upserts: Number of upserts that had returned when the kill interrupted another.
        contents: What the store contained after the restart.
        compared: Number of answers from before that were compared with those after the restart.
        different: Number of those that differ.
    """

    down: float
    database_ready: float
    first_answer: float
    upserts: int
    contents: Contents
    compared: int
    different: int


class Report(msgspec.Struct, frozen=True):
    """All measurements."""

    phases: list[Phase]
    changes: list[Change]
    edits: list[Edit]
    outage: Outage

    def problems(self) -> list[str]:
        """What was not as promised."""
        problems = []
        for one in self.phases:
            if one.failures:
                problems.append(f"{one.name}: {one.failures} requests failed: {one.answers}")
            if one.mixed:
                problems.append(f"{one.name}: {one.mixed} answers mix versions")
            if one.withdrawn:
                problems.append(f"{one.name}: {one.withdrawn} answers have withdrawn candidates")
            if one.name == OUTAGE and not answers_with(one, "503"):
                problems.append(f"{one.name}: no request was refused")
        if late := sum(one.late for one in self.edits):
            problems.append(f"{late} answers after an addition lack the new candidates")
        contents = self.outage.contents
        if contents.lost or contents.unexpected or contents.changed or contents.interrupted == "torn":
            problems.append(f"after the restart, the store contains {msgspec.to_builtins(contents)}")
        if self.outage.different:
            problems.append(f"{self.outage.different} of {self.outage.compared} answers differ after the restart")
        return problems

    def tables(self) -> list[str]:
        """Phases and durations as Markdown."""
        changes, edits, outage = self.changes, self.edits, self.outage
        takeovers = [one.takeover for one in changes]
        durations = [
            (f"publish a model, median of {len(changes)}", median([one.publish for one in changes])),
            ("from the saved bundle to the first answer of the new model, median", median(takeovers)),
            ("the same, longest", max(takeovers)),
            (f"add two candidates, median of {len(edits)}", median([one.add for one in edits])),
            (f"withdraw two candidates, median of {len(edits)}", median([one.withdraw for one in edits])),
            ("from the start of PostgreSQL until it accepts connections", outage.database_ready),
            ("from the start of PostgreSQL to the first answer with 200", outage.first_answer),
        ]
        names = ("phase", "seconds", "requests", "200", "503", "failed", "mixed", "p50", "p99")
        phases = [_row(names), _rule(len(names)), *map(_phase_row, self.phases)]
        rows = [_row(("step", "seconds")), _rule(2), *(_row((name, f"{own:.2f}")) for name, own in durations)]
        return ["\n".join(phases), "\n".join(rows)]


def answers_with(phase: Phase, status: str) -> int:
    """Number of answers with a status, whatever their error code."""
    counts: Counter[str] = Counter()
    for name, count in phase.answers.items():
        counts[name.partition(" ")[0]] += count
    return counts[status]


def median(values: Sequence[float]) -> float:
    """The median."""
    return float(np.median(values))


def replace_tables(page: Path, tables: Sequence[str]) -> None:
    """Replaces the tables of a Markdown page that have the same header rows.

    Raises:
        SystemExit: The page has no such table.
    """
    text = page.read_text(encoding="utf-8")
    for table in tables:
        header = table.partition("\n")[0]
        found = re.findall(rf"{re.escape(header)}(?:\n\|.*)*", text)
        if len(found) != 1:
            raise SystemExit(f"{page} has {len(found)} tables {header}; expected 1")
        text = text.replace(found[0], table)
    page.write_text(text, encoding="utf-8")


def _phase_row(one: Phase) -> str:
    times = [f"{1000 * value:.1f} ms" for value in (one.latency.p50, one.latency.p99)] if one.latency else ["–"] * 2
    counts = (one.requests, answers_with(one, "200"), answers_with(one, "503"), one.failures, one.mixed)
    return _row((one.name, f"{one.seconds:.0f}", *(f"{count:,}" for count in counts), *times))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns
