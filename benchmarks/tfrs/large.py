"""Large tables: events per second of TensorFlow Recommenders and twotower, alternating on the same events.

    python benchmarks/tfrs/large.py
    python benchmarks/tfrs/large.py --queries 10000 --candidates 5000 --batch 1024 --steps 5

Both train two towers with an id table and a dense layer each, with in-batch softmax summed over the batch and Adagrad.
The simulated events are only as many as are trained on, but their popularity is that of a log of any length, so a batch
is like one from 20 million events. The setup favours TensorFlow Recommenders: its ids are already row numbers, without
StringLookup, and its batches are prepared in memory, while twotower shuffles and gathers. Every id has a row in the
tables, whether or not it occurs in these events. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import torch
from client import PYTHON, Tfrs
from compare import Turns
from rich.console import Console
from rich.table import Table

from twotower.data import Dataset, from_tables, simulated
from twotower.errors import TwoTowerError
from twotower.features import Category
from twotower.model.losses import InBatchSoftmax
from twotower.model.tower import Tower
from twotower.model.two_tower import TwoTower
from twotower.training.optimizers import Adagrad
from twotower.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import readable, write_report


class Rate(msgspec.Struct, frozen=True):
    """Speed of one library.

    Attributes:
        seconds: Seconds of each repetition; the first is a warm-up.
        events_per_second: From the median of the others.
    """

    seconds: list[float]
    events_per_second: float


def rate_of(seconds: list[float], events: int) -> Rate:
    """Computes the rate from the median of all repetitions except the first."""
    return Rate(seconds, events / statistics.median(seconds[1:]))


def model_of(events: Dataset, dim: int) -> TwoTower:
    """Two towers with a row for every id in the query and candidate tables."""
    queries, candidates = events.queries[events.query_id], events.candidates[events.candidate_id]
    size = max(len(queries), len(candidates))
    every_id = pa.table(
        {
            name: ids.take(pa.array(np.arange(size) % len(ids)))
            for name, ids in ((events.query_id, queries), (events.candidate_id, candidates))
        }
    )
    model = TwoTower(
        Tower([Category(events.query_id, dim, unknown_rate=0.0)], [dim]),
        Tower([Category(events.candidate_id, dim, unknown_rate=0.0)], [dim]),
    )
    return model.learn(from_tables(every_id, query_id=events.query_id, candidate_id=events.candidate_id))


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--candidates", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=10, help="steps per repetition")
    parser.add_argument("--repetitions", type=int, default=5, help="timed repetitions")
    parser.add_argument("--threads", type=int, default=2, help="threads for each library")
    parser.add_argument("--python", type=Path, default=PYTHON, help="Python with TensorFlow Recommenders")
    parser.add_argument("--out", type=Path, help="the JSON; default: results/tfrs-large.json")
    options = parser.parse_args()
    console = Console()
    torch.set_num_threads(options.threads)
    sizes = {name: getattr(options, name) for name in ("queries", "candidates", "dim", "batch", "steps")}
    count = options.batch * options.steps
    events = simulated(options.queries, options.candidates, count)
    events = events.take(np.random.default_rng(0).permutation(count))
    trainer = Trainer(
        epochs=options.repetitions + 1,
        batch_size=options.batch,
        optimizer=Adagrad(0.1),
        loss=InBatchSoftmax(log_q=False, reduction="sum"),
    )
    with Tfrs(options.python, options.threads) as tfrs:
        versions = tfrs.ask("versions")
        for name, rows in (("queries", events.query_index), ("candidates", events.candidate_index)):
            tfrs.give(name, rows.reshape(options.steps, options.batch))
        tfrs.ask("large", queries=options.queries, candidates=options.candidates, dim=options.dim, seed=0)
        turns = Turns(tfrs.epochs(trainer.epochs, trainer.epochs))
        history = trainer.fit(model_of(events, options.dim), events, callbacks=[turns])
    theirs = rate_of([epoch.seconds for epoch in turns.theirs], count)
    ours = rate_of([epoch.seconds for epoch in history.epochs], count)

    table = Table("", "a step", "events a second", "times faster", show_edge=False)
    for label, rate in (("TensorFlow Recommenders", theirs), ("twotower", ours)):
        step = options.batch / rate.events_per_second
        faster = rate.events_per_second / theirs.events_per_second
        table.add_row(label, readable(step), f"{rate.events_per_second:,.0f}", f"{faster:.1f}")
    console.print(table)
    results = {"TensorFlow Recommenders": versions, "sizes": sizes, "tfrs": theirs, "twotower": ours}
    console.print(f"written to {write_report('tfrs-large', results, options.out)}", soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except TwoTowerError as error:
        sys.exit(f"error: {error}")
