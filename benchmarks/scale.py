"""Cost model of a training step on several ranks: bytes on the wire, floating-point operations, memory.

    python benchmarks/scale.py

Predicts from the sizes of data and model only; `benchmarks/ranks.py` measures the same on this machine. For each number
of ranks, prints what a rank holds, sends and computes, how long an epoch takes at given rates, and what training once
a day costs: from scratch on the whole log, or a warm start on the events of one day.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from measuring import write_report
from rich.console import Console
from rich.table import Column, Table

from twotower.training.settings import SHARDED_FROM

NUMBER, ROW = 4, 4
"""Bytes of a float32, and of a row number as it is exchanged."""

Backend = Literal["gloo", "nccl"]


class Embeddings(msgspec.Struct, frozen=True):
    """An embedding table of which only touched rows are updated and exchanged.

    Attributes:
        rows: Number of rows.
        dim: Numbers per row.
        touched: Mean number of distinct rows that one rank looks up in a step.
        is_sharded: Whether the table is sharded.
    """

    rows: int
    dim: int
    touched: float
    is_sharded: bool = False


class Step(msgspec.Struct, frozen=True):
    """The properties of a training step that determine its cost.

    Attributes:
        batch: Events of all ranks together.
        columns: Candidates in the softmax: the distinct ones of a batch, or the catalogue.
        width: Dimension of query and candidate embeddings.
        dense: Number of weights outside `tables`; their gradients are exchanged whole.
        layers: Number of weights in the dense layers of the query tower and of the candidate tower.
        tables: The embedding tables.
        states: Numbers that the optimiser keeps per weight.
    """

    batch: int
    columns: float
    width: int
    dense: int
    layers: tuple[int, int]
    tables: tuple[Embeddings, ...]
    states: int = 2


def payload(step: Step, ranks: int) -> dict[str, float]:
    """Bytes that a rank passes to each kind of collective operation in a step, as counted by `twotower.ranks.Traffic`.

    Example:
        >>> step = Step(batch=100, columns=50, width=8, dense=1000, layers=(0, 0), tables=())
        >>> payload(step, 2)
        {'gather': 2400.0, 'scatter': 4800.0, 'sum': 4004.0, 'exchange': 0.0}
    """
    if ranks == 1:
        return {"gather": 0.0, "scatter": 0.0, "sum": 0.0, "exchange": 0.0}
    embeddings = sum(-(-rows // ranks) for rows in (step.batch, step.columns)) * step.width * NUMBER
    lazy = [table for table in step.tables if not table.is_sharded]
    sharded = [table for table in step.tables if table.is_sharded]
    rows = sum(table.touched * (ROW + table.dim * NUMBER) for table in lazy)
    looked_up = sum(table.touched * (ROW + 2 * table.dim * NUMBER) for table in sharded)
    return {
        "gather": float(embeddings + rows + 8 * len(lazy)),
        "scatter": float(embeddings * ranks),
        "sum": float(step.dense * NUMBER + NUMBER),
        "exchange": float(looked_up + 8 * ranks * len(sharded)),
    }


def sent(given: Mapping[str, float], ranks: int, backend: Backend = "gloo") -> float:
    """Bytes that a rank sends over the network, given the payload of each kind of operation.

    An all-reduce takes two rounds of a ring, and a gather one; a reduce-scatter takes one with nccl and two with gloo.
    In an all-to-all, a rank keeps its own part.

    Example:
        >>> sent({"gather": 100.0, "scatter": 200.0, "sum": 50.0, "exchange": 80.0}, ranks=2)
        390.0
    """
    share = (ranks - 1) / ranks
    scatters = 2 if backend == "gloo" else 1
    in_rounds = given["scatter"] * scatters + given["sum"] * 2 + given["exchange"]
    return given["gather"] * (ranks - 1) + in_rounds * share


def operations(step: Step, ranks: int) -> float:
    """Floating-point operations of a rank in a step: three products for the softmax, and three per dense layer."""
    rows, columns = step.batch / ranks, step.columns / ranks
    softmax = 3 * 2 * rows * step.columns * step.width
    return softmax + 3 * 2 * (rows * step.layers[0] + columns * step.layers[1])


def memory(step: Step, ranks: int) -> float:
    """Bytes that a rank holds: weights, dense gradients and optimiser states."""
    in_tables = sum(table.rows * table.dim / (ranks if table.is_sharded else 1) for table in step.tables)
    return NUMBER * (in_tables * (1 + step.states) + step.dense * (2 + step.states))


def distinct(shares: npt.NDArray[np.float64], draws: float) -> float:
    """Expected number of distinct items among random draws.

    Args:
        shares: The probability of each item, `[n]`.
        draws: Number of draws.

    Example:
        >>> round(distinct(np.array([0.5, 0.5]), 2), 2)
        1.5
    """
    return float(-np.expm1(draws * np.log1p(-np.minimum(shares, 1 - 1e-12))).sum())


def zipf(things: int, exponent: float = 1.0) -> npt.NDArray[np.float64]:
    """Probabilities that fall with the rank by Zipf's law, `[things]`."""
    weights = np.arange(1, things + 1, dtype=np.float64) ** -exponent
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


