"""Loss and gradient of the softmax over candidates: time, distance from the floor, and memory.

    python benchmarks/softmax.py --sizes 2048 8192 65536

For B queries and C = B candidates. The floor is the time for only the three products and the exponentials, at the rates
that this machine reaches on blocks in its cache with the same number of threads. Peak memory is measured in a separate
process, above the embeddings. For comparison, the plain formula, `cross_entropy(q @ c.T + bias, target)`, if its B × C
logits fit in memory. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec
import torch
from measuring import Timing, peak_memory, readable, time_alternately, write_report
from rich.console import Console
from rich.table import Table
from torch import Tensor

from twotower import processes
from twotower.model.softmax import softmax_loss

BLOCK = 512
"""Rows and columns of the blocks that the floor is measured on."""

PLAIN_COPIES = 4
"""Number of B × C matrices that the plain formula needs: logits, log-softmax, its gradient, and a margin."""


class Inputs(msgspec.Struct, frozen=True):
    """Inputs of the loss."""

    queries: Tensor
    candidates: Tensor
    target: Tensor
    weights: Tensor
    bias: Tensor


class Floor(msgspec.Struct, frozen=True):
    """Seconds per logit: for the three products, and for the faster of the two exponentials."""

    products: float
    exponential: float

    def seconds(self, size: int) -> float:
        """The floor for `size` queries and as many candidates."""
        return (self.products + self.exponential) * size**2


class Outcome(msgspec.Struct, frozen=True):
    """Result for one size, in seconds and bytes; None for the plain formula if it does not fit in memory."""

    size: int
    floor: float
    chunked: Timing
    chunked_memory: float
    plain: Timing | None
    plain_memory: float | None


def inputs(size: int, width: int) -> Inputs:
    """Random embeddings whose logits have a standard deviation of about 10, as those of a trained model."""
    draw = torch.Generator().manual_seed(0)
    queries, candidates = (torch.randn(size, width, generator=draw) * 10**0.5 / width**0.25 for _ in range(2))
    target = torch.randint(size, (size,), generator=draw)
    bias = torch.rand(size, generator=draw)
    return Inputs(queries.requires_grad_(), candidates.requires_grad_(), target, torch.ones(size), bias)


def chunked(given: Inputs) -> float:
    """The library's loss and gradient."""
    loss = softmax_loss(given.queries, given.candidates, given.target, given.weights, bias=given.bias)
    torch.autograd.grad(loss, [given.queries, given.candidates])
    return loss.item()


def plain(given: Inputs) -> float:
    """Loss and gradient of the plain formula."""
    logits = given.queries @ given.candidates.t() + given.bias
    loss = torch.nn.functional.cross_entropy(logits, given.target, reduction="sum")
    torch.autograd.grad(loss, [given.queries, given.candidates])
    return loss.item()


FORMULAS = {"chunked": chunked, "plain": plain}


def memory_taken(formula: str, size: int, width: int, threads: int) -> float:
    """Peak memory above the inputs, in bytes; call it in a new process."""
    torch.set_num_threads(threads)
    FORMULAS[formula](inputs(64, width))  # warm-up: memory that libraries allocate on first use is not counted
    given = inputs(size, width)
    before = memory_now()
    FORMULAS[formula](given)
    return peak_memory() - before


def memory_now() -> float:
    """Resident memory of this process in bytes; its peak if the system does not report it."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        return peak_memory()
    return float(pages.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_process(formula: str, size: int, width: int) -> float:
    """Runs `memory_taken` in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context(processes.START_METHOD)) as pool:
        return pool.submit(memory_taken, formula, size, width, torch.get_num_threads()).result()


def floor(width: int) -> Floor:
    """Measures the floor: the best of many short runs on blocks in the cache."""
    rows, columns = torch.randn(BLOCK, width), torch.randn(BLOCK, width)
    logits, small, out = torch.randn(BLOCK, BLOCK), torch.empty(BLOCK, width), torch.empty(BLOCK, BLOCK)

    def best(work: Callable[[], object]) -> float:
        work()
        shortest = float("inf")
        for _ in range(100):
            started = time.perf_counter()
            work()
            shortest = min(shortest, time.perf_counter() - started)
        return shortest / BLOCK**2

    products = (
        lambda: torch.mm(rows, columns.t(), out=out),
        lambda: torch.mm(logits, columns, out=small),
        lambda: torch.mm(logits.t(), rows, out=small),
    )
    exponentials = (lambda: torch.exp(logits, out=out), lambda: torch.exp2(logits, out=out))
    return Floor(sum(map(best, products)), min(map(best, exponentials)))


def measured(size: int, width: int, repetitions: int) -> Outcome:
    """Measures one size."""
    given = inputs(size, width)
    sides: dict[str, Callable[[], object]] = {"chunked": lambda: chunked(given)}
    fits = PLAIN_COPIES * 4 * size**2 < os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if fits:
        assert abs(plain(given) / chunked(given) - 1) < 1e-5
        sides["plain"] = lambda: plain(given)
    before = floor(width)
    timings = time_alternately(sides, repetitions)
    after = floor(width)
    best = Floor(min(before.products, after.products), min(before.exponential, after.exponential))
    return Outcome(
        size,
        best.seconds(size),
        timings["chunked"],
        in_process("chunked", size, width),
        timings.get("plain"),
        in_process("plain", size, width) if fits else None,
    )


def table_of(outcomes: list[Outcome]) -> Table:
    """Table of times, distances from the floor, and memory."""
    table = Table("B = C", show_edge=False)
    for name in ("logits", "floor", "time", "over\nfloor", "memory", "plain\ntime", "over\nours", "plain\nmemory"):
        table.add_column(name, justify="right")
    for outcome in outcomes:
        beside = ("", "", "")
        if outcome.plain is not None and outcome.plain_memory is not None:
            ratio = outcome.plain.median / outcome.chunked.median
            beside = (str(outcome.plain), f"{ratio:.2f}", megabytes(outcome.plain_memory))
        table.add_row(
            f"{outcome.size:,}",
            megabytes(4.0 * outcome.size**2),
            readable(outcome.floor),
            str(outcome.chunked),
            f"{outcome.chunked.median / outcome.floor:.2f}",
            megabytes(outcome.chunked_memory),
            *beside,
        )
    return table


def megabytes(size: float) -> str:
    """Formats bytes as megabytes."""
    return f"{size / 1e6:,.0f} MB"


def main() -> None:
    """Measures every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 8192, 65_536], help="B, and C")
    parser.add_argument("--dim", type=int, default=64, help="embedding dimension")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, help="the JSON; default: results/softmax.json")
    options = parser.parse_args()
    console = Console()
    outcomes = [measured(size, options.dim, options.repetitions) for size in options.sizes]
    console.print(table_of(outcomes))
    results = {"dim": options.dim, "repetitions": options.repetitions, "outcomes": outcomes}
    console.print(f"written to {write_report('softmax', results, options.out)}")


if __name__ == "__main__":
    main()
