"""Plots a training history; a separate module because matplotlib is slow to import."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Points = Sequence[tuple[int, float]]
"""Epoch and value, in order."""


class NotebookFigure(Figure):
    """A figure that notebooks display without pyplot, which would keep it in its global state."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", bbox_inches="tight")
        return picture.getvalue()


def history_figure(losses: Points, curves: Mapping[str, Points], best: int | None) -> NotebookFigure:
    """Plots the loss and, beside it, the validation metrics if there are any.

    Args:
        losses: Loss of each epoch.
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
