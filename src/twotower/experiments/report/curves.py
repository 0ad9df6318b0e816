"""The pictures of a study: accuracy by epoch for every variant, and the score by a varied number."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from twotower.evaluation.baselines.names import NAMES
from twotower.evaluation.intervals import Interval, mean_interval
from twotower.evaluation.metrics import Scores, metric_label
from twotower.evaluation.outcomes import PROTOCOLS
from twotower.experiments.plans import shown
from twotower.experiments.report.page import LIGHT, LINES, Theme, svg
from twotower.experiments.results import Run, Study
from twotower.experiments.verdicts import strongest
from twotower.files import write_file

MAX_LABEL_LENGTH, NAMES_PER_ROW = 16, 3
"""If a name has more characters than fit beside a panel, all names go below the panels, this many in a row."""

TITLES = {"all": "nothing excluded", "unseen": "what the user has in train excluded"}


def write_curves(study: Study, folder: Path) -> None:
    """Writes curves.png and curves.svg."""
    picture = io.BytesIO()
    canvas = FigureCanvasAgg(draw_curves(study))
    canvas.print_png(picture, metadata={"Software": None})  # type: ignore[no-untyped-call]
    write_file(folder / "curves.png", picture.getvalue())
    write_file(folder / "curves.svg", svg(draw_curves(study), "curves"))


def draw_curves(study: Study, theme: Theme = LIGHT) -> Figure:
    """Draws one panel per protocol: a line for each variant (with its 95% band), dashed lines for baselines.

    The baselines are popularity, the strongest under the panel's protocol, and the oracle; a line for each would hide
    the curves. Variants whose recipe differs from that of the first run have no line, as the tutorial's curves are
    measured on test, the others' on validation.
    """
    first = study.cuts[0]
    part = "test" if study.curves_on == "test" else "validation, a part cut from train"
    figure, panels = _panels(
        f"{first.name}: {_title(study.metric)} over training",
        f"measured on {part} · split {first.split} ({first.fingerprint})",
        theme,
    )
    named_below = max(len(variant.name) for variant in study.variants) > MAX_LABEL_LENGTH
    if named_below:
        _name_below(figure, [variant.name for variant in study.variants], theme)
    for panel, protocol in zip(panels, PROTOCOLS, strict=True):
        baselines = study.baseline_scores(part=study.curves_on, cuts=[0])
        labels = _draw_baselines(panel, study, baselines, protocol, theme)
        for number, variant in enumerate(study.variants):
            runs = study.runs_of(number)
            if runs[0].outcome.recipe != study.runs[0].outcome.recipe:
                continue  # another recipe validates on another part
            colour = LINES[number % len(LINES)]
            level = _draw_variant(panel, runs, protocol, study.metric, colour)
            labels.append((level, f"{level:.3f}" if named_below else f"{variant.name} {level:.3f}", colour))
        panel.set_xlabel("epoch", color=theme.ink)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _finish(panel, protocol, labels, theme)
    return figure


def varied_number(study: Study) -> str | None:
    """The first varied key with at least three values, all numbers, which is worth a picture; None without one."""
    for key, values in study.varied.items():
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(numbers) == len(values) >= 3 and all(key in variant.values for variant in study.variants):
            return key
    return None


def draw_over_value(study: Study, key: str, theme: Theme = LIGHT) -> Figure:
    """Draws the test score by a varied number: a line, with its interval, for each combination of the other keys."""
    first, name = study.widest_cut, key.rpartition(".")[2].replace("_", " ")
    title = f"{first.name}: {_title(study.metric)} over {name}"
    figure, panels = _panels(title, f"measured on test · split {first.split}", theme)
    lines: dict[str, list[int]] = {}
    for number, variant in enumerate(study.variants):
        others = [shown(value) for other, value in variant.values.items() if other != key]
        lines.setdefault(", ".join(others), []).append(number)
    named_below = max(map(len, lines)) > MAX_LABEL_LENGTH
    if named_below:
        _name_below(figure, list(lines), theme)
    for panel, protocol in zip(panels, PROTOCOLS, strict=True):
        labels = []
        for (label, numbers), colour in zip(lines.items(), LINES * len(lines), strict=False):
            numbers = sorted(numbers, key=lambda number: study.variants[number].values[key])
            x = [study.variants[number].values[key] for number in numbers]
            found = [study.scores_of(number).interval(protocol, study.metric) for number in numbers]
            panel.plot(x, [one.mean for one in found], "o-", color=colour, linewidth=2.2, markersize=5)
            _draw_band(panel, x, found, colour)
            shown_label = f"{found[-1].mean:.3f}" if named_below else f"{label} {found[-1].mean:.3f}".strip()
            labels.append((found[-1].mean, shown_label, colour))
        values = study.varied[key]
        if min(values) > 0 and max(values) / min(values) >= 8:
            panel.set_xscale("log")
            panel.set_xticks(values, [shown(value) for value in values])
            panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel(name, color=theme.ink)
        _finish(panel, protocol, labels, theme)
    return figure


def _name_below(figure: Figure, names: Sequence[str], theme: Theme) -> None:
    """Puts the names of all lines below the panels, for names too long to fit beside them."""
    rows = math.ceil(len(names) / NAMES_PER_ROW)
    lines = [Line2D([], [], color=LINES[number % len(LINES)], linewidth=2.2) for number in range(len(names))]
    figure.set_size_inches(12, 5.2 + 0.3 * rows)
    figure.subplots_adjust(bottom=0.115 + 0.05 * rows)
    figure.legend(
        lines, names, loc="lower left", bbox_to_anchor=(0.04, 0.0), ncols=NAMES_PER_ROW, frameon=False,
        fontsize=9.5, labelcolor=theme.ink,
    )  # fmt: skip


def _panels(title: str, subtitle: str, theme: Theme) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(12, 5.2), dpi=160, facecolor=theme.paper)
    panels: Sequence[Axes] = figure.subplots(1, 2, sharex=True)
    figure.suptitle(title, x=0.045, y=0.975, ha="left", fontsize=15, fontweight="bold", color=theme.ink)
    figure.text(0.045, 0.885, subtitle, fontsize=10, color=theme.baseline)
    figure.subplots_adjust(left=0.05, right=0.885, top=0.79, bottom=0.115, wspace=0.42)
    return figure, panels


def _draw_baselines(
    panel: Axes, study: Study, baselines: dict[str, Scores], protocol: str, theme: Theme
) -> list[tuple[float, str, str]]:
    labels = []
    wanted = {"popularity", strongest(baselines, protocol, study.metric), "oracle"}
    for name in (name for name in NAMES if name in wanted and name in baselines):
        level = baselines[name].value(f"{protocol}.{study.metric}")
        panel.axhline(level, color=theme.baseline, linewidth=1.2, linestyle=(0, (5, 3)))
        labels.append((level, f"{NAMES[name]} {level:.3f}", theme.baseline))
    return labels


def _draw_variant(panel: Axes, runs: Sequence[Run], protocol: str, metric: str, colour: str) -> float:
    """Draws the mean over the trainings that reached each epoch; returns its last value."""
    by_epoch: dict[int, list[float]] = {}
    for run in runs:
        for point in run.outcome.curve:
            by_epoch.setdefault(point.epoch, []).append(getattr(point, protocol)[metric])
    epochs = sorted(by_epoch)
    intervals = [mean_interval(by_epoch[epoch]) for epoch in epochs]
    means = [interval.mean for interval in intervals]
    panel.plot(epochs, means, color=colour, linewidth=2.2, solid_capstyle="round")
    if len(runs) > 1:
        _draw_band(panel, epochs, intervals, colour)
    best = max(range(len(means)), key=means.__getitem__)
    panel.plot(epochs[best], means[best], "o", color=colour, markersize=6)
    return means[-1]


def _draw_band(panel: Axes, x: Sequence[float], intervals: Sequence[Interval], colour: str) -> None:
    """Draws intervals as a band, up to the ends of the metrics' range: from few trainings, intervals go beyond them."""
    low, high = [max(0.0, one.low) for one in intervals], [min(1.0, one.high) for one in intervals]
    panel.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def _finish(panel: Axes, protocol: str, labels: list[tuple[float, str, str]], theme: Theme) -> None:
    panel.set_title(f"{protocol}: {TITLES[protocol]}", loc="left", fontsize=11, color=theme.ink)
    panel.set_facecolor(theme.paper)
    panel.grid(axis="y", color=theme.faint, linewidth=0.6)
    panel.tick_params(colors=theme.ink, length=0)
    panel.margins(x=0.02, y=0.08)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(theme.faint)
    _write_labels(panel, labels)


def _title(metric: str) -> str:
    return f"{metric_label(metric)} accuracy" if metric.startswith("top_") else metric_label(metric)


def _write_labels(panel: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Writes each line's name beside its end, moved apart where names would overlap."""
    low, high = panel.get_ylim()
    apart = (high - low) * 0.055
    places: list[float] = []
    for level, _, _ in sorted(labels):
        places.append(max(level, places[-1] + apart) if places else level)
    if places and (excess := places[-1] - (high - apart / 2)) > 0:
        places[-1] -= excess
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - apart)
    style: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "va": "center",
        "fontsize": 9.5,
        "annotation_clip": False,
    }
    for place, (_, text, colour) in zip(places, sorted(labels), strict=True):
        panel.annotate(text, (1.015, place), color=colour, **style)
