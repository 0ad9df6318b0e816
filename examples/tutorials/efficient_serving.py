"""Fast search among a million candidates, as *Efficient serving* of TensorFlow Recommenders.

    python examples/tutorials/efficient_serving.py

As in the original, the movies' embeddings are repeated, each time multiplied by random numbers, until there are a
million; then exact search is compared with an approximate index. It needs the extra `ann`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from beside import compare, say, split, trainer

import twotower as tt
from twotower.retrieval.index import Index

THEIRS = None


def milliseconds(index: Index, queries: torch.Tensor, k: int) -> float:
    """Of one query, the median."""
    seconds = []
    for query in queries:
        started = time.perf_counter()
        index.search(query[None], k)
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))


def main() -> None:
    """Trains, makes a large catalogue, and searches it in two ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    given = parser.parse_args()
    train, test = split(given.events)
    model = tt.TwoTower(tt.Tower([tt.Category("user_id", 32)]), tt.Tower([tt.Category("movie_title", 32)]))
    trainer(given.epochs).fit(model, train)

    movies = model.embed_candidates(train.candidates)
    torch.manual_seed(0)
    copies = movies.repeat(max(1, given.candidates // len(movies)), 1)
    copies[len(movies) :] *= torch.rand_like(copies[len(movies) :])
    queries = model.embed_queries(test)[: given.queries]
    exact, approximate = tt.Exact().make(copies), tt.Hnsw().make(copies)
    found = [index.search(queries, 10).candidates for index in (exact, approximate)]
    same = float(np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(*found, strict=True)]))
    for name, index in (("exact", exact), ("HNSW", approximate)):
        say(f"{name}: {milliseconds(index, queries, 10):.2f} ms a query among {len(copies):,} candidates")
    compare("share of the ten best that HNSW finds", THEIRS, same)


if __name__ == "__main__":
    main()
