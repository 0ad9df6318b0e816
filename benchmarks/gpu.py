"""Training on a GPU: the tutorial's three depths, and events per second with large tables, compared with their floors.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --data simulated:5000,2000,100000 --precision tf32

Each precision trains the tutorial's models for 300 epochs with a validation every 5, after a short warm-up, and then
two towers with an id table and a dense layer each, on events drawn with the probabilities of `scaling.py`. Floors are
the minimum work of a step according to `step.py` and `scaling.py`, at this device's peak rates. Prints two tables and
writes JSON. Without a CUDA device, it exits with status 2.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pyarrow as pa
import torch
from measuring import Rates, write_report
from rich.console import Console
from rich.table import Table
from scaling import CANDIDATE_POWER, QUERY_POWER, Size, drawn, floor
from step import distinct_candidates, work_of_a_step, work_of_a_validation

from twotower import Adagrad, Category, InBatchSoftmax, Tower, Trainer, TwoTower
from twotower.data import Dataset, builtin, from_tables
from twotower.recipes.config import Config, ModelConfig
from twotower.training.precision import Precision, products_in

PRODUCT = 4096
"""Rows and columns of the matrices in the timed product."""

NUMBERS = 1 << 26
"""Size of the tensors for the timings of copies, sums and exponentials."""


class Variant(msgspec.Struct, frozen=True):
    """Precision and device."""

    precision: Precision
    device: str

    def of(self, trainer: Trainer, **changes: Any) -> Trainer:
        """The trainer with this precision and device."""
        return msgspec.structs.replace(trainer, precision=self.precision, device=self.device, **changes)


class Tutorial(msgspec.Struct, frozen=True):
    """Result of one depth and variant; `seconds` covers the whole `fit`, including validations."""

    variant: Variant
    layers: list[int]
    epochs: int
    seconds: float
    validation_seconds: float
    floor_seconds: float
    top_100: float


class Large(msgspec.Struct, frozen=True):
    """Result of large tables with one variant; the first repetition is a warm-up."""

    variant: Variant
    seconds: list[float]
    events_per_second: float
    floor_seconds: float


def rates_of(variant: Variant, product: int, numbers: int) -> Rates:
    """Peak rates of the device: products in the variant's precision, exponentials, copies, sums."""
    device = torch.device(variant.device)
    left, right = torch.randn(2, product, product, device=device)
    if variant.precision == "bf16":
        left, right = left.bfloat16(), right.bfloat16()
    large, other = torch.randn(2, numbers, device=device)

    def best(work: Callable[[], object], amount: float) -> float:
        shortest = float("inf")
        for _ in range(6):
            finished(device)
            started = time.perf_counter()
            for _ in range(5):
                work()
            finished(device)
            shortest = min(shortest, (time.perf_counter() - started) / 5)
        return amount / shortest

    with products_in(variant.precision):
        flops = best(lambda: left @ right, 2 * product**3)
    return Rates(
        flops=flops,
        exponentials=best(lambda: torch.exp2(large, out=other), numbers),
        copy=best(lambda: other.copy_(large), 8 * numbers),
        read=best(large.sum, 4 * numbers),
    )


