"""The report of a study: one HTML file that needs nothing but itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path

from twotower.evaluation.baselines.names import FLOORS, NAMES
from twotower.evaluation.intervals import Interval
from twotower.evaluation.metrics import Scores
from twotower.files import write_file
from twotower.study.curves import DARK, LIGHT, curves_svg
from twotower.study.results import Study
from twotower.study.slices import slices_html
from twotower.study.summary import PROTOCOLS, by_depth


def write_report(study: Study, path: Path) -> None:
    """Writes the report."""
    write_file(path, report_html(study))


def report_html(study: Study) -> str:
    """The report as text; the same for the same study."""
    template = files("twotower.study").joinpath("report.html").read_text(encoding="utf-8")
    data = study.data
    validation = f", {data.validation:,} of train for validation" if data.validation else ""
    dropped = f" · {data.dropped:,} events with unknown candidates dropped" if data.dropped else ""
    parts = {
        "title": escape(f"{data.name}: deep retrieval study"),
        "lead": escape(
            f"{data.interactions:,} interactions · {data.queries:,} queries · {data.candidates:,} candidates{dropped}"
        ),
        "split": escape(f"{data.split}: {data.train:,} train, {data.test:,} test{validation}"),
        "fingerprint": escape(data.fingerprint),
        "recipe": escape(study.runs[0].recipe),
        "verdicts": "".join(f"<li>{escape(sentence)}</li>" for sentence in study.verdicts),
        "curves_light": inline_svg(curves_svg(study, LIGHT)),
        "curves_dark": inline_svg(curves_svg(study, DARK)),
        "bars": _bars(study),
        "tables": "".join(_metrics_table(study, protocol) for protocol in PROTOCOLS),
        "slices": slices_html(study, list(_rows(study))),
        "runs": _runs_table(study),
        "command": escape(study.command),
        "versions": escape(", ".join(f"{name} {version}" for name, version in study.versions.items())),
        "created": escape(study.created),
        "seconds": f"{study.seconds:,.0f}",
        "terms": f"<p>{escape(data.terms)}</p>" if data.terms else "",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _rows(study: Study) -> Iterable[tuple[str, str, Scores]]:
    """(class, name, scores) of every row: floor, models, ceiling."""
    for name in FLOORS:
        if name in study.baselines:
            yield "baseline", NAMES[name], study.baselines[name]
    for depth in by_depth(study.runs):
        yield "model", depth.label, depth.means()
    if "oracle" in study.baselines:
        yield "baseline", NAMES["oracle"], study.baselines["oracle"]


def _bars(study: Study) -> str:
    charts = []
    for protocol in PROTOCOLS:
        rows = [(kind, name, getattr(scores, protocol)[study.metric]) for kind, name, scores in _rows(study)]
        longest = max(value for _, _, value in rows) or 1.0
        bars = "".join(
            f'<div class="bar {kind}"><span>{escape(name)}</span>'
            f'<i><b style="width:{100 * value / longest:.1f}%"></b></i><em>{value:.4f}</em></div>'
            for kind, name, value in rows
        )
        charts.append(f'<div class="bars"><h3>{study.metric.replace("_", "-")}, {protocol}</h3>{bars}</div>')
    return "".join(charts)


def _metrics_table(study: Study, protocol: str) -> str:
    rows = list(_rows(study))
    metrics = list(getattr(rows[0][2], protocol))
    body = []
    for metric in metrics:
        best = max((getattr(scores, protocol)[metric] for kind, _, scores in rows if kind == "model"), default=None)
        cells = []
        for kind, _, scores in rows:
            strong = (
                kind == "model" and getattr(scores, protocol)[metric] == best and not metric.startswith("popularity")
            )
            cells.append(f"<td>{_figure(scores.interval(protocol, metric), strong)}</td>")
        body.append(f'<tr><th scope="row">{escape(metric)}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col">{escape(name)}</th>' for _, name, _ in rows)
    return (
        f'<h3>{protocol}</h3><div class="scroll"><table><thead><tr><th scope="col">metric</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _figure(interval: Interval, strong: bool) -> str:
    mean = f"<strong>{interval.mean:.4f}</strong>" if strong else f"{interval.mean:.4f}"
    return mean if interval.half_width is None else f"{mean} <small>± {interval.half_width:.4f}</small>"


def _runs_table(study: Study) -> str:
    columns = ("layers", "seed", "parameters", "epochs", "best epoch", "loss, last epoch", "training s", "validating s")
    head = "".join(f'<th scope="col">{column}</th>' for column in (*columns, f"{study.metric}, all", "unseen"))
    body = "".join(
        f'<tr><th scope="row">{escape(run.label)}</th><td>{run.seed}</td><td>{run.parameters:,}</td>'
        f"<td>{run.epochs}</td><td>{run.best_epoch}</td><td>{run.losses[-1]:.4f}</td>"
        f"<td>{run.seconds.train:.1f}</td><td>{run.seconds.validate:.1f}</td>"
        f"<td>{run.final.all[study.metric]:.4f}</td><td>{run.final.unseen[study.metric]:.4f}</td></tr>"
        for run in study.runs
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def inline_svg(svg: str) -> str:
    """An SVG element to stand inside HTML, as wide as its place."""
    element = svg[svg.index("<svg") :]
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"|height="[\d.]+pt" width="[\d.]+pt"', "", element, count=1)
