"""The tutorial of TensorFlow Recommenders compared with twotower: equal losses, speed, and time to a score.

    python benchmarks/tfrs/compare.py
    python benchmarks/tfrs/compare.py --full

`make bench-tfrs` creates the environment of TensorFlow Recommenders first. Both libraries train the tutorial's model on
the same split, each with its usual call of `fit`; they alternate after every epoch.

- Same loss: from TensorFlow's initial weights, both train some steps of Adagrad on the same batch, and the losses are
  compared step by step, for several batches. In the tutorial's first steps the loss jumps, and rounding errors with it,
  so later steps would only measure that. Initial weights are small, so the first loss says little; losses of the same
  batches are therefore also compared with the weights after an epoch of TensorFlow. twotower uses TensorFlow's ids,
  words, buckets and standardised times here: its own are as good, but not the same (float32 cannot represent current
  timestamps to the second).
- Time: medians over all epochs except the first. The whole tutorial has three depths with 300 epochs and 60 validations
  each: measured with `--full`, otherwise computed from the medians.
- Time to a score: top-100 on test by seconds of training, for both libraries with the tutorial's recipe, and for
  twotower's tuned recipe, which is evaluated every few steps. Evaluation and start-up are not counted. The score is the
  best that TensorFlow Recommenders reached.

Prints tables, writes JSON and draws the curves.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import torch
from client import PYTHON, ROOT, Tfrs, TheirEpoch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from twotower.data import Dataset, Split, builtin
from twotower.errors import TwoTowerError
from twotower.evaluation.history import Epoch
from twotower.evaluation.validation import Validation
from twotower.experiments.report.page import LIGHT, LINES
from twotower.features import Bucketized, Category, Text
from twotower.features.lookups import Table as EmbeddingTable
from twotower.files import write_file
from twotower.model.tower import Tower
from twotower.model.tower_module import features_of
from twotower.model.two_tower import TwoTower
from twotower.recipes.config import Config, DataConfig, ModelConfig
from twotower.training.callbacks import Callback, TrainingState
from twotower.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import RESULTS, readable, write_report

DEPTHS = ((32,), (64, 32), (128, 64, 32))
CURVE_DEPTH = (64, 32)
"""The tutorial's model with the best score."""

TUTORIAL_EPOCHS, TUTORIAL_VALIDATE_EVERY = 300, 5
METRIC = "top_100"
BATCH, BATCHES, STEPS = 2048, 5, 3
"""Events per batch; number of batches on which losses are compared, and steps on each."""

ENCODED = ("user", "bucket", "time", "title", "words")
"""Features encoded by TensorFlow's layers, in twotower's order, the query tower first."""

EACH_EVENT = ("bucket", "time")
"""Features with a row per event; the others have a row per user or title."""

NAMES = {
    "tfrs": "TensorFlow Recommenders, the tutorial",
    "tutorial": "twotower, the tutorial's recipe",
    "tuned": "twotower, the tuned recipe",
}


class Point(msgspec.Struct, frozen=True):
    """A score on test, and the seconds of training up to it."""

    seconds: float
    score: float


class Side(msgspec.Struct, frozen=True):
    """Seconds of each epoch and validation of one library, and its scores."""

    epochs: list[float]
    validations: list[float]
    curve: list[Point]

    @property
    def epoch(self) -> float:
        """Median of all epochs except the first."""
        return statistics.median(self.epochs[1:])

    @property
    def validation(self) -> float:
        """Median of the validations."""
        return statistics.median(self.validations)


class Race(msgspec.Struct, frozen=True):
    """Both libraries on one model."""

    layers: tuple[int, ...]
    tfrs: Side
    twotower: Side


class SameLoss(msgspec.Struct, frozen=True):
    """Losses of both libraries from the same weights on the same batches.

    Attributes:
        layers: Layers of both towers.
        from_initial: Losses of some steps from the initial weights, by batch: theirs and ours, `[batches, 2]`.
        from_trained: The same for one step from the weights after an epoch.
    """

    layers: tuple[int, ...]
    from_initial: list[tuple[list[float], list[float]]]
    from_trained: list[tuple[list[float], list[float]]]

    @property
    def differences(self) -> list[float]:
        """The largest relative difference at each step from the initial weights, and from the trained weights."""
        return [*_largest(self.from_initial), *_largest(self.from_trained)]


