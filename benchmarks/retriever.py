"""An in-process retriever: latency of exact search and HNSW, recall, and the time and memory to build and load it.

    python benchmarks/retriever.py --candidates 100000 1000000 --dim 64 --index exact hnsw --queries 1 64

Random embeddings imitate those of towers: clusters of very unequal sizes, in a space whose later coordinates have less
variance, with varying lengths; queries are near the cluster centres, too. `--shape normal` draws all coordinates
independently from one distribution, which no tower does and which is hardest for a graph. Every query has seen about 50
candidates, which are excluded during the search; k is 100. Each bundle is built in one process, and loaded and queried
in another, with one thread. The floor of exact search is the size of the embeddings divided by the read bandwidth.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import torch
from measuring import peak_memory, rates, readable, write_report
from rich.console import Console
from rich.table import Table

from twotower import Category, Retriever, Tower, TwoTower
from twotower.cli.bundle import parsed_index
from twotower.data import from_tables
from twotower.retrieval.parity import measure_parity

SEEN = 50
"""Candidates that a query has seen, on average."""

RECALL_QUERIES = 256
"""Queries that recall is measured on."""


class Job(msgspec.Struct, frozen=True):
    """One bundle to measure."""

    candidates: int
    dim: int
    index: str
    shape: str
    k: int
    queries: list[int]
    repetitions: int


class Outcome(msgspec.Struct, frozen=True):
    """Measurements of one bundle.

    Attributes:
        build_seconds: Time to embed the catalogue and build the index.
        load_seconds: Time to read and verify the folder.
        bytes: Size of the folder.
        peak_bytes: Peak memory of the process that loads and queries, including pages of the mapped file.
        recall: Fraction of the exact results that the index finds.
        requests: Seconds of each call, by number of queries per call.
        searches: Seconds of the search alone, by number of queries per call.
    """

    build_seconds: float
    load_seconds: float
    bytes: int
    peak_bytes: float
    recall: float
    requests: dict[int, list[float]]
    searches: dict[int, list[float]]


def embeddings_of(count: int, queries: int, dim: int, shape: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries `[queries, dim]` and candidates `[count, dim]`."""
    draw = torch.Generator().manual_seed(0)
    if shape == "normal":
        return torch.randn(queries, dim, generator=draw), torch.randn(count, dim, generator=draw)
    scale = torch.arange(1, dim + 1) ** -0.5  # variance of coordinate i: 1/i
    centres = torch.randn(max(8, int(count**0.5)), dim, generator=draw) * scale
    sizes = 1.0 / torch.arange(1, len(centres) + 1)
    sides = []
    for size in (queries, count):
        own = centres[torch.multinomial(sizes, size, replacement=True, generator=draw)]
        points = own + 0.5 * torch.randn(size, dim, generator=draw) * scale
        sides.append(points * torch.exp(0.2 * torch.randn(size, 1, generator=draw)))
    return sides[0], sides[1]


