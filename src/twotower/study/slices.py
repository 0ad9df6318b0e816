"""The report's part on slices: where a model is better than the baselines, and where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from twotower.evaluation.baselines.names import NAMES
from twotower.evaluation.metrics import Scores, Slice
from twotower.study.results import Study
from twotower.study.summary import PROTOCOLS, best_depth, strongest

GROUPS = {
    "candidate": "by how popular the true candidate is in train: thirds of its events",
    "history": "by how many events the query has in train",
}

INTRODUCTION = (
    "The same test events apart, by how popular what was chosen is in train and by how much is known of who chose. "
    "A slice of few events says little."
)


def slices_html(study: Study, rows: Sequence[tuple[str, str, Scores]]) -> str:
    """The section, or nothing where the study has no slices.

    Args:
        study: The study.
        rows: (class, name, scores) of everything measured, as the report's tables have them.
    """
    best = best_depth(study.runs, study.metric)
    scores = best.means()
    if not scores.slices:
        return ""
    panels = "".join(_panel(study, best.label, scores, protocol) for protocol in PROTOCOLS)
    tables = "".join(_table(study, rows, protocol) for protocol in PROTOCOLS)
    return (
        f'<h2>Slices</h2><p class="soft">{INTRODUCTION}</p><div class="pair slices">{panels}</div>'
        f"<details><summary>Every model and baseline in every slice</summary>{tables}</details>"
    )


def _panel(study: Study, label: str, model: Scores, protocol: str) -> str:
    marks = _baseline_marks(study, protocol) | {"model": (f"{label}, the best model", model.slices)}
    figures = {kind: [getattr(part, protocol)[study.metric] for part in parts] for kind, (_, parts) in marks.items()}
    longest = max(max(values) for values in figures.values()) or 1.0
    legend = "".join(f'<span><i class="mark {kind}"></i>{escape(name)}</span>' for kind, (name, _) in marks.items())
    lines = [f'<h3>{study.metric.replace("_", "-")}, {protocol}</h3><div class="legend">{legend}</div>']
    for by, heading in GROUPS.items():
        numbers = [number for number, part in enumerate(model.slices) if part.by == by]
        if numbers:
            lines.append(f"<h4>{heading}</h4>")
        for number in numbers:
            dots = "".join(
                f'<i class="mark {kind}" style="left:{100 * values[number] / longest:.1f}%" '
                f'title="{escape(marks[kind][0])}: {values[number]:.4f}"></i>'
                for kind, values in figures.items()
            )
            lines.append(_line(model.slices[number], dots, figures["model"][number]))
    return f"<div>{''.join(lines)}</div>"


def _baseline_marks(study: Study, protocol: str) -> dict[str, tuple[str, list[Slice]]]:
    """(name, slices) of popularity and of the baseline with the highest figure, by the class of their marks."""
    marks = {}
    if "popularity" in study.baselines:
        marks["popularity"] = (NAMES["popularity"], study.baselines["popularity"].slices)
    rival = strongest(study.baselines, protocol, study.metric)
    if rival is not None:
        kind = "popularity" if rival == "popularity" else "strongest"
        marks[kind] = (f"{NAMES[rival]}, the strongest baseline", study.baselines[rival].slices)
    return marks


def _line(part: Slice, dots: str, value: float) -> str:
    return (
        f'<div class="slice"><span>{escape(part.name)}<small>{part.events:,} test events</small></span>'
        f'<div class="track">{dots}</div><em>{value:.4f}</em></div>'
    )


def _table(study: Study, rows: Sequence[tuple[str, str, Scores]], protocol: str) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("test events", *(name for _, name, _ in rows)))
    body = "".join(
        f'<tr><th scope="row">{escape(part.name)}, {metric}</th><td>{part.events:,}</td>'
        + "".join(f"<td>{getattr(scores.slices[number], protocol)[metric]:.4f}</td>" for _, _, scores in rows)
        + "</tr>"
        for metric in (study.metric, "mrr")
        for number, part in enumerate(rows[0][2].slices)
    )
    return (
        f'<h3>{protocol}</h3><div class="scroll"><table><thead><tr><th scope="col">slice, metric</th>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )
