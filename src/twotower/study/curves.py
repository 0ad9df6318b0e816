"""The curves of a study: accuracy over epochs for every depth, with some of the baselines as lines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import msgspec
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from twotower.evaluation.baselines.names import NAMES
from twotower.evaluation.intervals import mean_interval
from twotower.files import write_file
from twotower.study.results import Study
from twotower.study.summary import PROTOCOLS, Depth, by_depth, strongest

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's palette, told apart by colour-blind eyes."""

TITLES = {"all": "nothing excluded", "unseen": "what the user has in train excluded"}


class Theme(msgspec.Struct, frozen=True):
    """Colours of one picture."""

    paper: str
    ink: str
    faint: str
    baseline: str


LIGHT = Theme(paper="#ffffff", ink="#1c1c1c", faint="#dddddd", baseline="#666666")
DARK = Theme(paper="#16181c", ink="#e8e8e8", faint="#3a3d44", baseline="#a0a4ab")


def write_curves(study: Study, folder: Path) -> None:
    """Writes curves.png and curves.svg."""
    picture = io.BytesIO()
    canvas = FigureCanvasAgg(draw_curves(study))
    canvas.print_png(picture, metadata={"Software": None})  # type: ignore[no-untyped-call]
    write_file(folder / "curves.png", picture.getvalue())
    write_file(folder / "curves.svg", curves_svg(study))


def curves_svg(study: Study, theme: Theme = LIGHT) -> str:
    """The picture as SVG: the same text for the same study."""
    picture = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": f"twotower {theme.paper}", "svg.fonttype": "none"}):
        FigureCanvasSVG(draw_curves(study, theme)).print_svg(  # type: ignore[no-untyped-call]
            picture, metadata={"Date": None, "Creator": None}
        )
    return picture.getvalue().decode()


def draw_curves(study: Study, theme: Theme = LIGHT) -> Figure:
    """One panel for each protocol: a line a depth (with its 95% band over seeds), dashed lines for the baselines.

    Of these it shows popularity, the one that is the strongest under the panel's protocol and the oracle: a line
    for each would hide the curves.
    """
    figure = Figure(figsize=(12, 5.2), dpi=160, facecolor=theme.paper)
    axes: Sequence[Axes] = figure.subplots(1, 2, sharex=True)
    part = "test" if study.curves_on == "test" else "validation, a part cut from train"
    figure.suptitle(
        f"{study.data.name}: {study.metric.replace('_', '-')} accuracy over training",
        x=0.045, y=0.975, ha="left", fontsize=15, fontweight="bold", color=theme.ink,
    )  # fmt: skip
    figure.text(
        0.045, 0.885, f"measured on {part} · split {study.data.split} ({study.data.fingerprint})",
        fontsize=10, color=theme.baseline,
    )  # fmt: skip
    for panel, protocol in zip(axes, PROTOCOLS, strict=True):
        _draw_panel(panel, study, protocol, theme)
    figure.subplots_adjust(left=0.05, right=0.885, top=0.79, bottom=0.115, wspace=0.42)
    return figure


def _draw_panel(panel: Axes, study: Study, protocol: str, theme: Theme) -> None:
    labels: list[tuple[float, str, str]] = []
    shown = {"popularity", strongest(study.curve_baselines, protocol, study.metric), "oracle"}
    for name in (name for name in NAMES if name in shown and name in study.curve_baselines):
        level = study.curve_baselines[name].value(f"{protocol}.{study.metric}")
        panel.axhline(level, color=theme.baseline, linewidth=1.2, linestyle=(0, (5, 3)))
        labels.append((level, f"{NAMES[name]} {level:.3f}", theme.baseline))
    for depth, colour in zip(by_depth(study.runs), LINES * len(study.runs), strict=False):
        level = _draw_depth(panel, depth, protocol, study.metric, colour)
        labels.append((level, f"{depth.label} {level:.3f}", colour))
    panel.set_title(f"{protocol}: {TITLES[protocol]}", loc="left", fontsize=11, color=theme.ink)
    panel.set_xlabel("epoch", color=theme.ink)
    panel.set_facecolor(theme.paper)
    panel.grid(axis="y", color=theme.faint, linewidth=0.6)
    panel.tick_params(colors=theme.ink, length=0)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panel.margins(x=0.02, y=0.08)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(theme.faint)
    _write_labels(panel, labels)


def _draw_depth(panel: Axes, depth: Depth, protocol: str, metric: str, colour: str) -> float:
    """Draws the mean over the seeds that reached each epoch; gives its last value."""
    by_epoch: dict[int, list[float]] = {}
    for run in depth.runs:
        for point in run.history:
            by_epoch.setdefault(point.epoch, []).append(getattr(point, protocol)[metric])
    epochs = sorted(by_epoch)
    intervals = [mean_interval(by_epoch[epoch]) for epoch in epochs]
    means = [interval.mean for interval in intervals]
    panel.plot(epochs, means, color=colour, linewidth=2.2, solid_capstyle="round")
    if len(depth.runs) > 1:
        panel.fill_between(
            epochs, [i.low for i in intervals], [i.high for i in intervals], color=colour, alpha=0.18, linewidth=0
        )
    best = max(range(len(means)), key=means.__getitem__)
    panel.plot(epochs[best], means[best], "o", color=colour, markersize=6)
    return means[-1]


def _write_labels(panel: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Writes each line's name beside its end, moved apart where two would touch."""
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