def build(job: Job, folder: Path) -> float:
    """Writes the bundle and returns the seconds that building it took."""
    queries = max(RECALL_QUERIES, job.candidates // SEEN)
    draw = np.random.default_rng(0)
    catalogue = pa.table({"item": np.arange(job.candidates), "title": [f"item {n}" for n in range(job.candidates)]})
    log = pa.table({"user": draw.integers(queries, size=job.candidates), "item": np.arange(job.candidates)})
    users = pa.table({"user": np.arange(queries)})
    data = from_tables(log, query_id="user", candidate_id="item", queries=users, candidates=catalogue)
    features = Category("user", job.dim), Category("item", job.dim)
    model = TwoTower(Tower([features[0]]), Tower([features[1]])).learn(data)
    with torch.no_grad():
        for feature, rows in zip(features, embeddings_of(job.candidates, queries, job.dim, job.shape), strict=True):
            assert feature.table is not None
            known = len(feature.table) - 2  # queries without events are not in the vocabulary
            feature.table[2:] = rows[:known]
    started = time.perf_counter()
    retriever = Retriever.build(model, catalogue, seen=data, index=parsed_index(job.index), parity=None)
    seconds = time.perf_counter() - started
    retriever.save(folder)
    return seconds


def measure(job: Job, folder: Path, build_seconds: float) -> Outcome:
    """Loads the bundle and queries it."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    retriever = Retriever.load(folder)
    load_seconds = time.perf_counter() - started
    known = retriever.queries.num_rows
    rows = np.random.default_rng(1).permutation(known)[:RECALL_QUERIES].tolist()
    vectors = retriever.embed([{"user": row} for row in rows], rows)
    requests: dict[int, list[float]] = {}
    searches: dict[int, list[float]] = {}
    for count in job.queries:
        requests[count], searches[count] = [], []
        for round_number in range(-3, job.repetitions):
            places = [(round_number * count + place) % len(rows) for place in range(count)]
            asked = [{"user": rows[place]} for place in places]
            started = time.perf_counter()
            retriever.recommend_many(asked, job.k, exclude_seen=True)
            between = time.perf_counter()
            retriever.index.search(vectors[places], job.k)
            if round_number >= 0:
                requests[count].append(between - started)
                searches[count].append(time.perf_counter() - between)
    peak = peak_memory()
    recall = measure_parity(retriever.index, vectors, None, job.k).recall
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Outcome(build_seconds, load_seconds, size, peak, recall, requests, searches)


def in_new_processes(job: Job) -> Outcome:
    """Builds in one new process and measures in another."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, __file__, "--job", msgspec.json.encode(job).decode(), "--folder", temporary]
        said = ""
        for step in ("build", "measure"):
            done = subprocess.run(
                [*command, "--step", step, "--said", said], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{job} failed:\n{done.stderr}")
            said = done.stdout
    return msgspec.json.decode(said, type=Outcome)


def table_of(results: list[dict[str, Any]]) -> Table:
    """One row per bundle and number of queries."""
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("candidates", "index", "queries", "request p50", "p99", "search p50", "p99", "floor"):
        table.add_column(heading, justify="right")
    for heading in ("recall", "build", "load", "memory, MiB"):
        table.add_column(heading, justify="right")
    for result in results:
        job, one = result["job"], result["outcome"]
        for count in job.queries:
            times = [
                readable(float(np.percentile(seconds, part)))
                for seconds in (one.requests[count], one.searches[count])
                for part in (50, 99)
            ]
            costs = readable(one.build_seconds), readable(one.load_seconds), f"{one.peak_bytes / 2**20:,.0f}"
            floor = readable(result["floor"]) if job.index == "exact" else ""
            table.add_row(f"{job.candidates:,}", job.index, str(count), *times, floor, f"{one.recall:.4f}", *costs)
    return table


def main() -> None:
    """Runs the benchmark; with `--job`, one step for one bundle in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=64, help="embedding dimension")
    parser.add_argument("--index", nargs="+", default=["exact", "hnsw"], help="as `twotower bundle --index` takes them")
    parser.add_argument("--shape", choices=["clusters", "normal"], default="clusters")
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 64], help="queries per call")
    parser.add_argument("--k", type=int, default=100, help="candidates to find")
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--out", type=Path, help="the JSON; default: results/retriever.json beside this script")
    for hidden in ("--job", "--folder", "--step", "--said"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job, folder = msgspec.json.decode(options.job, type=Job), Path(options.folder) / "bundle"
        if options.step == "build":
            sys.stdout.write(str(build(job, folder)))
        else:
            sys.stdout.write(msgspec.json.encode(measure(job, folder, float(options.said))).decode())
        return
    torch.set_num_threads(1)
    speed = rates()
    results: list[dict[str, Any]] = []
    for candidates in options.candidates:
        for index in options.index:
            job = Job(candidates, options.dim, index, options.shape, options.k, options.queries, options.repetitions)
            outcome = in_new_processes(job)
            floor = 4 * candidates * options.dim / speed.read
            results.append({"job": job, "outcome": outcome, "floor": floor})
    console = Console(width=150)
    console.print(table_of(results))
    console.print(f"written to {write_report('retriever', {'rates': speed, 'results': results}, options.out)}")


if __name__ == "__main__":
    main()
