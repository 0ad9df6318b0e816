"""A study's results as a table for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from twotower.evaluation.intervals import Interval
from twotower.evaluation.metrics import metric_label
from twotower.evaluation.outcomes import PROTOCOLS
from twotower.experiments.report.study import rows_of
from twotower.experiments.results import Study

SHOWN = "top_10"
"""The metric shown besides the one that variants are compared by. The table must fit in 80 columns; the report has
all metrics."""


def results_table(study: Study) -> Table:
    """The scores of baselines and variants, the best variant in bold, with marks where one does not beat popularity."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("", "best\nepoch", "train\nseconds"):
        table.add_column(name, justify="right" if name else "left", no_wrap=bool(name))
    metrics = [metric for metric in dict.fromkeys((SHOWN, study.metric)) if metric in study.scores_of(0).all]
    for protocol in PROTOCOLS:
        for metric in metrics:
            table.add_column(f"{protocol}\n{metric_label(metric)}", justify="right", no_wrap=True)
    unbeaten = {
        (one.name, one.protocol, one.metric)
        for one in study.comparisons
        if one.rival == "popularity" and one.verdict != "better"
    }
    by_name = {variant.name: number for number, variant in enumerate(study.variants)}
    for row in rows_of(study):
        own = [] if row.kind == "baseline" else [run.outcome for run in study.runs_of(by_name[row.name])]
        cells = ["", ""]
        if own:
            cells = [_range([one.best_epoch for one in own]), f"{sum(one.seconds.train for one in own):.1f}"]
        for protocol in PROTOCOLS:
            for metric in metrics:
                mark = " ▾" if (row.name, protocol, metric) in unbeaten else ""
                cells.append(_short(row.scores.interval(protocol, metric), bool(own)) + mark)
        best = bool(own) and by_name[row.name] == study.best
        table.add_row(row.name, *cells, style="bold" if best else None)
    if unbeaten:
        table.caption, table.caption_justify = f"▾ does not beat popularity ({metric_label(study.metric)})", "left"
    return table


def _short(interval: Interval, repeated: bool) -> str:
    if interval.half_width is None or not repeated:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.3f}±" + f"{interval.half_width:.3f}".lstrip("0")


def _range(values: list[int]) -> str:
    least, most = min(values), max(values)
    return str(least) if least == most else f"{least}–{most}"
