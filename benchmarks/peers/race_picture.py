"""The picture of the race: a panel for each log, a line for each runner."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from race_tables import Heat, Outcome

from twotower.experiments.report.page import LIGHT, LINES
from twotower.files import write_file

OURS = LINES[0]
OTHERS = (*LINES[1:], LIGHT.baseline)


def draw(heats: Sequence[Heat], path: Path) -> None:
    """Plots scores by seconds of training on a logarithmic axis, and marks where each line reaches the target."""
    figure = Figure(figsize=(6.5 * max(len(heats), 1), 5.5), dpi=160, facecolor=LIGHT.paper, layout="constrained")
    panels = figure.subplots(1, max(len(heats), 1), squeeze=False)[0]
    for heat, axes in zip(heats, panels, strict=False):
        colours = iter(OTHERS)
        for outcome in heat.outcomes:
            is_ours = outcome.package == "twotower"
            colour = OURS if is_ours else next(colours, LIGHT.baseline)
            if outcome.points:
                _line(axes, outcome, heat.target, colour, is_ours)
        if heat.target is not None:
            axes.axhline(heat.target, color=LIGHT.baseline, linewidth=1, linestyle=":")
        axes.set(xscale="log", ylim=(0, None), xlabel="seconds of training", ylabel=f"{heat.metric}, test")
        axes.set_title(heat.log, loc="left", fontweight="bold", color=LIGHT.ink)
        axes.grid(color=LIGHT.faint)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    lines: dict[str, Any] = {}
    for axes in panels:
        lines |= {label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=4, frameon=False)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})  # type: ignore[no-untyped-call]
    write_file(path, picture.getvalue())


def _line(axes: Any, outcome: Outcome, target: float | None, colour: str, is_ours: bool) -> None:
    axes.plot(
        [point.seconds for point in outcome.points],
        [point.score for point in outcome.points],
        color=colour,
        linewidth=3 if is_ours else 1.4,
        linestyle="--" if "tutorial" in outcome.name else "-",
        zorder=3 if is_ours else 2,
        label=outcome.name,
    )
    if target is not None and (first := outcome.first_at(target)) is not None:
        axes.plot(first.seconds, first.score, "o", color=colour, markersize=7 if is_ours else 5, zorder=4)