def finished(device: torch.device) -> None:
    """Waits until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def tutorial(
    variant: Variant, layers: tuple[int, ...], epochs: int, train: Dataset, test: Dataset, best: Rates
) -> Tutorial:
    """Trains one depth of the tutorial."""
    config = Config(recipe="tutorial", model=ModelConfig(layers=layers))
    recipe = config.resolved_recipe(train)
    trainer = variant.of(recipe.trainer, epochs=epochs)
    variant.of(recipe.trainer, epochs=2).fit(config.model.build(train, recipe), train, test)
    model = config.model.build(train, recipe)
    started = time.perf_counter()
    history = trainer.fit(model, train, test)
    seconds = time.perf_counter() - started
    steps, distinct = -(-len(train) // trainer.batch_size), distinct_candidates(train, trainer.batch_size)
    step = work_of_a_step(model, len(train) / steps, distinct).seconds(best)
    validation = work_of_a_validation(model, test).seconds(best)
    return Tutorial(
        variant=variant,
        layers=list(layers),
        epochs=epochs,
        seconds=seconds,
        validation_seconds=sum(epoch.validation_seconds for epoch, _ in history.validated),
        floor_seconds=epochs * steps * step + len(history.validated) * validation,
        top_100=history.validated[-1][1].value("all.top_100"),
    )


def large_events(size: Size) -> tuple[Dataset, Dataset]:
    """Events with power-law popularity, and a second data set in which every id occurs at least once."""
    draw = np.random.default_rng(0)
    ids = np.arange(max(size.queries, size.candidates))
    events, every_id = (
        from_tables(pa.table({"query": queries, "candidate": candidates}), query_id="query", candidate_id="candidate")
        for queries, candidates in (
            (
                drawn(size.queries, QUERY_POWER, size.interactions, draw),
                drawn(size.candidates, CANDIDATE_POWER, size.interactions, draw),
            ),
            (ids % size.queries, ids % size.candidates),
        )
    )
    return events, every_id


def large(variant: Variant, size: Size, repetitions: int, data: tuple[Dataset, Dataset], best: Rates) -> Large:
    """Trains one epoch over all events per repetition."""
    events, every_id = data
    query, candidate = (
        Tower([Category(name, size.dim, unknown_rate=0.0)], [size.dim]) for name in ("query", "candidate")
    )
    trainer = Trainer(
        epochs=repetitions + 1,
        batch_size=size.batch,
        optimizer=Adagrad(0.1),
        loss=InBatchSoftmax(log_q=False, reduction="sum"),
    )
    history = variant.of(trainer).fit(TwoTower(query, candidate).learn(every_id), events)
    seconds = [epoch.seconds for epoch in history.epochs]
    rate = len(events) / statistics.median(seconds[1:])
    return Large(variant, seconds, rate, len(events) / size.batch * sum(floor(size, best).values()))


def tutorial_table(outcomes: list[Tutorial]) -> Table:
    """One row per variant and depth, and one for all depths of a variant."""
    table = Table("tutorial", "layers", show_edge=False)
    for name in ("epochs", "seconds", "of them\nvalidation", "floor", "over\nfloor", "top-100"):
        table.add_column(name, justify="right")
    for variant, group in itertools.groupby(outcomes, lambda one: one.variant):
        own = list(group)
        for one in own:
            numbers = (one.epochs, one.seconds, one.validation_seconds, one.floor_seconds)
            table.add_row(variant.precision, ",".join(map(str, one.layers)), *times(*numbers), f"{one.top_100:.4f}")
        sums = (sum(getattr(one, name) for one in own) for name in ("seconds", "validation_seconds", "floor_seconds"))
        table.add_row(variant.precision, "all", *times(sum(one.epochs for one in own), *sums), "", end_section=True)
    return table


def times(epochs: int, seconds: float, validation: float, least: float) -> list[str]:
    """The time cells of a row."""
    return [f"{epochs:,}", f"{seconds:.2f}", f"{validation:.2f}", f"{least:.3f}", f"{seconds / least:.1f}"]


def large_table(outcomes: list[Large]) -> Table:
    """One row per variant."""
    table = Table("large tables", show_edge=False)
    for name in ("events/s", "over floor"):
        table.add_column(name, justify="right")
    for one in outcomes:
        over = statistics.median(one.seconds[1:]) / one.floor_seconds
        table.add_row(one.variant.precision, f"{one.events_per_second:,.0f}", f"{over:.1f}")
    return table


def main() -> None:
    """Measures every variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="movielens-100k", help="a built-in data set, or simulated:QUERIES,CANDIDATES,EVENTS"
    )
    parser.add_argument("--precision", nargs="+", choices=get_args(Precision), default=list(get_args(Precision)))
    parser.add_argument("--depths", nargs="+", default=["32", "64,32", "128,64,32"], help="layers of both towers")
    parser.add_argument("--epochs", type=int, default=300, help="epochs for each depth")
    parser.add_argument("--queries", type=int, default=1_000_000, help="large tables only, like the next options")
    parser.add_argument("--candidates", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=300, help="steps per repetition")
    parser.add_argument("--repetitions", type=int, default=5, help="timed repetitions")
    parser.add_argument("--device", default="cuda", help="cpu only tests that the command works")
    parser.add_argument("--product", type=int, default=PRODUCT, help=argparse.SUPPRESS)
    parser.add_argument("--numbers", type=int, default=NUMBERS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="the JSON; default: results/gpu.json")
    options = parser.parse_args()
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("there is no CUDA device here, or PyTorch was built without CUDA; nothing was measured\n")
        sys.exit(2)
    console = Console()
    log = builtin.load(options.data)
    train, test = Config().rule_for(log)(log)
    size = Size(options.batch * options.steps, options.queries, options.candidates, options.dim, options.batch)
    data = large_events(size)
    tutorials, larges, found = [], [], {}
    for precision in options.precision:
        variant = Variant(precision, options.device)
        found[precision] = rates_of(variant, options.product, options.numbers)
        for depth in options.depths:
            layers = tuple(map(int, depth.split(",")))
            tutorials.append(tutorial(variant, layers, options.epochs, train, test, found[precision]))
        larges.append(large(variant, size, options.repetitions, data, found[precision]))
    console.print(tutorial_table(tutorials))
    console.print(large_table(larges))
    results = {"data": options.data, "size": size, "rates": found, "tutorial": tutorials, "large": larges}
    console.print(f"written to {write_report('gpu', results, options.out)}", soft_wrap=True)


if __name__ == "__main__":
    main()