def _largest(pairs: Sequence[tuple[list[float], list[float]]]) -> list[float]:
    theirs, ours = np.array(pairs).swapaxes(0, 1)  # [batches, steps] each
    largest: list[float] = np.abs(ours / theirs - 1).max(axis=0).tolist()
    return largest


class Whole(msgspec.Struct, frozen=True):
    """Seconds of the whole tutorial: all depths, epochs and validations."""

    is_measured: bool
    tfrs: float
    twotower: float


class Reached(msgspec.Struct, frozen=True):
    """Seconds of training to a score; None if it was not reached."""

    score: float
    tfrs: float | None
    tutorial: float | None
    tuned: float | None


def config_for(data: str, recipe: str, layers: Sequence[int]) -> Config:
    """The config of a model with the tutorial's or the tuned recipe."""
    return msgspec.convert(
        {"data": DataConfig(name=data), "recipe": recipe, "model": ModelConfig(layers=tuple(layers))}, Config
    )


def give_split(tfrs: Tfrs, split: Split) -> None:
    """Passes the columns that the tutorial reads to TensorFlow's process."""
    train = split.train
    tfrs.give("users", _texts(train.queries[train.query_id]))
    tfrs.give("movies", _texts(train.candidates["movie_title"]))
    for name, part in (("train", train), ("test", split.test)):
        tfrs.give(f"{name}-user_id", _texts(part.interactions[part.query_id]))
        tfrs.give(f"{name}-timestamp", part.times.astype(np.int64))
        tfrs.give(f"{name}-movie_title", _texts(part.candidates["movie_title"].take(pa.array(part.candidate_index))))


def _texts(column: pa.ChunkedArray) -> np.ndarray:
    return np.array([str(value).encode() for value in column.to_pylist()])


def tutorial_model(data: str, split: Split, layers: Sequence[int]) -> tuple[TwoTower, Trainer]:
    """The tutorial's model in twotower, with initial weights, and its trainer."""
    config = config_for(data, "tutorial", layers)
    recipe = config.resolved_recipe(split.train)
    return config.model.build(split.train, recipe).learn(split.train, recipe.trainer.seed), recipe.trainer


class Twin:
    """The tutorial's model in twotower, with ids, titles and times encoded by TensorFlow's layers.

    Args:
        tfrs: TensorFlow's process, with its tutorial model.
        data: Name of the data.
        split: The split.
        layers: Layers of both towers.
    """

    def __init__(self, tfrs: Tfrs, data: str, split: Split, layers: Sequence[int]) -> None:
        self.tfrs, self.train = tfrs, split.train
        self.model, trainer = tutorial_model(data, split, layers)
        self.trainer = msgspec.structs.replace(trainer, batch_size=BATCH)
        self.towers = {"query": self.model.query, "candidate": self.model.candidate}
        tfrs.ask("encode")
        self.features = dict(
            zip(ENCODED, [f for tower in self.towers.values() for f in features_of(tower)], strict=True)
        )
        self.encoded = {name: torch.from_numpy(tfrs.taken(f"encoded-{name}")) for name in self.features}

    def losses(self, start: int, steps: int) -> tuple[list[float], list[float]]:
        """Losses by step on the batch of train that begins at `start`, from the initial weights: theirs and ours."""
        stop = min(start + BATCH, len(self.train))
        self.tfrs.ask("reset")
        self._take_weights()
        summed = self.tfrs.ask("steps", start=start, stop=stop, count=steps)["losses"]
        for name, feature in self.features.items():
            rows = self.encoded[name][start:stop] if name in EACH_EVENT else self.encoded[name]
            feature.encode = _always(rows)  # type: ignore[method-assign,assignment]
        trainer = msgspec.structs.replace(self.trainer, epochs=steps)  # one step per epoch
        history = trainer.fit(self.model, self.train.take(np.arange(start, stop)))
        return [loss / (stop - start) for loss in summed], [epoch.loss for epoch in history.epochs]

    def _take_weights(self) -> None:
        weights = {name: torch.from_numpy(values) for name, values in self.tfrs.weights().items()}
        for side, tower in self.towers.items():
            tabled = [feature for feature in features_of(tower) if isinstance(feature, Category | Bucketized | Text)]
            for number, feature in enumerate(tabled):
                feature.table = EmbeddingTable(weights[f"{side}-table-{number}"])
            assert isinstance(tower, Tower)
            dense = [module for module in tower.stack.modules() if isinstance(module, nn.Linear)]
            for number, layer in enumerate(dense):
                layer.weight.data = weights[f"{side}-matrix-{number}"].t().contiguous()
                layer.bias.data = weights[f"{side}-bias-{number}"]


