"""Cost per event and peak memory of training on a streamed log, as interactions and candidates grow.

python benchmarks/scaling.py --interactions 100000 1000000 20000000 --candidates 500000
python benchmarks/scaling.py --interactions 1000000 --candidates 1000 10000 100000 1000000
python benchmarks/scaling.py --interactions 20000000 --candidates 500000 --history 20

Each size is trained in a new process, which gives its own peak memory. All sizes are measured once per round, and
figures are medians over the rounds. The Parquet log is drawn from power laws with a fixed seed. With `--history N`,
each size is measured without and with histories of N items; processes with histories also prepare the log.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import measuring
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from twotower import Adagrad, Category, History, InBatchSoftmax, Tower, Trainer, TwoTower
from twotower.data import ParquetLog, stream_parquet
from twotower.data.preparation import FOLDER
from twotower.features import Feature
from twotower.files import replaced_folder
from twotower.training import Callback, TrainingState
from twotower.training.batches import source_of
from twotower.training.optimizers import Optimizer

IntArray = npt.NDArray[np.int64]

ROW_GROUP = 1_000_000
QUERY_POWER, CANDIDATE_POWER = 1.5, 4.0
"""A draw is `count · u^power` for a uniform u: a Zipf law with exponent 1 − 1 / power."""

WARM_UP = 10
"""Steps before timing starts."""

PASSES_PER_ROW = 7
"""How often a step reads or writes each row that it touches: once to gather it, twice for its gradient, twice for the
optimiser state, twice to update it."""

PRODUCTS = 3
"""Matrix products in a layer or softmax: one forward, and one for the gradient of each factor."""


class Size(msgspec.Struct, frozen=True):
    """One size of the problem."""

    interactions: int
    queries: int
    candidates: int
    dim: int
    batch: int
    history: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """Measurements of one process.

    Attributes:
        open_seconds: Time to check and count the whole log.
        prepare_seconds: Time to sort it; 0 without histories.
        rows: Rows of the embedding tables.
        steps: Timed steps.
        step_seconds: Seconds per step, including waiting for events.
        read_seconds: Seconds to read, shuffle and encode a batch's events with nothing else running.
        peak_bytes: Peak memory of the process.
    """

    open_seconds: float
    prepare_seconds: float
    rows: int
    steps: int
    step_seconds: float
    read_seconds: float
    peak_bytes: float


class EnoughError(Exception):
    """Raised to stop a training in the middle of an epoch."""


class Clock(Callback):
    """Times a number of steps after the warm-up, across epochs, and then stops the training."""

    def __init__(self, steps: int) -> None:
        self.wanted, self.done, self.began, self.seconds = steps, -WARM_UP, 0.0, 0.0

    def on_step(self, state: TrainingState) -> None:
        """Counts a step."""
        del state
        self.done += 1
        if self.done == 0:
            self.began = time.perf_counter()
        if self.done == self.wanted:
            self.seconds = time.perf_counter() - self.began
            raise EnoughError


def drawn(count: int, power: float, events: int, draw: np.random.Generator) -> IntArray:
    """Random integers below `count` that follow a power law."""
    return (count * draw.random(events) ** power).astype(np.int64)


def write_log(size: Size, folder: Path) -> Path:
    """Writes the log and its two tables, unless they exist."""
    path = folder / f"{size.interactions}-{size.queries}-{size.candidates}"
    if path.exists():
        return path
    draw = np.random.default_rng(0)
    with replaced_folder(path) as building:
        pq.write_table(pa.table({"query": np.arange(size.queries)}), building / "queries.parquet")
        pq.write_table(pa.table({"candidate": np.arange(size.candidates)}), building / "candidates.parquet")
        schema = pa.schema({"query": pa.int64(), "candidate": pa.int64(), "at": pa.int64()})
        with pq.ParquetWriter(building / "log.parquet", schema) as writer:
            for start in range(0, size.interactions, ROW_GROUP):
                events = min(ROW_GROUP, size.interactions - start)
                columns = {
                    "query": drawn(size.queries, QUERY_POWER, events, draw),
                    "candidate": drawn(size.candidates, CANDIDATE_POWER, events, draw),
                    "at": 1_500_000_000 + start + np.arange(events),
                }
                writer.write_table(pa.table(columns, schema))
    return path


def measure(size: Size, path: Path, steps: int, optimizer: Optimizer) -> Outcome:
    """Opens the log, trains for `steps` steps, and reads as many batches without training."""
    started = time.perf_counter()
    log = stream_parquet(
        path / "log.parquet",
        query_id="query",
        candidate_id="candidate",
        time="at",
        queries=path / "queries.parquet",
        candidates=path / "candidates.parquet",
    )
    open_seconds = time.perf_counter() - started
    features: list[Feature] = [Category("query", size.dim)]
    prepare_seconds = 0.0
    if size.history:
        features.append(History("candidate", by="query", time="at", length=size.history, dim=size.dim, shared=True))
        shutil.rmtree(path / FOLDER, ignore_errors=True)
        started = time.perf_counter()
        log.sorted_events()
        prepare_seconds = time.perf_counter() - started
    model = TwoTower(Tower(features, [size.dim]), Tower([Category("candidate", size.dim)], [size.dim]))
    loss = InBatchSoftmax(reduction="sum" if isinstance(optimizer, Adagrad) else "mean")
    clock = Clock(steps)
    epochs = 1 + (steps + WARM_UP) * size.batch // len(log)
    trainer = Trainer(epochs=epochs, batch_size=size.batch, optimizer=optimizer, loss=loss)
    with suppress(EnoughError):
        trainer.fit(model, log, callbacks=[clock])
    peak = measuring.peak_memory()
    return Outcome(
        open_seconds=open_seconds,
        prepare_seconds=prepare_seconds,
        rows=sum(parameter.shape[0] for name, parameter in model.named_parameters() if name.endswith("table")),
        steps=steps,
        step_seconds=clock.seconds / steps,
        read_seconds=seconds_to_read(model, log, size.batch, steps),
        peak_bytes=peak,
    )


def seconds_to_read(model: TwoTower, log: ParquetLog, batch: int, steps: int) -> float:
    """Seconds to read, shuffle and encode a batch's events with nothing else running."""
    events, started = 0, time.perf_counter()
    with source_of(model, log, batch, seed=1).epoch(1) as parts:
        for part, _ in parts:
            events += len(part)
            if events >= steps * batch:
                break
    return (time.perf_counter() - started) * batch / events


