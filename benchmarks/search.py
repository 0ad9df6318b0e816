"""Exact search compared with FAISS's `IndexFlatIP`: agreement, time, and distance from the floor.

    python benchmarks/search.py --candidates 1000000 --dim 64 --queries 1000 1 --k 100 --threads 2 --repetitions 5
    python benchmarks/search.py --queries 1 --repetitions 50 --processes 10

Candidates and queries are drawn from a normal distribution. Both libraries, and the bare matrix products in blocks that
fit in the cache, alternate in one process with the same number of threads. The floor is the larger of the operations of
the products at the speed of a product in cache, and the candidates' bytes, read once, at the read bandwidth. With
`--processes`, new processes measure one after the other, since a ratio may depend on where a process has its memory;
the table then has the median of their medians, and the lowest and highest ratio.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from measuring import Rates, Timing, rates, readable, time_alternately, write_report
from rich.console import Console
from rich.table import Table
from torch import Tensor

from twotower.extras import require
from twotower.retrieval import ExactIndex
from twotower.retrieval.exact import QUERIES, SCORES

PRODUCTS = "products alone"


class Result(msgspec.Struct, frozen=True):
    """Result for one number of queries per call.

    Attributes:
        queries: Number of queries per call.
        timings: Timings by library.
        floor: The floor in seconds.
        ratio: FAISS's median divided by ours.
        over_floor: Our median divided by the floor.
        same_candidates: Fraction of list positions where both have the same candidate; elsewhere, scores are equal up
            to rounding.
    """

    queries: int
    timings: dict[str, Timing]
    floor: float
    ratio: float
    over_floor: float
    same_candidates: float


def compare(index: ExactIndex, flat: Any, queries: Tensor, k: int, repetitions: int, speed: Rates) -> Result:
    """Checks that both agree, then times them on the same queries."""
    same = agreement(index, flat, queries, k)
    sides = {
        "twotower": lambda: index.search(queries, k),
        "FAISS": lambda: flat.search(queries.numpy(), k),
        PRODUCTS: lambda: products(index, queries),
    }
    timings = time_alternately(sides, repetitions)
    width = queries.shape[1]
    floor = max(2 * len(queries) * len(index) * width / speed.flops, 4 * len(index) * width / speed.read)
    ours = timings["twotower"].median
    return Result(len(queries), timings, floor, timings["FAISS"].median / ours, ours / floor, same)


def agreement(index: ExactIndex, flat: Any, queries: Tensor, k: int) -> float:
    """Fraction of positions with the same candidate; exits if scores differ by more than rounding."""
    hits = index.search(queries, k)
    scores, candidates = flat.search(queries.numpy(), k)
    found = hits.candidates.numpy()
    exact = np.einsum("qd,qkd->qk", queries.double().numpy(), index.embeddings[hits.candidates].double().numpy())
    rounding = 4 * queries.shape[1] * float(np.finfo(np.float32).eps) * max(1.0, float(np.abs(exact).max()))
    for what, others in (("FAISS's scores", scores[:, : found.shape[1]]), ("scores in double precision", exact)):
        if (apart := float(np.abs(hits.scores.numpy() - others).max())) > rounding:
            raise SystemExit(f"our scores and {what} differ by {apart}; expected at most {rounding}")
    return float((found == candidates[:, : found.shape[1]]).mean())


def products(index: ExactIndex, queries: Tensor) -> None:
    """Computes all scores, in the same blocks as the search, and discards them."""
    candidates = index.embeddings.t()
    for part in torch.split(queries, QUERIES):
        block = SCORES // len(part)
        room = torch.empty(len(part), block)
        for columns in torch.split(candidates, block, dim=1):
            torch.mm(part, columns, out=room[:, : columns.shape[1]])


def in_processes(options: argparse.Namespace) -> list[list[Result]]:
    """The results of new processes, one after the other."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "search.json"
        for number in range(options.processes):
            given = vars(options) | {"processes": 1, "out": path, "seed": options.seed + number}
            words = [word for name, value in given.items() for word in (f"--{name}", *_words(value))]
            subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.DEVNULL)
            found.append(msgspec.convert(msgspec.json.decode(path.read_bytes())["results"], list[Result]))
    return found


def _words(value: object) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else [str(value)]


def table_of_processes(runs: list[list[Result]]) -> Table:
    """One row per number of queries: medians of the processes' medians, and their lowest and highest ratio."""
    table = Table("queries\nat once", show_edge=False)
    for heading in ("twotower", "FAISS", "FAISS\n/ twotower", "lowest", "highest", "twotower\n/ floor"):
        table.add_column(heading, justify="right")
    for results in zip(*runs, strict=True):
        medians = [statistics.median(one.timings[name].median for one in results) for name in ("twotower", "FAISS")]
        ratios = [one.ratio for one in results]
        shown = [f"{value:.2f}" for value in (statistics.median(ratios), min(ratios), max(ratios))]
        over = f"{statistics.median(one.over_floor for one in results):.2f}"
        table.add_row(f"{results[0].queries:,}", *map(readable, medians), *shown, over)
    return table


def table_of(results: list[Result]) -> Table:
    """One row per number of queries."""
    table = Table("queries\nat once", show_edge=False)
    headings = (
        "twotower",
        "FAISS",
        "FAISS\n/ twotower",
        "products\nalone",
        "floor",
        "twotower\n/ floor",
        "same\nplaces",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for result in results:
        ours, faiss, alone = (str(result.timings[name]) for name in ("twotower", "FAISS", PRODUCTS))
        ratios = f"{result.ratio:.2f}", alone, readable(result.floor), f"{result.over_floor:.2f}"
        table.add_row(f"{result.queries:,}", ours, faiss, *ratios, f"{result.same_candidates:.3%}")
    return table


def in_this_process(options: argparse.Namespace, console: Console) -> Path:
    """Measures, prints the table and writes the JSON; returns its path."""
    faiss = require("faiss", "ann")
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    speed = rates()
    embeddings = torch.randn(options.candidates, options.dim)
    flat = faiss.IndexFlatIP(options.dim)
    flat.add(embeddings.numpy())
    index = ExactIndex(embeddings)
    queries = torch.randn(max(options.queries), options.dim)
    results = [
        compare(index, flat, queries[:count], options.k, options.repetitions, speed) for count in options.queries
    ]
    console.print(table_of(results))
    sizes = {"candidates": options.candidates, "dim": options.dim, "k": options.k, "threads": options.threads}
    found = {**sizes, "repetitions": options.repetitions, "FAISS": faiss.__version__, "rates": speed}
    return write_report("search", {**found, "results": results}, options.out)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64, help="embedding dimension")
    parser.add_argument("--queries", type=int, nargs="+", default=[1000, 1], help="queries per call")
    parser.add_argument("--k", type=int, default=100, help="candidates to find")
    parser.add_argument("--threads", type=int, default=2, help="for both libraries")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="processes that measure, one after the other")
    parser.add_argument("--out", type=Path, help="the JSON; default: results/search.json beside this script")
    options = parser.parse_args()
    console = Console(width=120)
    console.print(f"top {options.k} of {options.candidates:,} × {options.dim}, {options.threads} threads")
    if options.processes > 1:
        runs = in_processes(options)
        console.print(table_of_processes(runs))
        given = {name: value for name, value in vars(options).items() if name != "out"}
        path = write_report("search-processes", {"options": given, "processes": runs}, options.out)
    else:
        path = in_this_process(options, console)
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
