"""Time and memory that each baseline takes to fit and evaluate, on a log of a given shape.

    python benchmarks/baselines.py --queries 22000 --candidates 12000 --events 200000 --threads 2

The log is random: some candidates and queries have many more events than others, and each has at least one. 20% of the
events are test. Each baseline runs in its own process, without a budget; `all` runs all of them in one process, as
`twotower train` does. Memory is the peak of the process, including Python, PyTorch and the log, which `none` shows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import torch
from measuring import peak_memory, readable, write_report
from rich.console import Console
from rich.table import Table

from twotower import processes
from twotower.data import Dataset, from_tables, split_random
from twotower.evaluation import BaselineBudget, BaselineNames, measure_baselines
from twotower.evaluation.baselines.budget import Machine
from twotower.evaluation.baselines.names import BASELINES

NAMES = ("none", "popularity", "item_knn", "ease", "ials", "all")


class Shape(msgspec.Struct, frozen=True):
    """Sizes of a log."""

    queries: int
    candidates: int
    events: int


class Result(msgspec.Struct, frozen=True):
    """Result of one process.

    Attributes:
        name: Which baselines.
        seconds: Time to fit and evaluate.
        estimate: Estimated seconds to fit; None if there is no estimate.
        peak_bytes: Peak memory of the process.
        scores: Top-100 accuracy under `all` and `unseen`, by baseline.
    """

    name: str
    seconds: float
    estimate: float | None
    peak_bytes: float
    scores: dict[str, tuple[float, float]]


def log_of(shape: Shape) -> Dataset:
    """A random log in which the popularity of candidates and queries follows a power law."""
    draws = np.random.default_rng(0)

    def ids(count: int, power: float) -> np.ndarray:
        share = (np.arange(count) + 10.0) ** -power
        drawn = draws.choice(count, max(0, shape.events - count), p=share / share.sum())
        return draws.permutation(np.concatenate([np.arange(count), drawn]))[: shape.events]

    columns = {"user": ids(shape.queries, 0.6), "item": ids(shape.candidates, 0.8)}
    return from_tables(pa.table(columns), query_id="user", candidate_id="item")


def run(name: str, shape: Shape, threads: int) -> Result:
    """Fits and evaluates one baseline, or all of them, in the current process."""
    torch.set_num_threads(threads)
    train, test = split_random(log_of(shape))
    cost = getattr(BASELINES[name], "cost", None) if name in BASELINES else None
    estimate = None if cost is None else cost(train, Machine()).seconds
    names: BaselineNames = [name]
    if name == "all" or name == "none":
        names = name
    started = time.perf_counter()
    rows, notes = measure_baselines(test, train, baselines=names, budget=BaselineBudget(seconds=1e9, memory=1 << 60))
    seconds = time.perf_counter() - started
    assert not notes, notes
    scores = {
        baseline: (found.scores.all["top_100"], found.scores.unseen["top_100"]) for baseline, found in rows.items()
    }
    return Result(name, seconds, estimate, peak_memory(), scores)


def table_of(results: Sequence[Result]) -> Table:
    """One row per process."""
    table = Table("", show_edge=False)
    for heading in ("seconds", "estimated to learn", "peak memory", "top-100, all", "unseen"):
        table.add_column(heading, justify="right")
    for result in results:
        own = result.scores.get(result.name)
        table.add_row(
            result.name,
            f"{result.seconds:.1f}",
            "" if result.estimate is None else readable(max(result.estimate, 1e-9)),
            f"{result.peak_bytes / 2**30:.2f} GiB",
            *(("", "") if own is None else (f"{figure:.4f}" for figure in own)),
        )
    return table


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=22_000)
    parser.add_argument("--candidates", type=int, default=12_000)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--out", type=Path, help="the JSON; default: results/baselines.json beside this script")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = Shape(options.queries, options.candidates, options.events)
    with ProcessPoolExecutor(1, mp_context=get_context(processes.START_METHOD), max_tasks_per_child=1) as pool:
        results = [pool.submit(run, name, shape, options.threads).result() for name in options.names]
    console = Console()
    console.print(
        f"{shape.queries:,} queries × {shape.candidates:,} candidates × {shape.events:,} events, "
        f"{options.threads} threads"
    )
    console.print(table_of(results))
    console.print(f"written to {write_report('baselines', {'shape': shape, 'results': results}, options.out)}")


if __name__ == "__main__":
    main()
