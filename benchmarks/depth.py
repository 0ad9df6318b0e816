"""Score over the size of the log, a line per depth, from studies of several shares of train: table, JSON and picture.

    python benchmarks/depth.py share-3 share-10 share-30 share-100

Each folder is one that `twotower study --layers … --train-share …` wrote. Where a depth was trained with several
settings, its best score counts, so give every depth the same ones.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measuring import write_report
from rich.console import Console
from rich.table import Table

IMAGES = Path(__file__).parents[1] / "docs" / "images"
Z_95 = 1.959964


class Point(msgspec.Struct, frozen=True):
    """The best run of one depth with one share of train.

    Attributes:
        layers: Widths of the dense layers.
        events: Events of train.
        score: Top-100 accuracy, nothing excluded.
        half_width: Of its 95% interval over the measured events, taken as independent, as in simulated data.
        best_epoch: Number of the epoch with this score.
        epochs: Epochs that the schedule planned or early stopping left.
        settings: What else was varied, and its value in this run.
        runs: How many runs it is the best of.
    """

    layers: list[int]
    events: int
    score: float
    half_width: float
    best_epoch: int
    epochs: int
    settings: dict[str, Any]
    runs: int


def points_of(folders: list[Path]) -> list[Point]:
    """The best run of each depth and share, by depth, then by events."""
    found: dict[tuple[tuple[int, ...], int], list[Point]] = defaultdict(list)
    for folder in folders:
        study = msgspec.json.decode((folder / "results.json").read_bytes())
        for run in study["runs"]:
            values = study["variants"][run["variant"]]["values"]
            point = point_of(values, study["cuts"][run["cut"]], run["outcome"])
            found[tuple(point.layers), point.events].append(point)
    ordered = sorted(found.items(), key=lambda item: (len(item[0][0]), item[0]))
    return [msgspec.structs.replace(max(own, key=lambda one: one.score), runs=len(own)) for _, own in ordered]


def point_of(values: Mapping[str, Any], cut: Mapping[str, Any], outcome: Mapping[str, Any]) -> Point:
    """What a run of a study reached."""
    score, measured = outcome["scores"]["all"]["top_100"], cut["validation"]
    return Point(
        layers=list(values["model.layers"]),
        events=cut["train"],
        score=score,
        half_width=Z_95 * math.sqrt(score * (1 - score) / measured),
        best_epoch=outcome["best_epoch"],
        epochs=outcome["epochs"],
        settings={key: value for key, value in values.items() if key not in ("model.layers", "split.train_share")},
        runs=1,
    )


def lines_of(points: list[Point]) -> dict[str, list[Point]]:
    """The points of each depth, by its name."""
    lines: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        lines[str(point.layers)].append(point)
    return lines


def table_of(points: list[Point]) -> Table:
    """One row per depth, one column per number of events."""
    sizes = sorted({point.events for point in points})
    table = Table("layers", *(f"{size:,}" for size in sizes), show_edge=False)
    for name, line in lines_of(points).items():
        by_size = {point.events: f"{point.score:.4f} ± {point.half_width:.4f}" for point in line}
        table.add_row(name, *(by_size.get(size, "") for size in sizes))
    return table


def draw(points: list[Point], path: Path) -> None:
    """Draws a line per depth over the number of events, with bands for the intervals."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, line in lines_of(points).items():
        events, scores = [point.events for point in line], [point.score for point in line]
        low, high = ([point.score + side * point.half_width for point in line] for side in (-1, 1))
        (drawn,) = axes.plot(events, scores, marker="o", label=name)
        axes.fill_between(events, low, high, alpha=0.15, color=drawn.get_color(), linewidth=0)
    axes.set(xscale="log", xlabel="training events", ylabel="top-100 accuracy")
    axes.grid(alpha=0.3)
    axes.legend(title="layers")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Reads the studies and writes the table, the JSON and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, help="folders of studies")
    parser.add_argument(
        "--picture", type=Path, help="default: docs/images/depth-and-data-simulated.png, or beside the JSON"
    )
    parser.add_argument("--out", type=Path, help="default: results/depth-and-data-simulated.json beside this script")
    options = parser.parse_args()
    points = points_of(options.studies)
    console = Console(width=120)
    console.print(table_of(points))
    usual = IMAGES / "depth-and-data-simulated.png" if options.out is None else options.out.with_suffix(".png")
    draw(points, options.picture or usual)
    console.print(f"written to {write_report('depth-and-data-simulated', {'points': points}, options.out)}")


if __name__ == "__main__":
    main()
