"""Memory of a service by its number of workers, which map one copy of the bundle. Linux only.

    python benchmarks/service_memory.py --candidates 1000000 --dim 64 --workers 1 2 4

The bundle is that of `service.py`, with a title for each candidate. Memory is read when each worker has spent some time
on answers, so that everything that an answer needs is in memory. Proportional set size (PSS) counts a page that n
processes share as 1/n in each, so that its sum over processes is what the service takes together. Anonymous memory is
in no file.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from measuring import write_report
from rich.console import Console
from rich.table import Table
from service import Connections, port_of, variants_of

ROUND, ROUNDS = 20, 500
"""Requests sent before looking how much the workers have done, and how often that is repeated at most."""

WORKED = 0.2
"""Seconds of processor time that each worker must have spent on answers."""


class Memory(msgspec.Struct, frozen=True):
    """Memory of a service, in bytes.

    Attributes:
        workers: Number of workers.
        together: Proportional set size of all its processes.
        anonymous: Memory that is in no file, as each process sees it, summed; forked workers share some of it.
        resident: Resident memory, which counts shared pages in every process.
    """

    workers: int
    together: int
    anonymous: int
    resident: int


def family_of(pid: int) -> list[int]:
    """A process and all its descendants."""
    found, place = [pid], 0
    while place < len(found):
        for listed in Path(f"/proc/{found[place]}/task").glob("*/children"):
            found += [int(child) for child in listed.read_text(encoding="ascii").split()]
        place += 1
    return found


def memory_of(workers: int, pids: list[int]) -> Memory:
    """Sums over processes what the kernel says of each in `smaps_rollup`."""
    sums = dict.fromkeys(("Pss", "Anonymous", "Rss"), 0)
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
            name, value, *_ = line.replace(":", " ").split()
            if name in sums:
                sums[name] += 1024 * int(value)
    return Memory(workers, sums["Pss"], sums["Anonymous"], sums["Rss"])


@contextmanager
def serving(bundle: Path, log: Path, workers: int) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a service with so many workers."""
    command = [sys.executable, "-m", "twotower", "serve", str(bundle), "--port", "0", "--workers", str(workers)]
    with log.open("wb") as written, subprocess.Popen(command, stdout=written, stderr=written) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


async def ask(port: int, requests: int, queries: int) -> None:
    """Asks for recommendations, each over a connection of its own and all at once, so that no worker has them alone."""

    async def one(number: int) -> None:
        async with Connections(port) as connections:
            body = b'{"query":{"query":%d},"k":100,"exclude_seen":true}' % (number % queries)
            status, answer = await connections.ask("/v1/recommend", body)
            if status != 200:
                raise SystemExit(f"the service answered {status}: {answer[:500]!r}")

    await asyncio.gather(*map(one, range(requests)))


def worked(pids: list[int]) -> list[float]:
    """Seconds of processor time of each process."""
    ticks = (Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13] for pid in pids)
    return [sum(map(int, one)) / os.sysconf("SC_CLK_TCK") for one in ticks]


def ask_all(port: int, pids: list[int], queries: int) -> None:
    """Asks until each of these processes has answered for some time."""
    before = worked(pids)
    for _ in range(ROUNDS):
        asyncio.run(ask(port, ROUND, queries))
        if min(now - then for now, then in zip(worked(pids), before, strict=True)) >= WORKED:
            return
    raise SystemExit(f"some of {len(pids)} workers hardly answered: {worked(pids)} s of work; before {before}")


def measured(options: argparse.Namespace, console: Console) -> list[Memory]:
    """Runs the service with each number of workers."""
    found = []
    with tempfile.TemporaryDirectory(prefix="twotower-memory-") as name:
        console.print(f"building a bundle of {options.candidates:,} × {options.dim} …")
        (bundle,), _ = variants_of(Path(name), options, 1)
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        console.print(f"its files take {size / 2**20:,.0f} MiB")
        for workers in options.workers:
            log = Path(name) / f"service-{workers}.log"
            with serving(bundle, log, workers) as process:
                port, pids = port_of(process, log), family_of(process.pid)
                ask_all(port, pids if len(pids) == 1 else pids[1:], options.queries)  # the first starts the others
                found.append(memory_of(workers, pids))
    return found


def table_of(found: list[Memory]) -> Table:
    """One row per number of workers."""
    table = Table("workers", "together (PSS)", "each more", "anonymous", "resident", show_edge=False)
    for before, one in zip([None, *found], found, strict=False):
        more = None if before is None else (one.together - before.together) / (one.workers - before.workers)
        sizes = (one.together, more, one.anonymous, one.resident)
        table.add_row(str(one.workers), *("" if size is None else f"{size / 2**20:,.0f} MiB" for size in sizes))
    return table


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out", type=Path, help="the JSON; default: results/service-memory.json")
    options = parser.parse_args()
    options.index, options.rerank, options.seed = "exact", 0, 0
    console = Console()
    found = measured(options, console)
    console.print(table_of(found))
    setting = {"candidates": options.candidates, "queries": options.queries, "dim": options.dim}
    console.print(f"written to {write_report('service-memory', {'setting': setting, 'memory': found}, options.out)}")


if __name__ == "__main__":
    main()
