"""The report of a tuning: one self-contained HTML file in the style of a study's report."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from twotower.evaluation.baselines.names import FLOORS, NAMES
from twotower.evaluation.metrics import metric_label
from twotower.evaluation.outcomes import PROTOCOLS
from twotower.experiments.plans import shown
from twotower.experiments.report.page import Bars, Cell, Picture, Table, differences, how_cut, lead_of, rendered
from twotower.experiments.report.tuning_charts import can_draw_parallel, draw_history, draw_parallel
from twotower.experiments.tuning.importance import MIN_TRIALS
from twotower.experiments.tuning.results import Tuning
from twotower.files import write_file

BEST_TRIALS = 10


def write_report(tuning: Tuning, path: Path) -> None:
    """Writes the report."""
    write_file(path, report_html(tuning))


def report_html(tuning: Tuning) -> str:
    """The report as HTML text; the same tuning always gives the same text."""
    cut = tuning.cut
    parallel = Picture.of(partial(draw_parallel, tuning), "parallel") if can_draw_parallel(tuning) else None
    return rendered(
        "tuning.html",
        title=f"{cut.name}: tuning",
        lead=lead_of(cut),
        how_cut=how_cut(cut),
        verdicts=tuning.verdicts,
        differences=differences(tuning.comparisons),
        history=Picture.of(partial(draw_history, tuning), "history"),
        bars=[_test_bars(tuning, protocol) for protocol in PROTOCOLS],
        importances=_importances(tuning),
        least_trials=MIN_TRIALS,
        parallel=parallel,
        trials=_trials_table(tuning),
        space=Table("", [], [[key, Cell(_range(dimension))] for key, dimension in tuning.space.items()]),
        command=tuning.command,
        versions=", ".join(f"{name} {version}" for name, version in tuning.versions.items()),
        created=tuning.created,
        seconds=tuning.seconds,
        terms=cut.terms,
    )


def _test_bars(tuning: Tuning, protocol: str) -> Bars:
    rows = [("baseline", NAMES[name], tuning.baselines[name]) for name in FLOORS if name in tuning.baselines]
    if tuning.built_in is not None:
        rows.append(("model", "built-in", tuning.built_in.outcome.scores))
    if tuning.built_in is None or tuning.best.key != tuning.built_in.key:
        rows.append(("model", f"trial {tuning.best.trial}", tuning.best.outcome.scores))
    if "oracle" in tuning.baselines:
        rows.append(("baseline", NAMES["oracle"], tuning.baselines["oracle"]))
    metric = tuning.test_metric
    figures = [(kind, name, getattr(scores, protocol)[metric]) for kind, name, scores in rows]
    return Bars.of(f"{metric_label(metric)}, {protocol}", figures, ".4f")


def _importances(tuning: Tuning) -> Bars | None:
    if not tuning.importances:
        return None
    rows = [("model", key.rpartition(".")[2].replace("_", " "), share) for key, share in tuning.importances.items()]
    return Bars.of("", rows, ".0%")


def _trials_table(tuning: Tuning) -> Table:
    complete = [trial for trial in tuning.trials if trial.score is not None]
    best = sorted(complete, key=lambda trial: (-(trial.score or 0.0), trial.number))[:BEST_TRIALS]
    rows = [*best, *(trial for trial in complete if trial.built_in and trial not in best)]
    body = [
        [
            str(trial.number),
            Cell(f"{trial.score:.4f}", strong=trial.number == tuning.best.trial),
            *map(Cell, (str(max(trial.epochs)), str(trial.best_epoch), f"{trial.seconds:.1f}", trial.what_differs)),
        ]
        for trial in rows
    ]
    return Table("", ["trial", "score", "epochs", "kept", "s", "what differs"], body, ["what differs"])


def _range(dimension: dict[str, object]) -> str:
    choices = dimension.get("choices")
    if isinstance(choices, list):
        return " · ".join(map(shown, choices))
    step = "" if dimension["step"] is None else f", in steps of {shown(dimension['step'])}"
    log = ", logarithmic" if dimension["log"] else ""
    return f"{shown(dimension['low'])} to {shown(dimension['high'])}{step}{log}"
