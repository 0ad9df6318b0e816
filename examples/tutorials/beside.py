"""What the tutorials share: their options, the split that all of them measure on, and a line with both scores."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console

import twotower as tt
from twotower.data import Dataset, Split

CONSOLE = Console()


def options(description: str | None, epochs: int) -> argparse.Namespace:
    """`--epochs` to train, and `--events` to read of MovieLens 100K, for a first try."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=epochs, help=f"default: {epochs}")
    parser.add_argument("--events", type=int, default=100_000, help="how many events to read; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="train once with each; default: 0")
    return parser.parse_args()


def ratings(events: int) -> Dataset:
    """MovieLens 100K; or as many of its events, drawn with seed 0."""
    log = tt.data.movielens("100k")
    rows = np.random.default_rng(0).permutation(len(log))[:events]
    return log.take(np.sort(rows)) if events < len(log) else log


def split(events: int) -> Split:
    """The tutorials' split: 80% of the events train, 20% test, at random with seed 42."""
    return tt.data.split_random(ratings(events), test=0.2, seed=42)


def trainer(epochs: int, seed: int = 0) -> tt.Trainer:
    """How the retrieval models here are trained."""
    optimizer = tt.AdamW(0.005, weight_decay=0.1)
    return tt.Trainer(epochs=epochs, batch_size=1024, optimizer=optimizer, schedule=tt.Cosine(), seed=seed)


def say(text: str) -> None:
    """Prints a line, as it is."""
    CONSOLE.print(text, highlight=False, markup=False)


def compare(what: str, theirs: float | None, ours: float) -> None:
    """Prints a score of TensorFlow Recommenders, measured on this split, and ours."""
    known = "none" if theirs is None else f"{theirs:.4f}"
    say(f"{what}: TensorFlow Recommenders {known}, twotower {ours:.4f}")


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Prints how long the block took."""
    started = time.perf_counter()
    yield
    say(f"{what}: {time.perf_counter() - started:.1f} s")
