"""The report of a tuning: one HTML file that needs nothing but itself, in the look of a study's."""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files
from pathlib import Path

from twotower.evaluation.baselines.names import FLOORS, NAMES
from twotower.evaluation.metrics import Scores
from twotower.files import write_file
from twotower.study.curves import DARK, LIGHT
from twotower.study.summary import PROTOCOLS
from twotower.tuning.charts import can_draw_parallel, chart_svg, draw_history, draw_parallel
from twotower.tuning.importance import TRIALS
from twotower.tuning.results import TrialRecord, Tuning, shown, shown_changes

BEST_TRIALS = 10


def write_report(tuning: Tuning, path: Path) -> None:
    """Writes the report."""
    write_file(path, report_html(tuning))


def report_html(tuning: Tuning) -> str:
    """The report as text; the same for the same tuning."""
    template = files("twotower.tuning").joinpath("tune.html").read_text(encoding="utf-8")
    data = tuning.data
    parts = {
        "style": _style_of_studies(),
        "title": escape(f"{data.name}: tuning"),
        "lead": escape(
            f"{data.interactions:,} interactions · {data.queries:,} queries · {data.candidates:,} candidates"
        ),
        "split": escape(
            f"{data.split}: {data.train:,} train, {data.validation:,} of them for validation, {data.test:,} test"
        ),
        "fingerprint": escape(data.fingerprint),
        "verdicts": "".join(f"<li>{escape(sentence)}</li>" for sentence in tuning.verdicts),
        "history_light": chart_svg(draw_history, tuning, LIGHT),
        "history_dark": chart_svg(draw_history, tuning, DARK),
        "bars": "".join(_test_bars(tuning, protocol) for protocol in PROTOCOLS),
        "importances": _importances(tuning),
        "parallel": _parallel(tuning),
        "trials": _trials_table(tuning),
        "space": _space_table(tuning),
        "command": escape(tuning.command),
        "versions": escape(", ".join(f"{name} {version}" for name, version in tuning.versions.items())),
        "created": escape(tuning.created),
        "seconds": f"{tuning.seconds:,.0f}",
        "terms": f"<p>{escape(data.terms)}</p>" if data.terms else "",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _style_of_studies() -> str:
    page = files("twotower.study").joinpath("report.html").read_text(encoding="utf-8")
    return page[page.index("<style>") : page.index("</style>")] + "</style>"


def _test_bars(tuning: Tuning, protocol: str) -> str:
    rows: list[tuple[str, str, Scores]] = [
        ("baseline", NAMES[name], tuning.baselines[name]) for name in FLOORS if name in tuning.baselines
    ]
    if tuning.built_in is not None:
        rows.append(("model", "built-in", tuning.built_in.test))
    if tuning.built_in is None or tuning.best.trial != tuning.built_in.trial:
        rows.append(("model", f"trial {tuning.best.trial}", tuning.best.test))
    if "oracle" in tuning.baselines:
        rows.append(("baseline", NAMES["oracle"], tuning.baselines["oracle"]))
    metric = tuning.metric.rpartition(".")[2]
    bars = [(kind, name, getattr(scores, protocol)[metric]) for kind, name, scores in rows]
    return f"<div><h3>{metric.replace('_', '-')}, {protocol}</h3>{_bars(bars, '.4f')}</div>"


def _bars(rows: list[tuple[str, str, float]], form: str) -> str:
    """A bar a row of (class, name, value), the longest as wide as its place; values written in `form`."""
    longest = max(value for _, _, value in rows) or 1.0
    return "".join(
        f'<div class="bar {kind}"><span>{escape(name)}</span>'
        f'<i><b style="width:{100 * value / longest:.1f}%"></b></i><em>{value:{form}}</em></div>'
        for kind, name, value in rows
    )


def _importances(tuning: Tuning) -> str:
    if not tuning.importances:
        return f'<p class="soft">Fewer than {TRIALS} complete trials: too few to say.</p>'
    rows = [("model", key.rpartition(".")[2].replace("_", " "), share) for key, share in tuning.importances.items()]
    return f"<div>{_bars(rows, '.0%')}</div>"


def _parallel(tuning: Tuning) -> str:
    if not can_draw_parallel(tuning):
        return '<p class="soft">Too few trials to draw.</p>'
    light, dark = (chart_svg(draw_parallel, tuning, theme) for theme in (LIGHT, DARK))
    return (
        '<div class="curves" role="img" aria-label="Every trial as a line through its values, to its score.">'
        f'<div class="light">{light}</div><div class="dark">{dark}</div></div>'
    )


def _trials_table(tuning: Tuning) -> str:
    complete = [trial for trial in tuning.trials if trial.score is not None]
    best = sorted(complete, key=lambda trial: (-(trial.score or 0.0), trial.number))[:BEST_TRIALS]
    rows = [*best, *(trial for trial in complete if trial.built_in and trial not in best)]
    head = "".join(f'<th scope="col">{name}</th>' for name in ("trial", "score", "epochs", "kept", "s"))
    body = "".join(_trial_row(trial, strong=trial.number == tuning.best.trial) for trial in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}<th scope="col" class="words">what differs</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _trial_row(trial: TrialRecord, strong: bool) -> str:
    score = f"{trial.score:.4f}"
    return (
        f'<tr><th scope="row">{trial.number}</th><td>{f"<strong>{score}</strong>" if strong else score}</td>'
        f"<td>{max(trial.epochs)}</td><td>{trial.best_epoch}</td><td>{trial.seconds:.1f}</td>"
        f'<td class="words">{escape(shown_changes(trial))}</td></tr>'
    )


def _space_table(tuning: Tuning) -> str:
    body = "".join(
        f'<tr><th scope="row"><code>{escape(key)}</code></th><td class="words">{escape(_range(dimension))}</td></tr>'
        for key, dimension in tuning.space.items()
    )
    return f'<div class="scroll"><table><tbody>{body}</tbody></table></div>'


def _range(dimension: dict[str, object]) -> str:
    choices = dimension.get("choices")
    if isinstance(choices, list):
        return " · ".join(map(shown, choices))
    step = "" if dimension["step"] is None else f", in steps of {shown(dimension['step'])}"
    log = ", logarithmic" if dimension["log"] else ""
    return f"{shown(dimension['low'])} to {shown(dimension['high'])}{step}{log}"
