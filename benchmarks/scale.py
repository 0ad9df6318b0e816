"""What a step of training on several ranks costs: bytes on the wire, floating-point operations, memory.

    python benchmarks/scale.py

Predicts from the sizes of data and model alone; `benchmarks/ranks.py` measures the same on this machine. Prints a row
for each number of ranks: what a rank holds, sends and computes, and how long a pass over the events takes at given
rates.
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
from rich.table import Table

from twotower.training.settings import SHARDED_FROM

NUMBER, ROW = 4, 4
"""Bytes of a float32, and of the number of a row as it is exchanged."""

Backend = Literal["gloo", "nccl"]


class Embeddings(msgspec.Struct, frozen=True):
    """An embedding table.

    Attributes:
        rows: Rows.
        dim: Numbers in a row.
        touched: Distinct rows that a step of one rank's part looks up, in the mean.
        is_lazy: Whether only touched rows are updated and exchanged.
        is_sharded: Whether ranks share out the rows.
    """

    rows: int
    dim: int
    touched: float
    is_lazy: bool = True
    is_sharded: bool = False


class Step(msgspec.Struct, frozen=True):
    """A step of training, as far as its costs depend on it.

    Attributes:
        batch: Events of all ranks together.
        columns: Candidates that the softmax compares: the distinct ones of a batch, or the catalogue.
        width: Numbers in an embedding of a query or candidate.
        dense: Weights of all but the lazy and the sharded tables, whose gradients are exchanged as a whole.
        layers: Weights of the dense layers of the query tower and of the candidate tower.
        tables: The embedding tables.
        states: Numbers that the optimiser keeps for each weight.
    """

    batch: int
    columns: float
    width: int
    dense: int
    layers: tuple[int, int]
    tables: tuple[Embeddings, ...]
    states: int = 2


def payload(step: Step, ranks: int) -> dict[str, float]:
    """Bytes that a rank hands to each kind of exchange in a step, as `twotower.ranks.Traffic` counts them.

    Example:
        >>> step = Step(batch=100, columns=50, width=8, dense=1000, layers=(0, 0), tables=())
        >>> payload(step, 2)
        {'gather': 2400.0, 'scatter': 4800.0, 'sum': 4004.0, 'exchange': 0.0}
    """
    if ranks == 1:
        return {"gather": 0.0, "scatter": 0.0, "sum": 0.0, "exchange": 0.0}
    embeddings = sum(-(-rows // ranks) for rows in (step.batch, step.columns)) * step.width * NUMBER
    lazy = [table for table in step.tables if table.is_lazy and not table.is_sharded]
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
    """Bytes that a rank puts on the wire for what it hands to each kind of exchange.

    All add up in two rounds of a ring; a gather is one round; to scatter sums takes nccl one round and gloo two. Of an
    exchange, a rank keeps its own part.

    Example:
        >>> sent({"gather": 100.0, "scatter": 200.0, "sum": 50.0, "exchange": 80.0}, ranks=2)
        390.0
    """
    share = (ranks - 1) / ranks
    scatters = 2 if backend == "gloo" else 1
    in_rounds = given["scatter"] * scatters + given["sum"] * 2 + given["exchange"]
    return given["gather"] * (ranks - 1) + in_rounds * share


def operations(step: Step, ranks: int) -> float:
    """Floating-point operations of a rank in a step: three products of the softmax, and three of each dense layer."""
    rows, columns = step.batch / ranks, step.columns / ranks
    softmax = 3 * 2 * rows * step.columns * step.width
    return softmax + 3 * 2 * (rows * step.layers[0] + columns * step.layers[1])


def memory(step: Step, ranks: int) -> float:
    """Bytes that a rank holds of weights, their gradients where these are whole, and the optimiser's states."""
    in_tables = sum(
        table.rows * table.dim / (ranks if table.is_sharded else 1) for table in step.tables if table.is_lazy
    )
    return NUMBER * (in_tables * (1 + step.states) + step.dense * (2 + step.states))


