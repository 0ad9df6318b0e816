"""Where the time of a training step goes: all operations of some steps by kind, and what lies between them.

    python benchmarks/step_profile.py --data movielens-100k --depths 32 64,32 128,64,32
    python benchmarks/step_profile.py --data simulated:6000,3500,200000 --depths 64,32 --history 20

Trains the tutorial's recipe for three epochs on one thread: the first warms up, the second is timed, the third is
profiled, except its first step. An operation counts with its own time, without that of operations it calls, so the
parts add up to the time of the steps. What lies between operations is Python, the dispatch of operations, autograd, and
the profiler itself. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import torch
from measuring import write_report
from rich.console import Console
from rich.table import Table
from step import reads
from torch.profiler import ProfilerActivity, profile

from twotower.data import Dataset, builtin
from twotower.recipes.config import Config, ModelConfig
from twotower.training import Callback, TrainingState

BETWEEN = "between operations"
PRODUCTS = {"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm"}
LOOK_UPS = ("index", "embedding", "gather", "scatter", "sort", "unique", "segment", "sparse", "coalesce")
"""Parts of the names of operations that read rows of tables and columns, or sum the gradients of rows."""

KINDS = (
    "softmax: products",
    "softmax: other passes",
    "towers: products",
    "look-ups and their gradients",
    "optimizer",
    "other operations",
    BETWEEN,
)


class Profiled(msgspec.Struct, frozen=True):
    """One depth.

    Attributes:
        layers: Widths of the dense layers.
        steps: Number of profiled steps.
        milliseconds: Time of a step by kind; these add up to a profiled step.
        unprofiled: Milliseconds of a step without the profiler.
        operations: Number of operations of a step.
        largest: The ten operations that take most of the time, with their milliseconds per step.
    """

    layers: list[int]
    steps: int
    milliseconds: dict[str, float]
    unprofiled: float
    operations: float
    largest: dict[str, float]


class Window(Callback):
    """Profiles the steps of the third epoch after its first."""

    def __init__(self, epoch_steps: int) -> None:
        self.epoch_steps, self.taken = epoch_steps, 0
        self.profiler = profile(activities=[ProfilerActivity.CPU])
        self.seconds = 0.0

    def on_step(self, state: TrainingState) -> None:
        """Starts and ends the profile."""
        del state
        self.taken += 1
        if self.taken == 2 * self.epoch_steps + 1:
            self.profiler.start()
            self.seconds = time.perf_counter()
        elif self.taken == 3 * self.epoch_steps:
            self.seconds = time.perf_counter() - self.seconds
            self.profiler.stop()


def kind_of(event: Any) -> str:
    """The kind of an operation, from its name and those of what called it."""
    callers, parent = [], event.cpu_parent
    while parent is not None:
        callers.append(parent.name)
        parent = parent.cpu_parent
    if any("Optimizer." in name for name in (event.name, *callers)):
        return "optimizer"
    if any("_Softmax" in name for name in callers):
        return "softmax: products" if event.name in PRODUCTS else "softmax: other passes"
    if event.name in PRODUCTS:
        return "towers: products"
    return "look-ups and their gradients" if any(part in event.name for part in LOOK_UPS) else "other operations"


def profiled(layers: tuple[int, ...], history: int, batch: int, train: Dataset) -> Profiled:
    """Trains one depth for three epochs."""
    training = {"batch_size": batch, "epochs": 3, "validate_every": 3}
    model_config = ModelConfig(layers=layers, query=reads(train, history) if history else [])
    config = Config(recipe="tutorial", model=model_config, training=training)
    recipe = config.resolved_recipe(train)
    window = Window(-(-len(train) // batch))
    trained = recipe.trainer.fit(config.model.build(train, recipe), train, callbacks=[window], progress=False)
    steps = window.epoch_steps - 1
    milliseconds, by_name = dict.fromkeys(KINDS, 0.0), defaultdict[str, float](float)
    kept, found = ("aten::", "Optimizer.", "_Softmax"), window.profiler.events()  # type: ignore[no-untyped-call]
    events = [event for event in found if event.name.startswith(kept)]
    for event in events:
        own = event.self_cpu_time_total / 1000 / steps
        milliseconds[kind_of(event)] += own
        by_name[event.name] += own
    milliseconds[BETWEEN] = 1000 * window.seconds / steps - sum(milliseconds.values())
    return Profiled(
        layers=list(layers),
        steps=steps,
        milliseconds=milliseconds,
        unprofiled=1000 * trained.epochs[1].seconds / window.epoch_steps,
        operations=sum(event.name.startswith("aten::") for event in events) / steps,
        largest=dict(sorted(by_name.items(), key=lambda one: -one[1])[:10]),
    )


def table_of(outcomes: list[Profiled]) -> Table:
    """Milliseconds of a step by kind, with shares; a column per depth."""
    table = Table(title="A training step, ms", title_justify="left")
    table.add_column("")
    for one in outcomes:
        table.add_column(str(one.layers), justify="right")
    for kind in KINDS:
        cells = [(one.milliseconds[kind], sum(one.milliseconds.values())) for one in outcomes]
        table.add_row(kind, *(f"{own:.2f}  {own / whole:4.0%}" for own, whole in cells))
    table.add_row("a profiled step", *(f"{sum(one.milliseconds.values()):.2f} 100%" for one in outcomes))
    table.add_row("a step without the profiler", *(f"{one.unprofiled:.2f}     " for one in outcomes))
    table.add_row("operations", *(f"{one.operations:.0f}     " for one in outcomes))
    return table


def _widths(depth: str) -> tuple[int, ...]:
    return tuple(map(int, depth.split(",")))


def main() -> None:
    """Profiles every depth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="movielens-100k", help="a built-in data set, or simulated:QUERIES,CANDIDATES,EVENTS"
    )
    parser.add_argument("--depths", nargs="+", default=["32", "64,32", "128,64,32"], help="layers of both towers")
    parser.add_argument("--history", type=int, default=0, help="history length of the query tower")
    parser.add_argument("--batch", type=int, default=2048, help="events per step")
    parser.add_argument("--out", type=Path, help="the JSON; default: results/step-profile.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = builtin.load(options.data)
    train, _ = Config().rule_for(data)(data)
    outcomes = [profiled(_widths(depth), options.history, options.batch, train) for depth in options.depths]
    console = Console()
    console.print(table_of(outcomes))
    results = {"data": options.data, "history": options.history, "batch": options.batch, "outcomes": outcomes}
    console.print(f"written to {write_report('step-profile', results, options.out)}")


if __name__ == "__main__":
    main()