def _always(encoded: Tensor) -> Callable[[pa.ChunkedArray], Tensor]:
    return lambda _: encoded


def same_loss(tfrs: Tfrs, data: str, split: Split, layers: Sequence[int]) -> SameLoss:
    """Trains both libraries from the same weights on the same batches."""
    tfrs.ask("tutorial", layers=layers, seed=0)
    twin = Twin(tfrs, data, split, layers)
    starts = range(0, min(len(split.train), BATCH * BATCHES), BATCH)
    from_initial = [twin.losses(start, STEPS) for start in starts]
    tfrs.ask("reset")
    list(tfrs.epochs(1, validate_every=2))
    tfrs.ask("keep")
    return SameLoss(tuple(layers), from_initial, [twin.losses(start, 1) for start in starts])


class Turns(Callback):
    """Runs one of TensorFlow's epochs after each of ours.

    Args:
        other: TensorFlow's epochs, each trained when the iterator is advanced.
    """

    def __init__(self, other: Iterator[TheirEpoch]) -> None:
        self.other = other
        self.theirs: list[TheirEpoch] = []

    def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        """Waits for TensorFlow's epoch."""
        self.theirs.append(next(self.other))


def race(tfrs: Tfrs, data: str, split: Split, layers: Sequence[int], epochs: int, validate_every: int) -> Race:
    """Trains the tutorial's model in both libraries alternately."""
    tfrs.ask("tutorial", layers=layers, seed=1)
    model, trainer = tutorial_model(data, split, layers)
    trainer = msgspec.structs.replace(trainer, epochs=epochs, validate_every=validate_every)
    turns = Turns(tfrs.epochs(epochs, validate_every))
    history = trainer.fit(model, split.train, split.test, callbacks=[turns])
    ours = [
        TheirEpoch(
            epoch.seconds,
            epoch.validation_seconds,
            None if epoch.validation is None else epoch.validation.all[METRIC],
        )
        for epoch in history.epochs
    ]
    return Race(tuple(layers), side_of(turns.theirs), side_of(ours))


def side_of(epochs: Sequence[TheirEpoch]) -> Side:
    """Collects times and curve of a training."""
    trained = np.cumsum([epoch.seconds for epoch in epochs]).tolist()
    return Side(
        [epoch.seconds for epoch in epochs],
        [epoch.validation_seconds for epoch in epochs if epoch.score is not None],
        [
            Point(seconds, epoch.score)
            for seconds, epoch in zip(trained, epochs, strict=True)
            if epoch.score is not None
        ],
    )


class Curve(Callback):
    """Scores on test by seconds of training, excluding evaluation: at every step at first, then less often.

    Args:
        test: The events to evaluate on.
        train: The training events.
    """

    def __init__(self, test: Dataset, train: Dataset) -> None:
        self.test, self.train = test, train
        self.points: list[Point] = []
        self.steps, self.due, self.seconds = 0, 1, 0.0

    def on_start(self, state: TrainingState) -> None:
        """Starts the clock."""
        self.validation = Validation(state.model, self.test, self.train, (100,))
        self.started = time.perf_counter()

    def on_step(self, state: TrainingState) -> None:
        """Stops the clock, evaluates if due, and restarts it."""
        self.seconds += time.perf_counter() - self.started
        self.steps += 1
        if self.steps == self.due:
            self.points.append(Point(self.seconds, self.validation.measure(state.model).all[METRIC]))
            self.due = max(self.steps + 1, round(self.steps * 1.1))
        self.started = time.perf_counter()


