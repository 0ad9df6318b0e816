"""Weekly updates: continuing from last week's model, compared with retraining from scratch and with no training.

    python benchmarks/warm_start.py --data movielens-100k --weeks 10

The log is split by time. A first model is trained on the events before the last weeks; the number of epochs is chosen
on a validation part of them. At the end of each week, each method updates its model, which then predicts the next week:

- `no training`: the first model, unchanged;
- `no training, told`: the first model with updated histories (`TwoTower.remember`);
- `warm, new events`: last week's model, grown and trained only on the week's events, with the optimiser state kept;
- `warm, all events`: the same, but trained for one epoch on all events so far;
- `from nothing`: a new model of all events so far, for as many epochs as the first one.

Prints a table, writes JSON, and draws a curve. Without MovieLens, it uses simulated data.
"""

from __future__ import annotations

import argparse
import copy
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from twotower import Moments, TwoTower
from twotower.data import Dataset
from twotower.errors import DataUnavailableError
from twotower.evaluation import ModelScorer, Outcomes, Popularity, measure
from twotower.evaluation.intervals import paired_interval
from twotower.evaluation.metrics import DEFAULT_KS, metric_label, verdict_metric
from twotower.files import write_file
from twotower.recipes.config import Config, DataConfig, SimulatedConfig, SplitConfig, config_of
from twotower.recipes.parts import Parts
from twotower.training import Constant, Trainer
from twotower.training.callbacks import ProgressBar
from twotower.version import VERSION

HERE = Path(__file__).parent
IMAGES = HERE.parent / "docs" / "images"
WEEK = 7 * 86_400.0
PROTOCOL = "unseen"
SIMULATED = "simulated"
UNTRAINED, TOLD, NEW, ALL, SCRATCH = (
    "no training",
    "no training, told",
    "warm, new events",
    "warm, all events",
    "from nothing",
)


class WeekOutcome(msgspec.Struct, frozen=True):
    """Results for one week.

    Attributes:
        week: Number of the week.
        events: Number of events in it.
        new_queries: Fraction of its events whose query the first model did not know.
        new_candidates: Number of its events whose candidate the first model did not know.
        scores: Scores by method, and of popularity.
        seconds: Seconds that each method took to update its model before the week.
    """

    week: int
    events: int
    new_queries: float
    new_candidates: int
    scores: dict[str, float]
    seconds: dict[str, float]


class Difference(msgspec.Struct, frozen=True):
    """Difference of two methods over all weeks, with its 95% interval over queries."""

    name: str
    rival: str
    difference: float
    half_width: float | None


@dataclass
class Methods:
    """The current models, by method."""

    first: TwoTower
    trainer: Trainer
    warm: Trainer
    epochs: int
    build: Callable[[Dataset], TwoTower]
    models: dict[str, TwoTower] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)

    def advance(self, whole: Dataset, week: Dataset, progress: ProgressBar) -> dict[str, float]:
        """Updates each model with one more week; returns the seconds that each took."""
        seconds = {}
        for name, events, epochs in ((NEW, week, self.warm.epochs), (ALL, whole, 1)):
            started = time.perf_counter()
            self.moments[name].grow(self.models[name].grow(events))
            trainer = msgspec.structs.replace(self.warm, epochs=epochs)
            trainer.fit(self.models[name], events, moments=self.moments[name], callbacks=[progress])
            seconds[name] = time.perf_counter() - started
        started = time.perf_counter()
        self.models[SCRATCH] = self.build(whole)
        self.trainer.fit(self.models[SCRATCH], whole, stop_after=self.epochs, callbacks=[progress])
        seconds[SCRATCH] = time.perf_counter() - started
        self.models[TOLD].remember(whole)
        return seconds


def config_for(name: str, console: Console) -> tuple[Config, Dataset]:
    """The config and data of `name` or `simulated:QUERIES,CANDIDATES,EVENTS`; simulated data if it is unavailable."""
    try:
        if name.startswith(f"{SIMULATED}:"):
            queries, candidates, events = map(int, name.partition(":")[2].split(","))
            size = SimulatedConfig(queries=queries, candidates=candidates, interactions=events)
            config = Config(data=DataConfig(name=SIMULATED, simulated=size))
        else:
            config = config_of(name)
        data = config.data.load()
    except DataUnavailableError as error:
        console.print(f"{error}\nUsing simulated data instead.", highlight=False)
        config = config_of(SIMULATED)
        data = config.data.load()
    return msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, reach="before")), data


