"""A study's results as a table for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from twotower.evaluation.baselines.names import FLOORS, NAMES
from twotower.evaluation.intervals import Interval
from twotower.study.results import Study
from twotower.study.summary import PROTOCOLS, best_depth, by_depth

SHOWN = ("top_10", "top_100")
"""Metrics of the terminal's table, which has to fit in 80 columns; the report has them all."""


def results_table(study: Study) -> Table:
    """Baselines and depths beside each other; the best depth in bold, what does not beat popularity marked."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("", "best\nepoch", "train\nseconds"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    metrics = [metric for metric in SHOWN if metric in study.runs[0].final.all]
    for protocol in PROTOCOLS:
        for metric in metrics:
            table.add_column(f"{protocol}\n{metric.replace('_', '-')}", justify="right", no_wrap=True)
    depths = by_depth(study.runs)
    best = best_depth(study.runs, study.metric)
    for name in FLOORS:
        if name in study.baselines:
            table.add_row(*_baseline_row(study, name, metrics))
    floor, marked = study.baselines.get("popularity"), False
    for depth in depths:
        cells = [
            depth.label,
            _range([run.best_epoch for run in depth.runs]),
            f"{sum(run.seconds.train for run in depth.runs):.1f}",
        ]
        for protocol in PROTOCOLS:
            for metric in metrics:
                interval = depth.interval(protocol, metric)
                below = floor is not None and interval.mean <= getattr(floor, protocol)[metric]
                marked |= below
                cells.append(_short(interval) + (" ▾" if below else ""))
        table.add_row(*cells, style="bold" if depth.layers == best.layers else None)
    if "oracle" in study.baselines:
        table.add_row(*_baseline_row(study, "oracle", metrics))
    if marked:
        table.caption, table.caption_justify = "▾ does not beat popularity", "left"
    return table


def _short(interval: Interval) -> str:
    if interval.half_width is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.3f}±" + f"{interval.half_width:.3f}".lstrip("0")


def _range(values: list[int]) -> str:
    least, most = min(values), max(values)
    return str(least) if least == most else f"{least}–{most}"


def _baseline_row(study: Study, name: str, metrics: list[str]) -> list[str]:
    scores = study.baselines[name]
    figures = [getattr(scores, protocol)[metric] for protocol in PROTOCOLS for metric in metrics]
    return [NAMES[name].replace(" ", "\n"), "", "", *(f"{figure:.4f}" for figure in figures)]
