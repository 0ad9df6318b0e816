"""How a training's history looks: a figure of its curves, and a table for notebooks."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

EDGE_ROWS = 10
"""Rows at either end of a table; of longer ones the middle is left out, but for the best."""

Points = Sequence[tuple[int, float]]
"""Epoch and value, in order."""


class NotebookFigure(Figure):
    """A figure that a notebook shows, without pyplot and the figures that it keeps."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", bbox_inches="tight")
        return picture.getvalue()


def history_figure(losses: Points, curves: Mapping[str, Points], best: int | None) -> NotebookFigure:
    """The loss, and beside it the curves of validation where there are any.

    Args:
        losses: The loss of each epoch.
        curves: Values of each metric.
        best: The epoch to mark.
    """
    validated = any(curves.values())
    figure = NotebookFigure(figsize=(10 if validated else 5, 3.4), layout="constrained")
    panels = list(figure.subplots(1, 2 if validated else 1, squeeze=False)[0])
    panels[0].plot(*zip(*losses, strict=True), marker=".")
    panels[0].set_ylabel("training loss")
    if validated:
        for metric, points in curves.items():
            panels[1].plot(*zip(*points, strict=True), marker=".", label=metric)
        panels[1].axvline(best, color="0.6", linestyle="--", linewidth=1, label=f"best: epoch {best}")
        panels[1].set_ylabel("validation")
        panels[1].legend(frameon=False)
    for panel in panels:
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def history_html(names: Sequence[str], rows: Sequence[tuple[Sequence[str], bool]]) -> str:
    """A table with a line an epoch, the best one bold.

    Args:
        names: Of the columns.
        rows: The cells of each, and whether it is the best.
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines, skipped = [], False
    for number, (cells, is_best) in enumerate(rows):
        if EDGE_ROWS <= number < len(rows) - EDGE_ROWS and not is_best:
            skipped = True
            continue
        if skipped:
            lines.append(f'<tr><td colspan="{len(names)}" style="text-align: center">⋮</td></tr>')
            skipped = False
        style = ' style="font-weight: bold"' if is_best else ""
        lines.append(f"<tr{style}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