def weeks_of(data: Dataset, weeks: int, length: float) -> Iterator[tuple[Dataset, Dataset, Dataset]]:
    """For each of the last weeks: all earlier events, those of the week before, and its own; skips empty weeks."""
    end = data.times.max()
    for number in range(weeks, 0, -1):
        begin = end - number * length
        before, own = data.times < begin, (data.times >= begin) & (data.times <= begin + length)
        last = before & (data.times >= begin - length)
        if own.any() and last.any():
            yield data.take(before), data.take(last), data.take(own)


def first_model(config: Config, train: Dataset, options: argparse.Namespace, progress: ProgressBar) -> Methods:
    """Trains the model on all events before the first week, and sets up the methods."""
    parts = Parts(train, train, None, SplitConfig("time:0.1"), "time:0.1", "")
    recipe = config.resolved_recipe(train)
    trainer = msgspec.structs.replace(recipe.trainer, epochs=options.epochs or recipe.trainer.epochs)

    def build(events: Dataset) -> TwoTower:
        return config.model.build(events, recipe)

    best = trainer.fit(build(train), *parts.for_recipe(recipe), callbacks=[progress]).best.epoch
    trainer = msgspec.structs.replace(trainer, early_stopping=None)
    model, moments = build(train), Moments()
    trainer.fit(model, train, stop_after=best, moments=moments, callbacks=[progress])
    rate = msgspec.structs.replace(trainer.optimizer, learning_rate=trainer.optimizer.learning_rate * options.rate)
    warm = msgspec.structs.replace(trainer, optimizer=rate, schedule=Constant(), epochs=options.warm_epochs)
    methods = Methods(model, trainer, warm, best, build)
    methods.models = {name: copy.deepcopy(model) for name in (UNTRAINED, TOLD, NEW, ALL)}
    methods.moments = {name: copy.deepcopy(moments) for name in (NEW, ALL)}
    return methods


def run(
    config: Config, data: Dataset, options: argparse.Namespace, console: Console
) -> tuple[list[WeekOutcome], list[Difference]]:
    """Results of each week, and differences over all weeks."""
    outcomes, found, methods = [], dict[str, list[Outcomes]](), None
    metric = metric_of(data)
    with ProgressBar(console) as progress:
        for number, (whole, last, asked) in enumerate(weeks_of(data, options.weeks, options.days * 86_400.0), start=1):
            seconds = dict[str, float]()
            if methods is None:
                methods = first_model(config, whole, options, progress)
                known_queries, known_candidates = whole.query_counts() > 0, whole.candidate_counts() > 0
                methods.models[SCRATCH] = copy.deepcopy(methods.first)
            else:
                seconds = methods.advance(whole, last, progress)
            scores = {}
            scorers = {name: ModelScorer(model) for name, model in methods.models.items()} | {
                "popularity": Popularity(whole)
            }
            for name, scorer in scorers.items():
                measured = measure(scorer, asked, whole)
                scores[name] = getattr(measured.scores, PROTOCOL)[metric]
                found.setdefault(name, []).append(measured.outcomes)
            outcomes.append(
                WeekOutcome(
                    number,
                    len(asked),
                    float((~known_queries[asked.query_index]).mean()),
                    int((~known_candidates[asked.candidate_index]).sum()),
                    scores,
                    seconds,
                )
            )
            console.print(f"week {number}: {scores}", highlight=False, soft_wrap=True)
    if len(outcomes) < 2:
        raise SystemExit(f"{data.name} has events in {len(outcomes)} of {options.weeks} weeks; choose other --days")
    pairs = [
        (NEW, SCRATCH),
        (ALL, SCRATCH),
        (NEW, UNTRAINED),
        (ALL, UNTRAINED),
        (TOLD, UNTRAINED),
        (SCRATCH, UNTRAINED),
    ]
    return outcomes, [difference(found, metric, *pair) for pair in pairs]


def metric_of(data: Dataset) -> str:
    """Top-k accuracy with the largest k that is smaller than the catalogue."""
    return verdict_metric(DEFAULT_KS, data.candidates.num_rows)


def difference(found: dict[str, list[Outcomes]], metric: str, name: str, rival: str) -> Difference:
    """The paired difference over the events of all weeks except the first, before which nothing was updated."""
    values = [np.concatenate([one.values(PROTOCOL, metric) for one in found[which][1:]]) for which in (name, rival)]
    queries = np.concatenate([one.queries for one in found[name][1:]])
    interval = paired_interval(values[0] - values[1], queries)
    return Difference(name, rival, interval.mean, interval.half_width)


