"""A study's results as a table for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from twotower.evaluation.intervals import Interval
from twotower.evaluation.measure import FLOORS, NAMES
from twotower.evaluation.metrics import metric_label
from twotower.evaluation.outcomes import PROTOCOLS
from twotower.study.results import Study, best_depth, by_depth

SHOWN = "top_10"
"""The metric beside the one that models are compared by: the table has to fit in 80 columns; the report has all."""


def results_table(study: Study) -> Table:
    """Baselines and depths beside each other; the highest depth in bold, marks where it does not beat popularity."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("", "best\nepoch", "train\nseconds"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    metrics = [metric for metric in dict.fromkeys((SHOWN, study.metric)) if metric in study.runs[0].final.all]
    unbeaten = {
        (one.name, one.protocol, one.metric)
        for one in study.comparisons
        if one.rival == "popularity" and one.verdict != "better"
    }
    for protocol in PROTOCOLS:
        for metric in metrics:
            table.add_column(f"{protocol}\n{metric_label(metric)}", justify="right", no_wrap=True)
    depths = by_depth(study.runs)
    best = best_depth(study.runs, study.metric)
    for name in FLOORS:
        if name in study.baselines:
            table.add_row(*_baseline_row(study, name, metrics))
    for depth in depths:
        cells = [
            depth.label,
            _range([run.best_epoch for run in depth.runs]),
            f"{sum(run.seconds.train for run in depth.runs):.1f}",
        ]
        for protocol in PROTOCOLS:
            for metric in metrics:
                mark = " ▾" if (depth.label, protocol, metric) in unbeaten else ""
                cells.append(_short(depth.interval(protocol, metric)) + mark)
        table.add_row(*cells, style="bold" if depth.layers == best.layers else None)
    if "oracle" in study.baselines:
        table.add_row(*_baseline_row(study, "oracle", metrics))
    if unbeaten:
        table.caption, table.caption_justify = f"▾ does not beat popularity ({metric_label(study.metric)})", "left"
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