def distinct(shares: npt.NDArray[np.float64], draws: float) -> float:
    """How many distinct things are among so many draws, in the mean.

    Args:
        shares: The probability of each, `[n]`.
        draws: How many are drawn.

    Example:
        >>> round(distinct(np.array([0.5, 0.5]), 2), 2)
        1.5
    """
    return float(-np.expm1(draws * np.log1p(-np.minimum(shares, 1 - 1e-12))).sum())


def zipf(things: int, exponent: float = 1.0) -> npt.NDArray[np.float64]:
    """Shares that fall with the rank, `[things]`."""
    weights = np.arange(1, things + 1, dtype=np.float64) ** -exponent
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


class Shop(msgspec.Struct, frozen=True):
    """A log, and the model that is trained on it: ids of both sides, and dense layers.

    Attributes:
        name: What the table calls it.
        events: Events of a pass.
        queries: Rows of the query table.
        candidates: Rows of the candidate table.
        batch: Events of a step.
        dim: Numbers in the embeddings of ids, and of both towers.
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
        """Its step; popularity of candidates falls as 1 / rank, queries are alike. Large tables are sharded."""
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
    """What a number of ranks costs.

    Attributes:
        shop: Of which log.
        ranks: How many.
        memory: Bytes that each holds of weights, gradients and states.
        sent: Bytes that each sends in a step.
        operations: Floating-point operations of each in a step.
        computing: Seconds of a step at the given rate.
        sending: Seconds of a step on the given link.
        hours: Of a pass over the events.
    """

    shop: str
    ranks: int
    memory: float
    sent: float
    operations: float
    computing: float
    sending: float
    hours: float


def cost(shop: Shop, ranks: int, flops: float, link: float, backend: Backend) -> Cost:
    """What a pass over a log costs.

    Args:
        shop: The log.
        ranks: How many.
        flops: Floating-point operations that a rank does in a second of training.
        link: Bytes that a rank sends in a second.
        backend: What exchanges.
    """
    step = shop.step(ranks)
    on_wire, work = sent(payload(step, ranks), ranks, backend), operations(step, ranks)
    computing, sending = work / flops, on_wire / link
    hours = shop.events / shop.batch * (computing + sending) / 3600
    return Cost(shop.name, ranks, memory(step, ranks), on_wire, work, computing, sending, hours)


def table_of(costs: Sequence[Cost]) -> Table:
    """One row a log and number of ranks."""
    table = Table("events", show_edge=False)
    for name in ("ranks", "memory a rank", "sent a step", "computing", "sending", "a pass"):
        table.add_column(name, justify="right")
    for one in costs:
        table.add_row(
            one.shop,
            str(one.ranks),
            f"{one.memory / 2**30:.3g} GiB",
            f"{one.sent / 2**20:.3g} MiB",
            f"{one.computing * 1e3:.3g} ms",
            f"{one.sending * 1e3:.3g} ms",
            f"{one.hours:.3g} h",
        )
    return table


def main() -> None:
    """Prints what each log costs on each number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--gflops", type=float, default=40.0, help="billions of operations a second of a rank")
    parser.add_argument("--gbits", type=float, default=10.0, help="billions of bits a second of a rank's link")
    parser.add_argument("--backend", choices=["gloo", "nccl"], default="gloo")
    parser.add_argument("--out", type=Path, help="the JSON; default: results/scale.json")
    options = parser.parse_args()
    rates = options.gflops * 1e9, options.gbits * 1e9 / 8
    costs = [cost(shop, ranks, *rates, options.backend) for shop in SHOPS for ranks in options.ranks]
    console = Console()
    console.print(table_of(costs))
    settings = {"gflops": options.gflops, "gbits": options.gbits, "backend": options.backend}
    console.print(f"written to {write_report('scale', {**settings, 'costs': costs}, options.out)}")


if __name__ == "__main__":
    main()