def mean_scores(outcomes: list[WeekOutcome]) -> dict[str, float]:
    """Mean scores over the events of all weeks except the first."""
    weights = [outcome.events for outcome in outcomes[1:]]
    return {
        name: float(np.average([outcome.scores[name] for outcome in outcomes[1:]], weights=weights))
        for name in outcomes[0].scores
    }


def table_of(outcomes: list[WeekOutcome], with_seconds: bool) -> Table:
    """One row per week, and the mean over the events of all except the first."""
    names = list(outcomes[0].scores)
    table = Table("week", "events", "of new queries", *names, show_edge=False)
    for one in outcomes:
        cells = [f"{one.scores[name]:.4f}" for name in names]
        table.add_row(str(one.week), f"{one.events:,}", f"{one.new_queries:.0%}", *cells)
    table.add_section()
    means = mean_scores(outcomes)
    table.add_row(f"2–{len(outcomes)}", "", "", *(f"{means[name]:.4f}" for name in names))
    if with_seconds:
        sums = {name: sum(one.seconds.get(name, 0.0) for one in outcomes) for name in names}
        table.add_row("seconds", "", "", *(f"{sums[name]:.0f}" if sums[name] else "" for name in names))
    return table


def draw(outcomes: list[WeekOutcome], name: str, metric: str, file: Path) -> None:
    """Plots the score of each method by week."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    styles = {
        UNTRAINED: ("#999999", ":"),
        TOLD: ("#999999", "--"),
        NEW: ("#0072b2", "-"),
        ALL: ("#009e73", "-"),
        SCRATCH: ("#d55e00", "-"),
    }
    weeks = [outcome.week for outcome in outcomes]
    for way, (colour, line) in styles.items():
        axes.plot(
            weeks,
            [outcome.scores[way] for outcome in outcomes],
            line,
            color=colour,
            label=way,
            marker="o",
            markersize=3,
        )
    axes.plot(weeks, [outcome.scores["popularity"] for outcome in outcomes], "-", color="#cccccc", label="popularity")
    axes.set_xlabel("predicted week")
    axes.set_ylabel(f"{metric_label(metric)}, {PROTOCOL}")
    axes.set_xticks(weeks)
    axes.set_title(f"{name}: each model knows the events before the week")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="movielens-100k", help="a built-in data set, or a config")
    parser.add_argument("--weeks", type=int, default=10, help="weeks to predict")
    parser.add_argument("--days", type=float, default=7.0, help="days per week")
    parser.add_argument("--epochs", type=int, help="maximum epochs from scratch; default: the recipe's")
    parser.add_argument("--warm-epochs", type=int, default=2, help="epochs of a warm start on only new events")
    parser.add_argument(
        "--rate", type=float, default=0.2, help="learning rate of a warm start, relative to the recipe's"
    )
    parser.add_argument("--seconds", action="store_true", help="report seconds; needs an otherwise idle machine")
    parser.add_argument("--out", type=Path, help="the JSON; default: results/warm-start-DATA.json beside this script")
    parser.add_argument(
        "--picture", type=Path, help="the curve; default: docs/images/warm-start.png, or beside the JSON"
    )
    options = parser.parse_args()
    console = Console()
    config, data = config_for(options.data, console)
    outcomes, differences = run(config, data, options, console)
    console.print(table_of(outcomes, options.seconds))
    for one in differences:
        width = "" if one.half_width is None else f" ± {one.half_width:.4f}"
        console.print(f"{one.name} − {one.rival}: {one.difference:+.4f}{width}", highlight=False)
    out = options.out or HERE / "results" / f"warm-start-{config.data.name}.json"
    report = {
        "command": " ".join(["python", *sys.argv]),
        "versions": {"twotower": VERSION, "torch": str(torch.__version__), "python": platform.python_version()},
        "metric": f"{PROTOCOL}.{metric_of(data)}",
        "means": mean_scores(outcomes),
        "differences": differences,
        "weeks": [msgspec.structs.replace(one, seconds=one.seconds if options.seconds else {}) for one in outcomes],
    }
    write_file(out, msgspec.json.format(msgspec.json.encode(report), indent=1))
    draw(
        outcomes,
        data.name,
        metric_of(data),
        options.picture or (IMAGES / "warm-start.png" if options.out is None else out.with_suffix(".png")),
    )
    console.print(f"written to {out}")


if __name__ == "__main__":
    main()
