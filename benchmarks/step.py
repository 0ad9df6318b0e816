"""The tutorial's models: time of an epoch, a step and a validation by depth and batch size, compared with floors.

    python benchmarks/step.py --data movielens-100k --depths 32 64,32 128,64,32 --batches 2048
    python benchmarks/step.py --data simulated:50000,20000,1000000 --depths 64,32 --batches 2048 8192 32768 65536
    python benchmarks/step.py --data simulated:6000,3500,1000000 --depths 64,32 256,64 --history 0 20

With `--history N`, the query tower also reads the latest N choices beside its id, as weighted means like the recipe.

The floor of a step is the time of its products, exponentials and memory traffic at this machine's peak rates, with the
same number of threads: forward and twice as much backward through both towers, once per distinct candidate; three
products and one exponential per logit of the softmax, and likewise per weight of a history's mean; and the traffic of
embeddings and Adagrad, assuming that nothing is cached. The floor of a validation is the forward pass of the towers, a
product for each score, and each score read once. Prints a table of medians in milliseconds and writes JSON.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from measuring import Rates, Timing, rates, write_report
from rich.console import Console
from rich.table import Table

from twotower.data import Dataset, builtin
from twotower.features import History
from twotower.features.encoders import KERNELS
from twotower.model import Tower, TowerModule, TwoTower
from twotower.model.tower_module import features_of
from twotower.recipes.config import Config, ModelConfig, SplitConfig

PASSES = 3
"""Matrix products per layer and in the softmax: forward, and for the gradients of both factors."""

ADAGRAD = 6
"""Values moved per parameter: gradient, parameter and sum of squares, each read and written."""

DIM = 32
"""Embedding dimension with histories."""

EMBEDDED = 4
"""Values moved per embedding number: itself and its gradient, each in the table and outside."""


class Work(msgspec.Struct, frozen=True):
    """Operations and bytes."""

    flops: float
    exponentials: float
    copied: float
    read: float

    def seconds(self, best: Rates) -> float:
        """Time at these rates, one kind of work after the other."""
        return (
            self.flops / best.flops
            + self.exponentials / best.exponentials
            + self.copied / best.copy
            + self.read / best.read
        )


class Outcome(msgspec.Struct, frozen=True):
    """Result for one depth and batch size.

    Attributes:
        layers: Layers of both towers.
        history: Choices that the query tower reads.
        batch: Events per step.
        steps: Steps per epoch.
        distinct: Mean number of distinct candidates per batch.
        parameters: Number of trained parameters.
        epoch: Seconds per epoch.
        validation: Seconds per validation.
        step_work: Minimum work of a step.
        validation_work: Minimum work of a validation.
    """

    layers: list[int]
    history: int
    batch: int
    steps: int
    distinct: float
    parameters: int
    epoch: Timing
    validation: Timing
    step_work: Work
    validation_work: Work


def measured(
    layers: tuple[int, ...], history: int, batch: int, train: Dataset, test: Dataset, repetitions: int
) -> Outcome:
    """Trains one depth with one batch size; the first epoch and its validation are a warm-up."""
    training = {"batch_size": batch, "epochs": repetitions + 1, "validate_every": 1}
    model_config = ModelConfig(layers=layers, query=reads(train, history) if history else [])
    config = Config(recipe="tutorial", model=model_config, training=training)
    recipe = config.resolved_recipe(train)
    model = config.model.build(train, recipe)
    epochs = recipe.trainer.fit(model, train, test).epochs[1:]
    steps, distinct = -(-len(train) // batch), distinct_candidates(train, batch)
    return Outcome(
        layers=list(layers),
        history=history,
        batch=batch,
        steps=steps,
        distinct=distinct,
        parameters=model.parameter_count,
        epoch=Timing([epoch.seconds for epoch in epochs]),
        validation=Timing([epoch.validation_seconds for epoch in epochs]),
        step_work=work_of_a_step(model, len(train) / steps, distinct),
        validation_work=work_of_a_validation(model, test),
    )


def reads(train: Dataset, history: int) -> list[dict[str, Any]]:
    """Settings of the query tower's features: the id and the history."""
    own = {"kind": "category", "column": train.query_id, "dim": DIM}
    past = {"column": train.candidate_id, "by": train.query_id, "time": train.time, "length": history, "dim": DIM}
    return [own, {"kind": "history", **past}]


