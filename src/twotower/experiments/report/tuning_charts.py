"""The pictures of a tuning: scores by trial, and all trials in parallel coordinates."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from twotower.evaluation.metrics import metric_label
from twotower.experiments.plans import shown
from twotower.experiments.report.page import LIGHT, LINES, Theme
from twotower.experiments.tuning.results import Tuning
from twotower.experiments.tuning.trials import TrialRecord

BEST = LINES[1]


def draw_history(tuning: Tuning, theme: Theme) -> Figure:
    """Draws a dot per trial, the best score so far as a step line, and the built-in config as a dashed line."""
    figure = Figure(figsize=(12, 4.2), facecolor=theme.paper)
    panel = figure.subplots()
    accent = _accent(theme)
    _bare(panel, theme)
    scored = [(record, score) for record in tuning.trials if (score := record.so_far) is not None]
    for complete, edge, fill in ((True, accent, accent), (False, theme.baseline, "none")):
        points = [(one.number, score) for one, score in scored if (one.state == "complete") == complete]
        x, y = [number for number, _ in points], [score for _, score in points]
        panel.plot(x, y, "o", markersize=6, markeredgecolor=edge, markerfacecolor=fill, zorder=3)
    labels: list[tuple[float, str, str]] = []
    best, line = -math.inf, []
    for record in tuning.trials:
        best = max(best, -math.inf if record.score is None else record.score)
        line.append((record.number, best))
    if math.isfinite(best):
        panel.step(*zip(*line, strict=True), where="post", color=accent, linewidth=1.8)
        labels.append((best, f"best {best:.4f}", accent))
    if tuning.built_in is not None and (own := tuning.built_in.score) is not None:
        panel.axhline(own, color=theme.baseline, linewidth=1.2, linestyle=(0, (5, 3)))
        labels.append((own, f"built-in {own:.4f}", theme.baseline))
    low, high = panel.get_ylim()
    labels.sort(key=lambda label: label[0])
    close = len(labels) == 2 and labels[1][0] - labels[0][0] < 0.06 * (high - low)
    for (level, text, colour), side in zip(labels, ("top", "bottom"), strict=False):
        panel.annotate(
            text, (1.01, level), xycoords=("axes fraction", "data"), va=side if close else "center",
            color=colour, fontsize=9.5, annotation_clip=False,
        )  # fmt: skip
    panel.set_xlabel("trial", color=theme.ink)
    panel.set_title(
        f"{metric_label(tuning.metric)} on validation; hollow: stopped early", loc="left", fontsize=11, color=theme.ink
    )
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.subplots_adjust(left=0.05, right=0.875, top=0.89, bottom=0.125)
    return figure


def draw_parallel(tuning: Tuning, theme: Theme) -> Figure:
    """Draws a line per trial through its values, ending at its score on the right; the colour shows the score."""
    figure = Figure(figsize=(12, 4.6), facecolor=theme.paper)
    panel = figure.subplots()
    _bare(panel, theme)
    panel.grid(visible=False)
    panel.axis("off")
    records = sorted(
        _with_all_parameters(tuning), key=lambda one: (one.number == tuning.best.trial, one.so_far or 0.0)
    )  # the best is drawn last
    scores = [one.so_far or 0.0 for one in records]
    axes = [_axis(tuning.space[key], [one.parameters[key] for one in records]) for key in tuning.space]
    axes.append(_number_axis(min(scores), max(scores), log=False))
    names = [*(key.rpartition(".")[2].replace("_", " ") for key in tuning.space), metric_label(tuning.metric)]
    for x, (axis, name) in enumerate(zip(axes, names, strict=True)):
        panel.axvline(x, ymin=0.04, ymax=0.96, color=theme.faint, linewidth=1.0, zorder=1)
        panel.text(x, 1.09, textwrap.fill(name, 12), ha="center", va="bottom", fontsize=9.5, color=theme.ink)
        for place, text in axis.ticks:
            panel.text(
                x + 0.04, place, textwrap.fill(text, 15, break_long_words=False),
                va="center", fontsize=7.5, color=theme.ink, zorder=len(records) + 3,
                bbox={"facecolor": theme.paper, "alpha": 0.75, "pad": 0.6, "linewidth": 0},
            )  # fmt: skip
    colours = LinearSegmentedColormap.from_list("scores", [theme.faint, theme.faint, _accent(theme)])
    for rank, (record, score) in enumerate(zip(records, scores, strict=True), start=1):
        values = [*(record.parameters[key] for key in tuning.space), score]
        heights = [axis.place(value) for axis, value in zip(axes, values, strict=True)]
        best = record.number == tuning.best.trial
        colour = BEST if best else colours(rank / len(records))
        panel.plot(range(len(axes)), heights, color=colour, linewidth=2.6 if best else 1.1, zorder=2 + rank)
    panel.set_ylim(-0.05, 1.05)
    panel.set_xlim(-0.1, len(axes) - 0.35)
    figure.subplots_adjust(left=0.02, right=0.99, top=0.86, bottom=0.02)
    return figure


def can_draw_parallel(tuning: Tuning) -> bool:
    """Whether there are at least two trials to draw."""
    return len(_with_all_parameters(tuning)) > 1


class _Axis:
    """One vertical axis: the position of each value, from 0 to 1, and the labelled ticks."""

    def __init__(self, place: Callable[[Any], float], ticks: Sequence[tuple[float, str]]) -> None:
        self.place, self.ticks = place, ticks


def _axis(dimension: dict[str, Any], values: Sequence[Any]) -> _Axis:
    if "choices" not in dimension:
        return _number_axis(dimension["low"], dimension["high"], log=dimension["log"])
    choices = [value for value in dimension["choices"] if value in values]
    step = 1 / max(1, len(choices) - 1)
    return _Axis(
        lambda value: choices.index(value) * step, [(i * step, shown(value)) for i, value in enumerate(choices)]
    )


def _number_axis(low: float, high: float, *, log: bool) -> _Axis:
    def scale(value: float) -> float:
        return math.log(value) if log else value

    width = scale(high) - scale(low) or 1.0
    middle = math.sqrt(low * high) if log else (low + high) / 2

    def place(value: float) -> float:
        return (scale(value) - scale(low)) / width

    return _Axis(place, [(place(value), shown(value)) for value in dict.fromkeys((low, middle, high))])


def _accent(theme: Theme) -> str:
    """A blue that stands out against the background."""
    return LINES[0] if theme == LIGHT else LINES[4]


def _with_all_parameters(tuning: Tuning) -> list[TrialRecord]:
    return [one for one in tuning.trials if one.so_far is not None and len(one.parameters) == len(tuning.space)]


def _bare(panel: Axes, theme: Theme) -> None:
    panel.set_facecolor(theme.paper)
    panel.grid(axis="y", color=theme.faint, linewidth=0.6)
    panel.tick_params(colors=theme.ink, length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(theme.faint)