def tuned_curve(data: str, split: Split, epochs: int | None) -> list[Point]:
    """Trains the tuned recipe on all of train for all epochs (None: the recipe's), evaluating on test meanwhile."""
    config = config_for(data, "tuned", CURVE_DEPTH)
    recipe = config.resolved_recipe(split.train)
    curve = Curve(split.test, split.train)
    trainer = msgspec.structs.replace(recipe.trainer, early_stopping=None, epochs=epochs or recipe.trainer.epochs)
    trainer.fit(config.model.build(split.train, recipe), split.train, callbacks=[curve])
    return curve.points


def first_at(curve: Sequence[Point], score: float) -> Point | None:
    """The first point with at least this score; None if there is none."""
    return next((point for point in curve if point.score >= score), None)


def whole_of(races: Sequence[Race]) -> Whole:
    """The whole tutorial: summed if all of it was run, otherwise computed from the medians."""
    is_measured = all(len(one.tfrs.epochs) == TUTORIAL_EPOCHS for one in races)
    validations = TUTORIAL_EPOCHS // TUTORIAL_VALIDATE_EVERY

    def seconds(side: Side) -> float:
        if is_measured:
            return sum(side.epochs) + sum(side.validations)
        return TUTORIAL_EPOCHS * side.epoch + validations * side.validation

    return Whole(is_measured, sum(seconds(one.tfrs) for one in races), sum(seconds(one.twotower) for one in races))


def loss_table(losses: Sequence[SameLoss]) -> Table:
    """Table of the largest relative differences of losses over the batches."""
    steps = [f"step {step}" for step in range(1, STEPS + 1)]
    table = Table("difference of losses", *steps, "after an epoch", show_edge=False)
    for same in losses:
        table.add_row(str(list(same.layers)), *(f"{difference:.1e}" for difference in same.differences))
    return table


def time_table(races: Sequence[Race], whole: Whole) -> Table:
    """Table of the medians of both libraries, and the whole tutorial."""
    table = Table("median", "TFRS", "twotower", "times faster", show_edge=False)
    rows = [
        (f"{list(one.layers)}, {what}", getattr(one.tfrs, what), getattr(one.twotower, what))
        for what in ("epoch", "validation")
        for one in races
    ]
    rows.append((f"whole tutorial, {'measured' if whole.is_measured else 'computed'}", whole.tfrs, whole.twotower))
    for label, theirs, ours in rows:
        table.add_row(label, readable(theirs), readable(ours), f"{theirs / ours:.1f}")
    return table


def score_table(reached: Reached) -> Table:
    """Table of the seconds to the score."""
    table = Table(f"top-100 of {reached.score:.4f} on test", "seconds of training", "times faster", show_edge=False)
    for key, label in NAMES.items():
        seconds = getattr(reached, key)
        faster = "" if seconds is None or reached.tfrs is None else f"{reached.tfrs / seconds:,.0f}"
        table.add_row(label, "not reached" if seconds is None else readable(seconds), faster)
    return table


