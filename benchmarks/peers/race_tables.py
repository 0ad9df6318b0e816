"""The results of the race, and their tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec


class Point(msgspec.Struct, frozen=True):
    """One lap.

    Attributes:
        seconds: Seconds of training so far.
        epochs: Epochs so far.
        score: The score on test.
    """

    seconds: float
    epochs: float
    score: float


class Outcome(msgspec.Struct, frozen=True):
    """One runner on one log.

    Attributes:
        name: Its name.
        package: The package whose version is shown.
        versions: Versions of what it ran with.
        settings: Its settings.
        points: Its laps.
        remark: What went wrong; None if nothing.
    """

    name: str
    package: str
    versions: dict[str, str] = {}
    settings: dict[str, Any] = {}
    points: list[Point] = []
    remark: str | None = None

    @property
    def best(self) -> Point:
        """The lap with the best score; the first of several."""
        return max(self.points, key=lambda point: point.score)

    def first_at(self, score: float) -> Point | None:
        """The first lap with at least this score; None if there is none."""
        return next((point for point in self.points if point.score >= score), None)


class Heat(msgspec.Struct, frozen=True):
    """All runners on one log.

    Attributes:
        log: Name of the log.
        metric: Name of the score.
        rule: How it was split.
        fingerprint: Fingerprint of the split.
        events: Number of events in train and test.
        users: Number of users.
        items: Number of items.
        target: The score to reach: the best of the tutorial's model; None if that did not run.
        outcomes: The runners.
    """

    log: str
    metric: str
    rule: str
    fingerprint: str
    events: int
    users: int
    items: int
    target: float | None
    outcomes: list[Outcome]


def markdown(heats: Sequence[Heat]) -> str:
    """A heading, a table and the remarks for each log."""
    return "\n\n".join(_heat(heat) for heat in heats)


def _heat(heat: Heat) -> str:
    goal = "the target" if heat.target is None else f"{heat.target:.4f}"
    lines = [
        f"### {heat.log}: {heat.metric}",
        "",
        f"{heat.events:,} events, {heat.users:,} users, {heat.items:,} items; split: {heat.rule}.",
        "",
        f"| | version | best | seconds to its best | seconds to {goal} | epochs |",
        "|---|---|---|---|---|---|",
        *(_row(outcome, heat.target) for outcome in heat.outcomes),
    ]
    if remarks := [f"- {one.name}: {one.remark}." for one in heat.outcomes if one.remark]:
        lines += ["", *remarks]
    return "\n".join(lines)


def _row(outcome: Outcome, target: float | None) -> str:
    name = f"**{outcome.name}**" if outcome.package == "twotower" else outcome.name
    version = outcome.versions.get(outcome.package, "–").partition("+")[0]
    if not outcome.points:
        return f"| {name} | {version} | – | – | – | – |"
    best, first = outcome.best, None if target is None else outcome.first_at(target)
    reached = "not reached" if first is None else figures(first.seconds)
    epochs = figures(outcome.points[-1].epochs)
    return f"| {name} | {version} | {best.score:.4f} | {figures(best.seconds)} | {reached} | {epochs} |"


def figures(value: float) -> str:
    """A number with two digits, or all digits before the point if these are more."""
    digits = 0 if value >= 10 or value <= 0 else 1 - math.floor(math.log10(value))
    return f"{value:,.{digits}f}"