class Shop(msgspec.Struct, frozen=True):
    """A log, and the model trained on it: ids of both sides, and dense layers.

    Attributes:
        name: Its name in the table.
        events: Events per epoch.
        queries: Rows of the query table.
        candidates: Rows of the candidate table.
        batch: Batch size.
        dim: Embedding dimension of ids and towers.
        hidden: Width of the hidden layer.
    """

    name: str
    events: int
    queries: int
    candidates: int
    batch: int
    dim: int = 64
    hidden: int = 256

    def step(self, ranks: int) -> Step:
        """Its step, with candidate popularity falling as 1 / rank, uniform queries, and large tables sharded."""
        popularity = zipf(min(self.candidates, 2_000_000))
        columns = distinct(popularity, self.batch)
        queries = self.queries * -np.expm1(-self.batch / ranks / self.queries)
        layers = 2 * self.dim * self.hidden
        tables = (
            self._table(self.queries, queries, ranks),
            self._table(self.candidates, columns / ranks, ranks),
        )
        return Step(self.batch, float(round(columns)), self.dim, 2 * layers, (layers, layers), tables)

    def _table(self, rows: int, touched: float, ranks: int) -> Embeddings:
        return Embeddings(rows, self.dim, touched, is_sharded=ranks > 1 and rows * self.dim >= SHARDED_FROM)


SHOPS = (
    Shop("a million events", 1_000_000, 50_000, 20_000, 8_192),
    Shop("a hundred million", 100_000_000, 5_000_000, 500_000, 32_768),
    Shop("a billion", 1_000_000_000, 100_000_000, 10_000_000, 65_536),
)


class Cost(msgspec.Struct, frozen=True):
    """Cost of training on a number of ranks.

    Attributes:
        shop: Name of the log.
        ranks: Number of ranks.
        memory: Bytes of weights, gradients and optimiser states per rank.
        sent: Bytes that each rank sends per step.
        operations: Floating-point operations of each rank per step.
        computing: Seconds of computation per step, at the given rate.
        sending: Seconds of communication per step, on the given link.
        hours: Hours per epoch.
        scratch: Rank-hours to train from scratch on the whole log.
        warm: Rank-hours to continue with the events of one day.
    """

    shop: str
    ranks: int
    memory: float
    sent: float
    operations: float
    computing: float
    sending: float
    hours: float
    scratch: float
    warm: float


def cost(shop: Shop, ranks: int, flops: float, link: float, backend: Backend, epochs: int = 6, days: int = 365) -> Cost:
    """Cost of an epoch, and of a day's training.

    Args:
        shop: The log.
        ranks: Number of ranks.
        flops: Floating-point operations per second of a rank in training.
        link: Bytes per second that a rank can send.
        backend: The communication backend.
        epochs: Epochs of a training from scratch; a warm start has one.
        days: Days that the log covers.

    Example:
        >>> one = cost(SHOPS[0], 4, 40e9, 1.25e9, "gloo", epochs=6, days=100)
        >>> round(one.scratch / one.hours), round(one.scratch / one.warm)
        (24, 600)
    """
    step = shop.step(ranks)
    on_wire, work = sent(payload(step, ranks), ranks, backend), operations(step, ranks)
    computing, sending = work / flops, on_wire / link
    hours = shop.events / shop.batch * (computing + sending) / 3600
    scratch = ranks * hours * epochs
    warm = ranks * hours / days
    return Cost(shop.name, ranks, memory(step, ranks), on_wire, work, computing, sending, hours, scratch, warm)


def table_of(costs: Sequence[Cost], price: float) -> Table:
    """One row per log and number of ranks; the last two columns are the price of a day's training."""
    table = Table(Column("events", no_wrap=True), show_edge=False)
    for name in ("ranks", "memory a rank", "sent a step", "computing", "sending", "an epoch", "from scratch", "warm"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in costs:
        table.add_row(
            one.shop,
            str(one.ranks),
            f"{one.memory / 2**30:.3g} GiB",
            f"{one.sent / 2**20:.3g} MiB",
            f"{one.computing * 1e3:.3g} ms",
            f"{one.sending * 1e3:.3g} ms",
            f"{one.hours:.3g} h",
            f"{one.scratch * price:,.2f}",
            f"{one.warm * price:,.4f}",
        )
    return table


def main() -> None:
    """Prints the cost of each log on each number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--gflops", type=float, default=40.0, help="billions of operations per second and rank")
    parser.add_argument("--gbits", type=float, default=10.0, help="billions of bits per second of a rank's link")
    parser.add_argument("--backend", choices=["gloo", "nccl"], default="gloo")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of a training from scratch")
    parser.add_argument("--days", type=int, default=365, help="days that each log covers")
    parser.add_argument("--price", type=float, default=0.05, help="price of a rank for an hour, in any currency")
    parser.add_argument("--out", type=Path, help="the JSON; default: results/scale.json")
    options = parser.parse_args()
    rates = options.gflops * 1e9, options.gbits * 1e9 / 8
    given = *rates, options.backend, options.epochs, options.days
    costs = [cost(shop, ranks, *given) for shop in SHOPS for ranks in options.ranks]
    console = Console(width=120)
    console.print(table_of(costs, options.price))
    names = "gflops", "gbits", "backend", "epochs", "days", "price"
    settings = {name: getattr(options, name) for name in names}
    console.print(f"written to {write_report('scale', {**settings, 'costs': costs}, options.out)}")


if __name__ == "__main__":
    main()
