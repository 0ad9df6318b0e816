"""A step of an embedding table (look-up, gradient, update): updating all rows compared with only the batch's rows.

    python benchmarks/sparse_updates.py

Rows are drawn uniformly, the worst case for lazy updates since few rows repeat. Each variant has its own table and gets
a new batch every time. The floor is the number of bytes that the lazy step must read and write, at this machine's copy
bandwidth; scattered rows cost more than a copy. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import msgspec
import torch
from measuring import Timing, rates, readable, time_alternately, write_report
from rich.console import Console
from rich.table import Table
from torch import Tensor

from twotower.features import Hashed
from twotower.training import Adagrad, AdamW
from twotower.training.lazy import lazy_look_ups

SETTINGS: dict[str, tuple[type[Adagrad | AdamW], int]] = {"Adagrad": (Adagrad, 1), "AdamW": (AdamW, 2)}
"""Each optimiser, with the number of values that it keeps per weight."""

BATCHES = 16


class Outcome(msgspec.Struct, frozen=True):
    """Result for one optimiser and table.

    Attributes:
        optimizer: Name of the optimiser.
        rows: Rows of the table.
        touched: Mean number of distinct rows per batch.
        dense: Seconds of a step that updates all rows.
        lazy: Seconds of a step that updates only the rows of the batch.
        floor: Seconds to copy the bytes of the lazy step.
    """

    optimizer: str
    rows: int
    touched: float
    dense: Timing
    lazy: Timing
    floor: float


def side(
    settings: Adagrad | AdamW, rows: int, dim: int, batches: Iterator[Tensor], slopes: Tensor
) -> Callable[[], None]:
    """A function that runs a step on a new table."""
    feature = Hashed("id", buckets=rows - 1, dim=dim)
    optimizer = settings.build(feature)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with lazy_look_ups(optimizer):
            feature(next(batches)).backward(slopes)
        optimizer.step()

    return step


def least_bytes(events: int, touched: float, dim: int, states: int) -> float:
    """Bytes a lazy step must move: embeddings and their gradients per event; sums, weights and states per row."""
    return 4.0 * dim * (3 * events + touched * (2 + 2 * (1 + states)))


def measured(name: str, rows: int, options: argparse.Namespace, copy_rate: float) -> Outcome:
    """Times both variants alternately."""
    kind, states = SETTINGS[name]
    torch.manual_seed(0)
    batches = [torch.randint(rows, (options.batch,), dtype=torch.int32) for _ in range(BATCHES)]
    touched = sum(len(torch.unique(batch)) for batch in batches) / BATCHES
    slopes = torch.randn(options.batch, options.dim) / options.batch
    steps = {
        updates: side(kind(tables=updates), rows, options.dim, cycle(batches), slopes) for updates in ("dense", "lazy")
    }
    timings = time_alternately(steps, options.repetitions)
    floor = least_bytes(options.batch, touched, options.dim, states) / copy_rate
    return Outcome(name, rows, touched, timings["dense"], timings["lazy"], floor)


def table_of(outcomes: list[Outcome]) -> Table:
    """One row per optimiser and table."""
    table = Table("optimiser", show_edge=False)
    for name in ("rows", "touched", "dense", "lazy", "dense / lazy", "floor", "lazy / floor"):
        table.add_column(name, justify="right")
    for one in outcomes:
        table.add_row(
            one.optimizer,
            f"{one.rows:,}",
            f"{one.touched:,.0f}",
            str(one.dense),
            str(one.lazy),
            f"{one.dense.median / one.lazy.median:.1f}",
            readable(one.floor),
            f"{one.lazy.median / one.floor:.1f}",
        )
    return table


def main() -> None:
    """Measures every optimiser on every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [10_000, 16_384, 32_768, 100_000, 300_000, 1_000_000]
    parser.add_argument("--rows", type=int, nargs="+", default=sizes, help="rows of the tables")
    parser.add_argument("--batch", type=int, default=8192, help="rows looked up per step")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--out", type=Path, help="the JSON; default: results/sparse-updates.json")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    machine = rates()
    outcomes = [measured(name, rows, options, machine.copy) for name in SETTINGS for rows in options.rows]
    console = Console()
    console.print(table_of(outcomes))
    sizes_said = {"batch": options.batch, "dim": options.dim, "repetitions": options.repetitions}
    path = write_report("sparse-updates", {**sizes_said, "rates": machine, "outcomes": outcomes}, options.out)
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
