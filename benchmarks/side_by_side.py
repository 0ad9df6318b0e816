"""Parallel trainings: one process with all threads, compared with one single-threaded process per core.

    python benchmarks/side_by_side.py --data movielens-100k --layers 64,32 --recipes tuned tutorial

Both setups alternate; every process trains its own model, and start-up time is not counted. Prints the median epoch
time, and how many times more epochs parallel processes complete in the same time; writes JSON.
"""

from __future__ import annotations

import argparse
import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import msgspec
import torch
from measuring import Timing, write_report
from rich.console import Console
from rich.table import Table

from twotower.data import builtin
from twotower.processes import allowed_threads, start_worker, stop_workers
from twotower.recipes.config import Config, ModelConfig
from twotower.recipes.recipe import RecipeName


class Outcome(msgspec.Struct, frozen=True):
    """Result for one recipe.

    Attributes:
        recipe: Its name.
        alone: Epoch times of one process with all threads.
        beside: Epoch times of parallel processes with one thread each.
    """

    recipe: str
    alone: Timing
    beside: Timing

    @property
    def gain(self) -> float:
        """Throughput of parallel processes relative to a single one."""
        return allowed_threads() * self.alone.median / self.beside.median


def train(
    data: str, layers: tuple[int, ...], recipe: RecipeName, epochs: int, threads: int, gate: Barrier, out: Connection
) -> None:
    """Trains in a worker process, and sends the seconds of each epoch except the first."""
    torch.set_num_threads(threads)
    config = Config(recipe=recipe, model=ModelConfig(layers=layers))
    log = builtin.load(data)
    part = config.rule_for(log)(log).train
    resolved = config.resolved_recipe(part)
    model = config.model.build(part, resolved)
    trainer = msgspec.structs.replace(resolved.trainer, early_stopping=None)
    gate.wait()
    history = trainer.fit(model, part, stop_after=epochs + 1)
    out.send_bytes(msgspec.json.encode([epoch.seconds for epoch in history.epochs[1:]]))


def measured(data: str, layers: tuple[int, ...], recipe: RecipeName, epochs: int, processes: int) -> list[float]:
    """Epoch times of `processes` parallel processes, which share the cores."""
    gate = multiprocessing.get_context("spawn").Barrier(processes)
    ends, workers = [], []
    threads = max(1, allowed_threads() // processes)
    try:
        for _ in range(processes):
            ours, theirs = multiprocessing.Pipe(duplex=False)
            workers.append(start_worker(train, data, layers, recipe, epochs, threads, gate, theirs, threads=threads))
            theirs.close()
            ends.append(ours)
        return [seconds for end in ends for seconds in msgspec.json.decode(end.recv_bytes(), type=list[float])]
    finally:
        stop_workers(workers)


def main() -> None:
    """Measures each recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="movielens-100k", help="a built-in data set, or simulated:…")
    parser.add_argument("--layers", default="64,32", help="layers of both towers")
    parser.add_argument("--recipes", nargs="+", default=["tuned", "tutorial"], choices=["tuned", "tutorial"])
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs per turn")
    parser.add_argument("--turns", type=int, default=2, help="turns of each setup")
    parser.add_argument("--out", type=Path, help="the JSON; default: results/side-by-side.json")
    options = parser.parse_args()
    console = Console()
    layers = tuple(map(int, options.layers.split(",")))
    table = Table("recipe", show_edge=False)
    for name in (
        f"an epoch,\n{allowed_threads()} threads",
        f"an epoch, 1 thread,\n{allowed_threads()} at once",
        "times the\nepochs",
    ):
        table.add_column(name, justify="right")
    outcomes = []
    for recipe in options.recipes:
        alone, beside = [], []
        for _ in range(options.turns):
            alone += measured(options.data, layers, recipe, options.epochs, 1)
            beside += measured(options.data, layers, recipe, options.epochs, allowed_threads())
        outcome = Outcome(recipe, Timing(alone), Timing(beside))
        outcomes.append(outcome)
        table.add_row(recipe, str(outcome.alone), str(outcome.beside), f"{outcome.gain:.2f}")
    console.print(table)
    results = {"data": options.data, "layers": layers, "cores": allowed_threads(), "outcomes": outcomes}
    console.print(f"written to {write_report('side-by-side', results, options.out)}")


if __name__ == "__main__":
    main()
