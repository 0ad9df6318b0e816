"""Training on 1, 2, … ranks with one thread each: events per second, time spent in communication, and bytes sent.

    python benchmarks/ranks.py
    python benchmarks/ranks.py --ranks 1 2 4 --megabits 1000

Each rank is a process; they communicate by gloo. The table compares the bytes passed to collective operations with
the prediction of `benchmarks/scale.py`, and with the bytes that Linux counts. The predicted events per second take one
rank's measured rate, shared by all ranks of the machine where they outnumber its cores, and the rate of the link. With
`--megabits`, each rank is in a network namespace with a link that sends no faster, and the bytes sent are those of the
link, headers included; this needs root. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import links
import msgspec
import torch
from measuring import peak_memory, write_report
from rich.console import Console
from rich.table import Table
from scale import Embeddings, Step, distinct, operations, payload, sent
from torch import distributed as dist

from twotower import Category, Hashed, InBatchSoftmax, Tower, Trainer, TwoTower, data, processes
from twotower.data import Dataset
from twotower.features import lookups
from twotower.ranks import ranks_of_process
from twotower.training import Adagrad
from twotower.training.callbacks import Callback, TrainingState
from twotower.training.settings import Sharding

WARM_UP_STEPS = 3
"""Steps before timing starts."""


class Setting(msgspec.Struct, frozen=True):
    """The model and data to train.

    Attributes:
        queries: Queries of the simulated log.
        candidates: Candidates.
        events: Events.
        batch: Batch size.
        dim: Embedding dimension.
        hidden: Width of the hidden layer of both towers.
        buckets: Rows of a hashed query table, whatever the number of queries; 0 for one row per query.
        sharding: Which tables are sharded.
    """

    queries: int
    candidates: int
    events: int
    batch: int
    dim: int
    hidden: int
    buckets: int = 0
    sharding: Sharding = "never"


class Outcome(msgspec.Struct, frozen=True):
    """Measurements of the first rank.

    Attributes:
        ranks: Number of ranks.
        events_per_second: Events per second of all ranks together.
        predicted_events_per_second: Prediction from the rate of one rank and the link; 0 if one rank was not measured.
        exchanging: Fraction of the time spent in collective operations: sending, receiving and waiting.
        payload: Bytes per step passed to each kind of operation.
        sent: Bytes per step written by the process or sent over its link, as Linux counts them; 0 on other systems.
        predicted: Prediction of `scale.payload`.
        predicted_sent: Prediction of `scale.sent`.
        gflops: Billions of operations per second.
        work: Operations of a step, counted by `scale.operations`.
        peak: Peak memory of the process in bytes.
    """

    ranks: int
    events_per_second: float
    exchanging: float
    payload: dict[str, float]
    sent: float
    predicted: dict[str, float]
    predicted_sent: float
    gflops: float
    work: float
    peak: float = 0.0
    predicted_events_per_second: float = 0.0


class Reading(msgspec.Struct, frozen=True):
    """Clock and counters after a step."""

    time: float
    written: int
    exchanging: float
    payload: dict[str, int]


class Meter(Callback):
    """Reads clock and counters after each step."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []

    def on_step(self, state: TrainingState) -> None:
        """Takes a reading."""
        traffic = state.ranks.traffic
        self.readings.append(Reading(time.perf_counter(), written_bytes(), traffic.seconds, dict(traffic.payload)))


def written_bytes() -> int:
    """Bytes that this process has sent over its link, or written to files and sockets; 0 if none are counted."""
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return links.sent_bytes()
    path = Path("/proc/self/io")
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("wchar")), 0)


def model_of(setting: Setting) -> TwoTower:
    """A model of the ids of both sides, with two layers."""
    queries = Category("user_id", setting.dim, unknown_rate=0.0)
    hashed = Hashed("user_id", setting.buckets, setting.dim) if setting.buckets else queries
    sides = (hashed, Category("movie_id", setting.dim, unknown_rate=0.0))
    query, candidate = (Tower([side], layers=[setting.hidden, setting.dim]) for side in sides)
    return TwoTower(query, candidate)


def step_of(setting: Setting, log: Dataset, model: TwoTower, ranks: int) -> Step:
    """The step in terms of the cost model, with the popularity shares of the log."""
    users, movies = (counts / counts.sum() for counts in (log.query_counts(), log.candidate_counts()))
    columns = distinct(movies, setting.batch)
    layers = 2 * setting.dim * setting.hidden
    is_sharded = ranks > 1 and setting.sharding == "always"
    tables = (
        Embeddings(setting.buckets or len(users), setting.dim, distinct(users, setting.batch / ranks), is_sharded),
        Embeddings(len(movies), setting.dim, columns / ranks, is_sharded),
    )
    dense = sum(weights.numel() for weights in model.parameters() if not isinstance(weights, lookups.Table))
    return Step(setting.batch, columns, setting.dim, dense, (layers, layers), tables, states=1)


