"""The reliability curves of a study: predicted against actual values, for each task that predicts numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from twotower.evaluation.predictions import ReliabilityBin
from twotower.experiments.report.page import LIGHT, LINES, Picture, Theme
from twotower.experiments.results import Study

Curves = Mapping[str, Sequence[ReliabilityBin]]
"""Maps names of variants to curves."""

MARGIN = 0.05
"""Free space at either end of the axes, as a share of the range of the values."""


@dataclass(frozen=True)
class Reliability:
    """The name of a task and its picture."""

    task: str
    svg: Picture


def reliability_pictures(study: Study) -> list[Reliability]:
    """A picture for each task with reliability curves: one line per variant, from its first training."""
    found: dict[str, dict[str, Sequence[ReliabilityBin]]] = {}
    for number, variant in enumerate(study.variants):
        for one in study.runs_of(number)[0].outcome.tasks:
            if one.model.reliability:
                found.setdefault(one.task, {})[variant.name] = one.model.reliability
    return [
        Reliability(task, Picture.of(partial(draw_reliability, curves), f"reliability {task}"))
        for task, curves in found.items()
    ]


def draw_reliability(curves: Curves, theme: Theme = LIGHT) -> Figure:
    """Draws the mean target over the mean prediction, one point per bin of events.

    Both axes have the same scale. On the dashed diagonal predictions match the targets; below it they are too high.
    """
    figure = Figure(figsize=(6, 5.4), dpi=160, facecolor=theme.paper)
    panel = figure.add_axes((0.13, 0.11, 0.84, 0.85))
    numbers = [number for curve in curves.values() for one in curve for number in (one.predicted, one.actual)]
    low, high = min(numbers), max(numbers)
    free = MARGIN * (high - low) or 0.5
    ends = (low - free, high + free)
    panel.plot(ends, ends, color=theme.baseline, linewidth=1.2, linestyle=(0, (5, 3)))
    for (name, curve), colour in zip(curves.items(), LINES * len(curves), strict=False):
        predicted, actual = [one.predicted for one in curve], [one.actual for one in curve]
        panel.plot(predicted, actual, "o-", color=colour, linewidth=2.2, markersize=5, label=name)
    panel.set_xlim(ends)
    panel.set_ylim(ends)
    panel.set_aspect("equal")
    panel.set_xlabel("predicted", color=theme.ink)
    panel.set_ylabel("actual", color=theme.ink)
    panel.legend(loc="upper left", frameon=False, fontsize=9.5, labelcolor=theme.ink)
    panel.set_facecolor(theme.paper)
    panel.grid(color=theme.faint, linewidth=0.6)
    panel.tick_params(colors=theme.ink, length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(theme.faint)
    return figure
