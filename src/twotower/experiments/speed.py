"""How fast this machine trains and searches: two seconds of fixed work, with the figures of a known machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from twotower.data.simulation import simulated
from twotower.features import Category
from twotower.model import Tower, TwoTower
from twotower.retrieval.exact import ExactIndex
from twotower.training import AdamW, Trainer

SECONDS = 1.0
"""How long training and searches are repeated. Repetitions are short and the fastest one counts, so that other work on
the machine spoils only some of them."""

EVENTS, BATCH = 8192, 1024
CANDIDATES, WIDTH, K, QUERIES = 100_000, 32, 100, 32


@dataclass(frozen=True)
class Speed:
    """The figures of one machine.

    Attributes:
        machine: Name of the machine.
        training_events_per_second: Training throughput in batches of 1,024: two towers over ids, layers 64 and 32,
            in-batch softmax.
        search_milliseconds: Time of one exact top-100 search over 100,000 candidates of dimension 32.
        searches_per_second: Queries per second of the same search for 32 queries at once.
    """

    machine: str
    training_events_per_second: float
    search_milliseconds: float
    searches_per_second: float


REFERENCE = Speed("2 cores of an AMD EPYC (Zen 4), 2 threads, PyTorch 2.13", 420_000, 0.25, 7_600)
"""A quiet virtual machine with AVX-512: the best of three measurements, rounded."""


def measured_speed(machine: str = "this machine", device: str = "cpu", seconds: float = SECONDS) -> Speed:
    """Measures this machine with PyTorch's current number of threads.

    Args:
        machine: Name for the result.
        device: Where to train; searches run on the CPU.
        seconds: How long to repeat training, and likewise searches; each runs at least once.
    """
    single, batch = _search_seconds(1, seconds / 2), _search_seconds(QUERIES, seconds / 2)
    return Speed(machine, EVENTS / _epoch_seconds(device, seconds), single * 1000, QUERIES / batch)


def _epoch_seconds(device: str, seconds: float) -> float:
    """Seconds of the fastest epoch."""
    log = simulated(interactions=EVENTS)
    model = TwoTower(
        Tower([Category("user_id", 32)], layers=[64, 32]), Tower([Category("movie_id", 32)], layers=[64, 32])
    )
    trainer = Trainer(epochs=1, batch_size=BATCH, optimizer=AdamW(0.003), device=device)
    trainer.fit(model, log, progress=False)  # the first epoch of a process also loads code and starts threads
    fastest, end = float("inf"), time.monotonic() + seconds
    while True:
        history = trainer.fit(model, log, progress=False)
        fastest = min(fastest, history.epochs[0].seconds)
        if time.monotonic() >= end:
            return fastest


def _search_seconds(queries: int, seconds: float) -> float:
    """Seconds of the fastest search for this many queries at once."""
    draw = torch.Generator().manual_seed(0)
    index = ExactIndex(torch.randn(CANDIDATES, WIDTH, generator=draw))
    batch = torch.randn(queries, WIDTH, generator=draw)
    index.search(batch, K)
    fastest, end = float("inf"), time.monotonic() + seconds
    while True:
        start = time.perf_counter()
        index.search(batch, K)
        fastest = min(fastest, time.perf_counter() - start)
        if time.monotonic() >= end:
            return fastest