def measured(setting: Setting) -> Outcome:
    """Trains and measures an epoch; the last batch, which may be smaller, is not counted."""
    log = data.simulated(setting.queries, setting.candidates, setting.events)
    model, meter, size = model_of(setting), Meter(), ranks_of_process().size
    loss = InBatchSoftmax(reduction="sum")
    optimizer = Adagrad(tables="lazy")
    trainer = Trainer(epochs=1, batch_size=setting.batch, optimizer=optimizer, loss=loss, sharding=setting.sharding)
    trainer.fit(model, log, callbacks=[meter])
    step = step_of(setting, log, model, size)
    expected = payload(step, size)
    if not meter.readings:  # not the first rank
        return Outcome(size, 0.0, 0.0, {}, 0.0, expected, 0.0, 0.0, 0.0)
    first, last = meter.readings[WARM_UP_STEPS - 1], meter.readings[-2]
    steps = len(meter.readings) - 1 - WARM_UP_STEPS
    seconds = (last.time - first.time) / steps
    return Outcome(
        ranks=size,
        events_per_second=setting.batch / seconds,
        exchanging=(last.exchanging - first.exchanging) / (last.time - first.time),
        payload={kind: (last.payload.get(kind, 0) - first.payload.get(kind, 0)) / steps for kind in expected},
        sent=(last.written - first.written) / steps,
        predicted=expected,
        predicted_sent=sent(expected, size),
        gflops=operations(step, size) / seconds / 1e9,
        work=operations(step, size),
        peak=peak_memory(),
    )


def work(end: Connection, rank: int, size: int, meeting: str, namespace: str, setting: Setting) -> None:
    """The work of each process."""
    if namespace:
        links.enter(namespace)
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"tcp://{meeting}", rank=rank, world_size=size)
    found = measured(setting)
    if rank == 0:
        end.send_bytes(msgspec.json.encode(found))
    if size > 1:
        dist.destroy_process_group()


def on_ranks(size: int, setting: Setting, megabits: float | None) -> Outcome:
    """Starts `size` processes and returns the measurements of the first."""
    context: Any = multiprocessing.get_context(processes.START_METHOD)
    ours, theirs = context.Pipe()
    with joined(size, megabits) as (meeting, namespaces):
        started: list[BaseProcess] = [
            context.Process(target=work, args=(theirs, rank, size, meeting, namespace, setting))
            for rank, namespace in enumerate(namespaces)
        ]
        for process in started:
            process.start()
        theirs.close()
        found = msgspec.json.decode(ours.recv_bytes(), type=Outcome)
        for process in started:
            process.join()
    return found


@contextmanager
def joined(size: int, megabits: float | None) -> Iterator[tuple[str, list[str]]]:
    """Yields the address at which ranks meet, and each one's network namespace, or "" without limited links."""
    if megabits is None or size == 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        yield f"127.0.0.1:{port}", [""] * size
        return
    with links.limited(size, megabits) as namespaces:
        yield f"{links.address(0)}:{links.PORT}", namespaces


def with_predictions(outcomes: list[Outcome], batch: int, megabits: float | None) -> list[Outcome]:
    """The outcomes with predicted events per second, if one rank was measured."""
    rate = next((one.gflops * 1e9 for one in outcomes if one.ranks == 1), None)
    if rate is None:
        return outcomes
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    predicted = []
    for one in outcomes:
        computing = one.work / rate * max(1.0, one.ranks / cores)
        sending = 0.0 if megabits is None else one.predicted_sent / (megabits * 1e6 / 8)
        predicted.append(msgspec.structs.replace(one, predicted_events_per_second=batch / (computing + sending)))
    return predicted


def table_of(outcomes: list[Outcome]) -> Table:
    """One row per number of ranks; bytes in MiB per step, and peak memory in GiB."""
    table = Table("ranks", show_edge=False, pad_edge=False, padding=0)
    names = "events/s", "predicted", "times", "exchanging", "given", "predicted", "sent", "predicted", "GiB"
    for name in names:
        table.add_column(name, justify="right")
    for one in outcomes:
        table.add_row(
            str(one.ranks),
            f"{one.events_per_second:,.0f}",
            f"{one.predicted_events_per_second:,.0f}",
            f"{one.events_per_second / outcomes[0].events_per_second:.2f}",
            f"{one.exchanging:.1%}",
            *(f"{sum(given.values()) / 2**20:.3g}" for given in (one.payload, one.predicted)),
            f"{one.sent / 2**20:.3g}",
            f"{one.predicted_sent / 2**20:.3g}",
            f"{one.peak / 2**30:.2f}",
        )
    return table


def main() -> None:
    """Trains on each number of ranks, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--queries", type=int, default=50_000)
    parser.add_argument("--candidates", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--buckets", type=int, default=0, help="rows of a hashed query table; 0: one per query")
    parser.add_argument("--sharding", choices=["always", "never"], default="never", help="shard all tables or none")
    parser.add_argument("--megabits", type=float, help="what a rank's link sends per second; default: no limit")
    parser.add_argument("--out", type=Path, help="the JSON; default: results/ranks.json")
    options = parser.parse_args()
    if options.megabits is not None and not links.are_possible():
        parser.error("--megabits needs Linux, root and iproute2")
    names = Setting.__struct_fields__
    setting = Setting(**{name: getattr(options, name) for name in names})
    measured_outcomes = [on_ranks(size, setting, options.megabits) for size in options.ranks]
    outcomes = with_predictions(measured_outcomes, setting.batch, options.megabits)
    console = Console()
    console.print(table_of(outcomes))
    found = {"setting": setting, "megabits": options.megabits, "outcomes": outcomes}
    console.print(f"written to {write_report('ranks', found, options.out)}")


if __name__ == "__main__":
    main()