def distinct_candidates(train: Dataset, batch: int) -> float:
    """Mean number of distinct candidates in the full batches of an epoch."""
    order = np.random.default_rng(0).permutation(train.candidate_index)
    whole = max(1, len(order) // batch) * batch
    return float(np.mean([len(np.unique(part)) for part in np.split(order[:whole], range(batch, whole, batch))]))


def multiplications(tower: TowerModule) -> int:
    """Multiplications of the dense layers for one row."""
    assert isinstance(tower, Tower)
    widths = [inputs_of(tower), *tower.layers]
    return sum(inputs * outputs for inputs, outputs in pairwise(widths))


def inputs_of(tower: TowerModule) -> int:
    """Width of the features' output for one row."""
    return sum(feature.width for feature in features_of(tower))


def looked_up(tower: TowerModule) -> int:
    """Number of embedding values that one row looks up, plus the widths of features without look-ups."""
    numbers = 0
    for feature in features_of(tower):
        tables = feature.look_ups
        numbers += sum(slots * table.shape[1] for table, slots in tables) if tables else feature.width
    return numbers


def work_of_a_step(model: TwoTower, events: float, distinct: float) -> Work:
    """Minimum work of a step with this many events and distinct candidates."""
    logits = events * distinct
    towers = events * multiplications(model.query) + distinct * multiplications(model.candidate)
    histories = [feature for feature in features_of(model.query) if isinstance(feature, History)]
    weights = events * sum(feature.length * KERNELS for feature in histories)
    means = weights * DIM
    embedded = events * looked_up(model.query) + distinct * looked_up(model.candidate)
    return Work(
        flops=2.0 * PASSES * (towers + means + logits * model.query.width),
        exponentials=logits + weights,
        copied=4.0 * (EMBEDDED * embedded + ADAGRAD * model.parameter_count),
        read=0.0,
    )


def work_of_a_validation(model: TwoTower, test: Dataset) -> Work:
    """Minimum work of a validation."""
    candidates = test.candidates.num_rows
    scores = float(len(test) * candidates)
    towers = len(test) * multiplications(model.query) + candidates * multiplications(model.candidate)
    return Work(flops=2.0 * (towers + scores * model.query.width), exponentials=0.0, copied=0.0, read=4.0 * scores)


def table_of(outcomes: list[Outcome], best: Rates) -> Table:
    """Table of times and distances from the floors."""
    table = Table("layers", show_edge=False)
    for name in ("history", "batch", "epoch", "step", "floor", "over\nfloor", "valid-\nation", "floor", "over\nfloor"):
        table.add_column(name, justify="right")
    for outcome in outcomes:
        step, step_floor = outcome.epoch.median / outcome.steps, outcome.step_work.seconds(best)
        validation, validation_floor = outcome.validation.median, outcome.validation_work.seconds(best)
        table.add_row(
            ",".join(map(str, outcome.layers)),
            str(outcome.history),
            f"{outcome.batch:,}",
            *milliseconds(outcome.epoch.median, step, step_floor),
            f"{step / step_floor:.1f}",
            *milliseconds(validation, validation_floor),
            f"{validation / validation_floor:.1f}",
        )
    return table


def milliseconds(*seconds: float) -> list[str]:
    """Formats durations in milliseconds."""
    return [f"{1000 * value:,.1f}" for value in seconds]


def main() -> None:
    """Measures every depth with every batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="movielens-100k", help="a built-in data set, or simulated:QUERIES,CANDIDATES,EVENTS"
    )
    parser.add_argument("--depths", nargs="+", default=["32", "64,32", "128,64,32"], help="layers of both towers")
    parser.add_argument("--batches", type=int, nargs="+", default=[2048], help="events per step")
    parser.add_argument("--history", type=int, nargs="+", default=[0], help="history length of the query tower")
    parser.add_argument("--repetitions", type=int, default=5, help="timed epochs and validations")
    parser.add_argument("--out", type=Path, help="the JSON; default: results/step-DATA.json")
    options = parser.parse_args()
    console = Console()

    data = builtin.load(options.data)
    rule = Config().rule_for(data)
    train, test = rule(data)
    before = rates()
    outcomes = [
        measured(tuple(map(int, depth.split(","))), history, batch, train, test, options.repetitions)
        for depth in options.depths
        for history in options.history
        for batch in options.batches
    ]
    after = rates()
    best = Rates(**{name: max(getattr(before, name), getattr(after, name)) for name in Rates.__struct_fields__})
    console.print(table_of(outcomes, best))
    name = f"step-{options.data}".replace(":", "-").replace(",", "-")
    split = SplitConfig(str(rule))
    results = {"data": options.data, "split": split, "rates": best, "outcomes": outcomes}
    console.print(f"written to {write_report(name, results, options.out)}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
