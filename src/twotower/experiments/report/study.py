"""The report of a study: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from twotower.evaluation.baselines.names import FLOORS, NAMES
from twotower.evaluation.metrics import Scores, Slice, metric_label
from twotower.evaluation.outcomes import PROTOCOLS
from twotower.evaluation.task_scores import mean_task_scores
from twotower.experiments.plans import shown
from twotower.experiments.report.curves import draw_curves, draw_over_value, varied_number
from twotower.experiments.report.page import Bars, Cell, Picture, Table, differences, how_cut, lead_of, rendered
from twotower.experiments.report.reliability import reliability_pictures
from twotower.experiments.results import Study
from twotower.experiments.verdicts import strongest
from twotower.files import write_file

GROUPS = {
    "candidate": "by popularity of the chosen item (thirds of the training events)",
    "history": "by the user's events in train",
    "choice": "by whether the user already has the item in train",
}


@dataclass(frozen=True)
class Row:
    """A baseline or variant in the tables of a study: its class, its name, its scores."""

    kind: str
    name: str
    scores: Scores


def write_report(study: Study, path: Path) -> None:
    """Writes the report."""
    write_file(path, report_html(study))


def report_html(study: Study) -> str:
    """The report as HTML text; the same study always gives the same text."""
    rows, first = rows_of(study), study.widest_cut
    return rendered(
        "study.html",
        title=f"Which model recommends best? {first.name}",
        lead=lead_of(first),
        how_cut=how_cut(first) + f" · recipe {', '.join(dict.fromkeys(run.outcome.recipe for run in study.runs))}",
        verdicts=study.verdicts,
        differences=differences(study.comparisons),
        over_value=_over_value(study),
        curves=Picture.of(partial(draw_curves, study), "curves"),
        bars=[_bars(study, rows, protocol) for protocol in PROTOCOLS],
        has_oracle=any(row.name == NAMES["oracle"] for row in rows),
        slice_panels=[_slices(study, protocol) for protocol in PROTOCOLS] if study.scores_of(study.best).slices else [],
        slice_tables=[_slice_table(study, rows, protocol) for protocol in PROTOCOLS],
        metrics=[_metrics_table(rows, group) for group in _groups(rows)],
        tasks=_task_tables(study),
        reliability=reliability_pictures(study),
        runs=_runs_table(study),
        cuts=_cuts_table(study) if len(study.cuts) > 1 else None,
        command=study.command,
        versions=", ".join(f"{name} {version}" for name, version in study.versions.items()),
        created=study.created,
        seconds=study.seconds,
        terms=first.terms,
    )


def rows_of(study: Study) -> list[Row]:
    """The baselines, then the variants, then the oracle.

    If variants are trained on different parts of the data, the baselines are those of the last variant.
    """
    cuts = {run.cut for run in study.runs_of(len(study.variants) - 1)}
    baselines = study.baseline_scores(cuts=sorted(cuts))
    rows = [Row("baseline", NAMES[name], baselines[name]) for name in FLOORS if name in baselines]
    rows += [Row("model", variant.name, study.scores_of(number)) for number, variant in enumerate(study.variants)]
    return rows + [Row("baseline", NAMES[name], baselines[name]) for name in ("oracle",) if name in baselines]


def _over_value(study: Study) -> dict[str, Any] | None:
    key = varied_number(study)
    if key is None:
        return None
    name = key.rpartition(".")[2].replace("_", " ")
    return {"name": name, "svg": Picture.of(partial(draw_over_value, study, key), "over value")}


def _bars(study: Study, rows: Sequence[Row], protocol: str) -> Bars:
    figures = [(row.kind, row.name, getattr(row.scores, protocol)[study.metric]) for row in rows]
    return Bars.of(f"{metric_label(study.metric)}, {protocol}", figures, ".4f")


def _groups(rows: Sequence[Row]) -> list[str]:
    """Both protocols and, if every row was measured among what was shown, `exposed`."""
    return [*PROTOCOLS, *(["exposed"] if all(row.scores.exposed for row in rows) else [])]


def _metrics_table(rows: Sequence[Row], protocol: str) -> Table:
    body = []
    for metric in getattr(rows[0].scores, protocol):
        best = max((getattr(row.scores, protocol)[metric] for row in rows if row.kind == "model"), default=None)
        cells: list[str | Cell] = [metric_label(metric)]
        for row in rows:
            figure = row.scores.interval(protocol, metric)
            highest = row.kind == "model" and figure.mean == best and not metric.startswith("popularity")
            cells.append(Cell.of(figure, strong=highest))
        body.append(cells)
    return Table(protocol, ["metric", *(row.name for row in rows)], body)


def _task_tables(study: Study) -> list[Table]:
    """A table for each task besides retrieval, with its baselines and the variants that have it."""
    names = dict.fromkeys(task.task for run in study.runs for task in run.outcome.tasks)
    return [_task_table(study, name) for name in names]


def _task_table(study: Study, name: str) -> Table:
    found = {
        variant.name: [task for run in study.runs_of(number) for task in run.outcome.tasks if task.task == name]
        for number, variant in enumerate(study.variants)
    }
    measured = {variant: same for variant, same in found.items() if same}
    first = next(iter(measured.values()))[0]
    columns = {label: first.rows[key] for key, label in first.labels.items()}
    columns |= {variant: mean_task_scores([one.model for one in same]) for variant, same in measured.items()}
    body: list[list[str | Cell]] = [
        [metric_label(metric), *(Cell.of(one.interval(metric)) for one in columns.values())]
        for metric in first.model.metrics
    ]
    return Table(name, ["metric", *columns], body)


def _runs_table(study: Study) -> Table:
    several = len(study.cuts) > 1
    head = ["variant", *(["split"] if several else []), "seed", "parameters", "epochs", "best epoch", "last loss"]
    head += ["training s", "validating s", f"{metric_label(study.metric)}, all", "unseen", "key"]
    body = []
    for number, variant in enumerate(study.variants):
        for run in study.runs_of(number):
            one = run.outcome
            cells = [*([str(study.cuts[run.cut].seed)] if several else []), str(run.seed), f"{one.parameters:,}"]
            cells += [str(one.epochs), str(one.best_epoch), f"{one.losses[-1]:.4f}"]
            cells += [f"{one.seconds.train:.1f}", f"{one.seconds.validate:.1f}"]
            cells += [f"{getattr(one.scores, protocol)[study.metric]:.4f}" for protocol in PROTOCOLS]
            body.append([variant.name, *map(Cell, [*cells, run.key])])
    return Table("", head, body)


def _cuts_table(study: Study) -> Table:
    body = [
        [
            one.split,
            *map(Cell, [f"{one.train:,}", f"{one.validation:,}", f"{one.test:,}", one.fingerprint]),
            Cell(", ".join(f"{key} {shown(value)}" for key, value in one.changes.items())),
        ]
        for one in study.cuts
    ]
    return Table("", ["split", "train", "of it validation", "test", "fingerprint", "varied"], body)


def _slices(study: Study, protocol: str) -> dict[str, Any]:
    """Scores of the best variant and two baselines on slices of the test events."""
    marks = _marks(study, protocol)
    figures = {
        kind: {(part.by, part.name): getattr(part, protocol)[study.metric] for part in parts}
        for kind, (_, parts) in marks.items()
    }
    longest = max(max(own.values(), default=0.0) for own in figures.values()) or 1.0
    groups = []
    for by, title in GROUPS.items():
        lines = [
            {
                "name": part.name,
                "events": part.events,
                "text": f"{figures['model'][by, part.name]:.4f}",
                "dots": [
                    {
                        "kind": kind,
                        "place": 100 * own[by, part.name] / longest,
                        "title": f"{marks[kind][0]}: {own[by, part.name]:.4f}",
                    }
                    for kind, own in figures.items()
                    if (by, part.name) in own
                ],
            }
            for part in marks["model"][1]
            if part.by == by
        ]
        if lines:
            groups.append({"title": title, "lines": lines})
    legend = [{"kind": kind, "name": name} for kind, (name, _) in marks.items()]
    return {"title": f"{metric_label(study.metric)}, {protocol}", "legend": legend, "groups": groups}


def _marks(study: Study, protocol: str) -> dict[str, tuple[str, list[Slice]]]:
    """(name, slices) of popularity, the strongest baseline and the best variant, by the CSS class of their marks."""
    baselines = study.baseline_scores(cuts=sorted({run.cut for run in study.runs_of(study.best)}))
    marks = {}
    if "popularity" in baselines:
        marks["popularity"] = (NAMES["popularity"], baselines["popularity"].slices)
    rival = strongest(baselines, protocol, study.metric)
    if rival is not None:
        kind = "popularity" if rival == "popularity" else "strongest"
        marks[kind] = (f"{NAMES[rival]}, the strongest baseline", baselines[rival].slices)
    best = study.scores_of(study.best)
    return marks | {"model": (f"{study.variants[study.best].name}, the best model", best.slices)}


def _slice_table(study: Study, rows: Sequence[Row], protocol: str) -> Table:
    """The scores of every row in every slice; empty where not all splits have the slice."""
    found = [{(part.by, part.name): getattr(part, protocol) for part in row.scores.slices} for row in rows]
    body = [
        [
            f"{part.name}, {metric_label(metric)}",
            Cell(f"{part.events:,}"),
            *(Cell(f"{own[part.by, part.name][metric]:.4f}" if (part.by, part.name) in own else "") for own in found),
        ]
        for metric in (study.metric, "mrr")
        for part in study.scores_of(study.best).slices
    ]
    return Table(protocol, ["slice, metric", "test events", *(row.name for row in rows)], body)