def draw(curves: dict[str, list[Point]], score: float, data: str, path: Path) -> None:
    """Plots top-100 by seconds on a logarithmic axis, and marks where each curve reaches `score`."""
    figure = Figure(figsize=(9, 5), dpi=160, facecolor=LIGHT.paper, layout="constrained")
    axes = figure.subplots()
    for (name, points), colour in zip(curves.items(), LINES, strict=False):
        axes.plot(
            [point.seconds for point in points],
            [point.score for point in points],
            color=colour, linewidth=2, label=NAMES[name],
        )  # fmt: skip
        if (point := first_at(points, score)) is not None:
            axes.plot(point.seconds, point.score, "o", color=colour, markersize=7)
            axes.annotate(
                readable(point.seconds), (point.seconds, point.score), xytext=(-7, 6), textcoords="offset points",
                ha="right", color=colour, fontweight="bold",
            )  # fmt: skip
    axes.axhline(
        score, color=LIGHT.baseline, linewidth=1, linestyle="--", label=f"best of TensorFlow Recommenders: {score:.4f}",
    )  # fmt: skip
    axes.set(xscale="log", ylim=(0, None), xlabel="seconds of training", ylabel="top-100 accuracy on test")
    axes.set_title(f"{data}: time to a score", loc="left", fontweight="bold", color=LIGHT.ink)
    axes.grid(color=LIGHT.faint)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})  # type: ignore[no-untyped-call]
    write_file(path, picture.getvalue())


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="movielens-100k", help="movielens-100k, simulated, or simulated:QUERIES,CANDIDATES,EVENTS"
    )
    parser.add_argument("--epochs", type=int, default=7, help="timed epochs and validations per depth")
    parser.add_argument("--curve-epochs", type=int, default=100, help="epochs of TensorFlow Recommenders' curve")
    parser.add_argument("--tuned-epochs", type=int, help="epochs of the tuned recipe's curve; default: the recipe's")
    parser.add_argument("--full", action="store_true", help="run the whole tutorial in both: over half an hour")
    parser.add_argument("--threads", type=int, default=2, help="threads for each library")
    parser.add_argument("--python", type=Path, default=PYTHON, help="Python with TensorFlow Recommenders")
    parser.add_argument("--out", type=Path, help="the JSON; default: results/tfrs-DATA.json, with --full -full.json")
    parser.add_argument(
        "--picture", type=Path, help="the curves; default: beside the JSON; movielens-100k --full: in docs/images"
    )
    options = parser.parse_args()
    console = Console()
    torch.set_num_threads(options.threads)
    name = f"tfrs-{options.data}{'-full' if options.full else ''}".replace(":", "-").replace(",", "-")
    beside = (options.out or RESULTS / name).with_suffix(".png")
    is_for_docs = options.full and options.data == "movielens-100k"
    picture = options.picture or (ROOT / "docs" / "images" / "time-to-score.png" if is_for_docs else beside)
    data = builtin.load(options.data)
    split = Config().rule_for(data)(data)

    def say(what: str) -> None:
        console.print(what, markup=False, highlight=False)

    with Tfrs(options.python, options.threads) as tfrs:
        versions = tfrs.ask("versions")
        give_split(tfrs, split)
        say("the same loss …")
        losses = [same_loss(tfrs, options.data, split, layers) for layers in DEPTHS]
        console.print(loss_table(losses))
        races = []
        for layers in DEPTHS:
            say(f"{list(layers)}, alternating …")
            plan = (TUTORIAL_EPOCHS, TUTORIAL_VALIDATE_EVERY) if options.full else (options.epochs + 1, 1)
            races.append(race(tfrs, options.data, split, layers, *plan))
        if options.full:
            curve = races[DEPTHS.index(CURVE_DEPTH)]
        else:
            say(f"{list(CURVE_DEPTH)} for the curve …")
            curve = race(tfrs, options.data, split, CURVE_DEPTH, options.curve_epochs, TUTORIAL_VALIDATE_EVERY)
    whole = whole_of(races)
    console.print(time_table(races, whole))
    say("the tuned recipe …")
    tuned = tuned_curve(options.data, split, options.tuned_epochs)
    curves = {"tfrs": curve.tfrs.curve, "tutorial": curve.twotower.curve, "tuned": tuned}
    best = max(point.score for point in curves["tfrs"])
    first = {key: first_at(points, best) for key, points in curves.items()}
    reached = Reached(best, **{key: None if point is None else point.seconds for key, point in first.items()})
    if not options.full:
        say(f"TensorFlow Recommenders' best of {options.curve_epochs} epochs; --full trains all {TUTORIAL_EPOCHS}:")
    console.print(score_table(reached))
    draw(curves, best, options.data, picture)
    results = {
        "TensorFlow Recommenders": versions,
        "data": {"name": options.data, "split": split.rule, "fingerprint": split.fingerprint},
        "same loss": losses,
        "differences of losses": {str(list(same.layers)): same.differences for same in losses},
        "races": races,
        "whole tutorial": whole,
        "curve epochs": len(curve.tfrs.epochs),
        "curves": curves,
        "seconds to score": reached,
    }
    console.print(f"written to {write_report(name, results, options.out)} and {picture}", soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except TwoTowerError as error:
        sys.exit(f"error: {error}")