def floor(size: Size, rates: measuring.Rates) -> dict[str, float]:
    """Seconds per step for products, exponentials and touched rows at this machine's peak rates."""
    draw = np.random.default_rng(1)
    queries, candidates = (
        len(np.unique(drawn(count, power, size.batch, draw)))
        for count, power in ((size.queries, QUERY_POWER), (size.candidates, CANDIDATE_POWER))
    )
    softmax = size.batch * candidates * size.dim
    layers = (size.batch + candidates) * size.dim**2
    return {
        "products": PRODUCTS * 2 * (softmax + layers) / rates.flops,
        "exponentials": size.batch * candidates / rates.exponentials,
        "rows": PASSES_PER_ROW * 4 * size.dim * (queries + candidates) / rates.copy,
    }


def in_new_process(size: Size, options: argparse.Namespace, path: Path) -> Outcome:
    """Runs `measure` in a new process."""
    job = msgspec.json.encode(size).decode()
    command = [sys.executable, __file__, "--one", job, "--folder", str(path), "--steps", str(options.steps)]
    done = subprocess.run([*command, "--optimizer", options.optimizer], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{size} failed:\n{done.stderr}")
    return msgspec.json.decode(done.stdout, type=Outcome)


def median(outcomes: list[Outcome]) -> Outcome:
    """The median of each figure."""
    middle = {name: statistics.median(getattr(one, name) for one in outcomes) for name in Outcome.__struct_fields__}
    return msgspec.convert(middle, Outcome, strict=False)


def table_of(results: list[dict[str, Any]], batch: int) -> Table:
    """One row per size."""
    table = Table(show_edge=False, pad_edge=False)
    for heading in (
        "interactions",
        "candidates",
        "history",
        "rows of tables",
        "events/s",
        "µs/event",
        "× first",
        "× floor",
    ):
        table.add_column(heading, justify="right")
    for heading in ("reading, µs/event", "opening, s", "preparing, events/min", "peak, GiB"):
        table.add_column(heading, justify="right")
    for result in results:
        size, one = result["size"], result["median"]
        table.add_row(
            f"{size.interactions:,}",
            f"{size.candidates:,}",
            f"{size.history}",
            f"{one.rows:,}",
            f"{batch / one.step_seconds:,.0f}",
            f"{one.step_seconds / batch * 1e6:.2f}",
            f"{result['times_first']:.2f}",
            f"{result['times_floor']:.2f}",
            f"{one.read_seconds / batch * 1e6:.3f}",
            f"{one.open_seconds:.1f}",
            f"{size.interactions / one.prepare_seconds * 60:,.0f}" if one.prepare_seconds else "",
            f"{one.peak_bytes / 2**30:.2f}",
        )
    return table


def main() -> None:
    """Measures and reports all sizes; with `--one`, measures one size in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, nargs="+", default=[100_000, 1_000_000, 20_000_000])
    parser.add_argument("--candidates", type=int, nargs="+", default=[500_000])
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--history", type=int, default=0, help="history length; also measures without histories")
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=300, help="timed steps")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--optimizer", default='{"kind": "adagrad"}', help="its settings as a JSON object")
    parser.add_argument("--folder", type=Path, help="keep and reuse the logs here; default: a temporary folder")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    optimizer = msgspec.json.decode(options.optimizer, type=Optimizer)
    if options.one:
        size = msgspec.json.decode(options.one, type=Size)
        outcome = measure(size, options.folder, options.steps, optimizer)
        sys.stdout.write(msgspec.json.encode(outcome).decode())
        return
    sizes = [
        Size(interactions, options.queries, candidates, options.dim, options.batch, history)
        for candidates, interactions in itertools.product(options.candidates, options.interactions)
        for history in dict.fromkeys((0, options.history))
    ]
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        paths = [write_log(size, folder) for size in sizes]
        outcomes: list[list[Outcome]] = [[] for _ in sizes]
        for round_number in range(options.repetitions):
            for size, path, own in zip(sizes, paths, outcomes, strict=True):
                own.append(in_new_process(size, options, path))
                label = f"{size.interactions:,} × {size.candidates:,}, history {size.history}"
                console.print(f"round {round_number + 1}: {label}: {own[-1]}")
    rates = measuring.rates()
    medians = [median(own) for own in outcomes]
    results = []
    for size, own, middle in zip(sizes, outcomes, medians, strict=True):
        least = floor(size, rates)
        results.append(
            {
                "size": size,
                "median": middle,
                "times_first": middle.step_seconds / medians[0].step_seconds,
                "times_floor": middle.step_seconds / sum(least.values()),
                "floor_seconds": least,
                "rounds": own,
            }
        )
    Console(width=140).print(table_of(results, options.batch))
    report = {"optimizer": optimizer, "rates": rates, "results": results}
    path = measuring.write_report("scaling", report, options.out)
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
