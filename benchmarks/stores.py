"""Candidate stores compared: recall@100 and latency of a search, with filters applied inside it.

    python benchmarks/stores.py --candidates 1000000 --stores exact hnsw pgvector milvus

Embeddings are those of `benchmarks/retriever.py`: clusters of unequal sizes. Every query has seen 50 of its top 200
candidates, which are excluded; the condition matches 1% of the candidates. Recall is relative to exact search with the
same filter. PostgreSQL and Milvus Lite are started by this script, unless `--postgres` or `--milvus` gives an address.
Every search also reads the candidates' rows, as a service does. Queries run one at a time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import torch
from measuring import readable, write_report
from retriever import embeddings_of
from rich.console import Console
from rich.table import Table
from torch import Tensor

from twotower.cli.bundle import parsed_index
from twotower.errors import ParityError
from twotower.retrieval.conditions import Condition
from twotower.retrieval.exact import ExactIndex
from twotower.retrieval.parity import fitted
from twotower.retrieval.publishing import store_at
from twotower.retrieval.stores import Found, LocalStore, Publication, Store
from twotower.testing.servers import MilvusServer, Postgres

TOWERS = "benchmark"
SEEN = 50
"""Candidates that a query has seen."""

CONDITION = "shelf = 7"
"""Matches 1% of the candidates."""

FILTERS = ("none", "seen", "seen and 1%")


class Measured(msgspec.Struct, frozen=True):
    """Searches of one store with one filter.

    Attributes:
        recall: Recall relative to exact search.
        fewest: The smallest number of candidates that a query found.
        seconds: Seconds of each search.
    """

    recall: float
    fewest: int
    seconds: list[float]


class Outcome(msgspec.Struct, frozen=True):
    """Measurements of one store.

    Attributes:
        store: Its name.
        publish_seconds: Time to load and index the candidates, and to tune the search width.
        search: The tuned search width; None if the store has none.
        filters: Searches by filter.
    """

    store: str
    publish_seconds: float
    search: int | None
    filters: dict[str, Measured]


@contextmanager
def opened(name: str, publication: Publication, options: argparse.Namespace) -> Iterator[tuple[Store, int | None]]:
    """Opens a store with the catalogue in it; yields it and its search width."""
    if name in ("exact", "hnsw"):
        index, _ = fitted(parsed_index(name).make(publication.embeddings), publication.queries, options.parity)
        store = LocalStore(index, publication.candidates, publication.candidate_id, TOWERS)
        yield store, getattr(getattr(index, "graph", None), "width", None)
        return
    with running(name, options) as address:
        given: Any = store_at(address)
        graph = msgspec.structs.replace(given, neighbours=options.neighbours, build=options.build)
        published, _ = graph.publish(publication)
        settings: Any = published
        beyond = msgspec.structs.replace(settings, timeout=options.timeout).open(TOWERS)
        yield beyond, settings.search
        beyond.close()


@contextmanager
def running(name: str, options: argparse.Namespace) -> Iterator[str]:
    """Yields the address of a server; starts one unless an address is given."""
    given = options.postgres if name == "pgvector" else options.milvus
    if given:
        yield given
    elif name == "pgvector":
        server = Postgres.create(("shared_buffers=1GB", "max_wal_size=8GB"))
        os.environ["PGPASSWORD"] = server.password
        server.start()
        try:
            yield server.address
        finally:
            server.stop()
            server.remove()
    else:
        with tempfile.TemporaryDirectory() as folder:
            milvus = MilvusServer(Path(folder))
            milvus.start()
            try:
                yield milvus.address
            finally:
                milvus.stop()


def seen_of(embeddings: Tensor, queries: Tensor, draw: np.random.Generator) -> list[list[int]]:
    """Seen candidates of each query: a sample of its best candidates."""
    best = ExactIndex.over(embeddings).search(queries, 4 * SEEN).candidates.numpy()
    return [draw.choice(own, SEEN, replace=False).tolist() for own in best]


def measured(
    store: Store, queries: Tensor, k: int, seen: list[list[int]] | None, condition: Condition | None, best: list[Tensor]
) -> Measured:
    """Searches for one query at a time, after a few warm-up searches."""
    seconds, shares, fewest = [], [], k
    for number in range(-3, len(queries)):
        place = max(number, 0)
        excluded = None if seen is None else [seen[place]]
        started = time.perf_counter()
        (found,) = store.search(queries[place : place + 1], k, excluded, condition)
        if number >= 0:
            seconds.append(time.perf_counter() - started)
            shares.append(share_of(found, best[place]))
            fewest = min(fewest, len(found.scores))
    return Measured(float(np.mean(shares)), fewest, seconds)


def share_of(found: Found, best: Tensor) -> float:
    """Fraction of the best scores `[≤ k]` that was found; ties count as found."""
    if len(best) == 0:
        return 1.0
    lowest = float(best[-1]) - 1e-4 * float(best.abs().max())
    return min(1.0, float((found.scores >= lowest).sum()) / len(best))


def best_of(table: pa.Table, embeddings: Tensor, queries: Tensor, k: int, seen: Any, condition: Any) -> list[Tensor]:
    """The scores of exact search for each query."""
    allowed = None if condition is None else condition.rows(table)
    pairs = None if seen is None else (np.repeat(np.arange(len(queries)), SEEN), np.concatenate(seen))
    scores = ExactIndex.over(embeddings).search(queries, k, pairs, allowed).scores
    return [own[own > -torch.inf] for own in scores]


def table_of(outcomes: list[Outcome]) -> Table:
    """One row per store and filter."""
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("store", "publish", "search", "filter", "recall", "fewest", "p50", "p99"):
        table.add_column(heading, justify="right")
    for one in outcomes:
        for name, own in one.filters.items():
            times = [readable(float(np.percentile(own.seconds, part))) for part in (50, 99)]
            wide = "" if one.search is None else str(one.search)
            row = one.store, readable(one.publish_seconds), wide, name, f"{own.recall:.4f}", str(own.fewest)
            table.add_row(*row, *times)
    return table


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64, help="embedding dimension")
    parser.add_argument("--stores", nargs="+", default=["exact", "hnsw", "pgvector", "milvus"])
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--k", type=int, default=100, help="candidates to find")
    parser.add_argument("--parity", type=float, default=0.95, help="minimum recall of an approximate search")
    parser.add_argument("--neighbours", type=int, default=16, help="neighbours in PostgreSQL's and Milvus's graph")
    parser.add_argument("--build", type=int, default=100, help="search width while that graph is built")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds that a search may take")
    parser.add_argument("--postgres", help="postgresql://…; default: starts a server")
    parser.add_argument("--milvus", help="milvus://… or a path that ends in .db; default: starts Milvus Lite")
    parser.add_argument("--out", type=Path, help="the JSON; default: results/stores.json beside this script")
    options = parser.parse_args()
    torch.set_num_threads(1)
    queries, embeddings = embeddings_of(options.candidates, options.queries + 256, options.dim, "clusters")
    queries, held = queries[: options.queries], queries[options.queries :]
    draw = np.random.default_rng(0)
    numbers = np.arange(options.candidates)
    shelves = draw.integers(0, 100, options.candidates)
    table = pa.table({"item": numbers, "title": [f"item {number}" for number in numbers], "shelf": shelves})
    seen = seen_of(embeddings, queries, draw)
    condition = Condition.parse(CONDITION, table.schema)
    cases = dict(zip(FILTERS, [(None, None), (seen, None), (seen, condition)], strict=True))
    best = {name: best_of(table, embeddings, queries, options.k, *case) for name, case in cases.items()}
    publication = Publication(table, embeddings, "item", TOWERS, held, options.parity)
    outcomes, console = [], Console()
    for name in options.stores:
        started = time.perf_counter()
        try:
            with opened(name, publication, options) as (store, wide):
                published = time.perf_counter() - started
                found = {case: measured(store, queries, options.k, *own, best[case]) for case, own in cases.items()}
        except ParityError as error:
            console.print(f"{name} left out: {error}")
            continue
        outcomes.append(Outcome(name, published, wide, found))
        console.print(table_of(outcomes[-1:]))
    console.print(table_of(outcomes))
    given = {key: value for key, value in vars(options).items() if key not in ("out", "postgres", "milvus")}
    path = write_report("stores", {"options": given, "results": outcomes}, options.out)
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
