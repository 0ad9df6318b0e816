"""Effect of `torch.compile` on small training steps, compared with eager ones.

    python benchmarks/compiled.py --threads 1

Trains the tutorial's models on the batches of an epoch, alternating between eager mode, compiled towers, and a fully
compiled step. Shapes that depend on the data, such as the number of distinct candidates in a batch, are dynamic. Times
are CPU time of this process, except for the first step, in which PyTorch compiles: wall time. Prints a table and writes
JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import msgspec
import torch
from measuring import Timing, readable, time_alternately, write_report
from rich.console import Console
from rich.table import Table

from twotower.data import Dataset, builtin
from twotower.recipes.config import Config, ModelConfig
from twotower.training.accuracy import StreamedAccuracy
from twotower.training.objective import StepLoss
from twotower.training.run import Run

MODES = ("plain", "towers", "step")


class Outcome(msgspec.Struct, frozen=True):
    """Timing of one depth, batch size and mode.

    Attributes:
        layers: Layers of both towers.
        batch: Events per step.
        way: `plain`, or what was compiled: `towers` or `step`.
        first: Seconds of the first step.
        steps: Steps per repetition.
        cpu: CPU time of each repetition.
    """

    layers: list[int]
    batch: int
    way: str
    first: float
    steps: int
    cpu: Timing


def stepping(way: str, layers: tuple[int, ...], batch: int, train: Dataset, backend: str) -> Callable[[], object]:
    """A function that runs the next step of a new model in this mode."""
    config = Config(recipe="tutorial", model=ModelConfig(layers=layers))
    recipe = config.resolved_recipe(train)
    trainer = msgspec.structs.replace(recipe.trainer, batch_size=batch)
    model = config.model.build(train, recipe).learn(train, trainer.seed)
    run = Run.prepare(trainer, model, train, None, last_epoch=1)
    model.train()
    step: Callable[..., StepLoss] = run._step
    if way == "towers":
        for name in ("query_vectors", "candidate_vectors"):
            setattr(model, name, torch.compile(getattr(model, name), dynamic=True, backend=backend))
    elif way == "step":
        step = torch.compile(step, dynamic=True, backend=backend)
    with run.source.epoch(1) as parts:
        ((part, order),) = parts
    batches = cycle(torch.split(order, batch)[: len(order) // batch])
    accuracy = StreamedAccuracy(trainer.ks, model.device)
    return lambda: step(part, next(batches), accuracy)


def measured(
    layers: tuple[int, ...], batch: int, train: Dataset, backend: str, steps: int, repetitions: int
) -> list[Outcome]:
    """Measures every mode for one depth and batch size."""
    first, sides = {}, {}
    for way in MODES:
        step = stepping(way, layers, batch, train, backend)
        started = time.perf_counter()
        step()
        first[way] = time.perf_counter() - started
        sides[way] = lambda step=step: [step() for _ in range(steps)]
    found = time_alternately(sides, repetitions, clock=time.process_time)
    return [Outcome(list(layers), batch, way, first[way], steps, found[way]) for way in MODES]


def table_of(outcomes: list[Outcome]) -> Table:
    """One row per mode, with its ratio to the plain one."""
    table = Table("layers", "batch", "compiled", show_edge=False)
    for name in ("CPU a step", "over plain", "first step"):
        table.add_column(name, justify="right")
    for one in outcomes:
        plain = next(
            other for other in outcomes if (other.layers, other.batch, other.way) == (one.layers, one.batch, "plain")
        )
        table.add_row(
            ",".join(map(str, one.layers)),
            f"{one.batch:,}",
            one.way,
            readable(one.cpu.median / one.steps),
            f"{one.cpu.median / plain.cpu.median:.2f}",
            readable(one.first),
        )
    return table


def main() -> None:
    """Measures every depth, batch size and mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="simulated:943,1682,100000", help="a built-in data set")
    parser.add_argument("--depths", nargs="+", default=["32", "128,64,32"], help="layers of both towers")
    parser.add_argument("--batches", nargs="+", type=int, default=[512, 2048], help="events per step")
    parser.add_argument("--steps", type=int, default=40, help="steps per repetition")
    parser.add_argument("--repetitions", type=int, default=5, help="timed repetitions")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--backend", default="inductor", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="the JSON; default: results/compiled.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch._dynamo.config.capture_dynamic_output_shape_ops = True  # otherwise torch.unique breaks the graph
    log = builtin.load(options.data)
    train, _ = Config().rule_for(log)(log)
    outcomes = []
    for depth in options.depths:
        for batch in options.batches:
            layers = tuple(map(int, depth.split(",")))
            outcomes += measured(layers, batch, train, options.backend, options.steps, options.repetitions)
    Console().print(table_of(outcomes))
    report = {"data": options.data, "outcomes": outcomes}
    Console().print(f"written to {write_report('compiled', report, options.out)}", soft_wrap=True)


if __name__ == "__main__":
    main()
