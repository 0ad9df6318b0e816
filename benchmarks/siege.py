"""A siege of the service by hostile clients, and a soak: does it keep answering, and do memory and descriptors grow?

    python benchmarks/siege.py siege
    python benchmarks/siege.py soak --minutes 30 --rate 200

`siege` measures a well-behaved client in three phases: before, during and after the siege. Meanwhile hostile clients
hold 1,000 idle connections, send heads and bodies byte by byte, ask for large answers that they never read, and send
floods of more requests than may wait; and new bundles are published. The scores of every bundle are those of the first
times a different power of two, so an answer that mixes bundles is detected. The command fails if anything was not as
promised.

`soak` sends requests at a steady rate, and reports latency per minute, and memory, file descriptors and threads of the
service over time, with a plot.

The service, the well-behaved client and the hostile clients run in separate processes. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from hostile import Kind, Numbers, besiege, read_large
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measuring import write_report
from rich.console import Console
from rich.table import Table
from service import (
    MEGABYTE,
    VARIANTS,
    Latency,
    Outcome,
    Server,
    events_of,
    offer,
    outcome_of,
    serving,
    start_client,
    variants_of,
)
from vitals import Monitor, Vitals, growth_per_hour, verdict

from twotower.evaluation.intervals import Interval

IMAGES = Path(__file__).parents[1] / "docs" / "images"

FIRST_SWAPS = 4
"""Bundles published before the first phase ends, so that what swaps need once is there before the siege."""

MEMORY_FACTOR = 1.25
"""After the siege, the service may use at most this factor of the memory that it used before."""

EXPECTED_ENDINGS = {
    "idle": {"closed"},
    "slow head": {"408"},
    "slow body": {"408"},
    "never reads": {"closed"},
    "flood": {"200", "503"},
}
"""How connections of each kind of hostile client may end."""


@dataclass(frozen=True)
class Stage:
    """A running service, and the bundles to publish.

    Attributes:
        server: The service.
        paths: The bundles.
        target: Where the service expects its bundle.
        expected: The file with the expected answers.
        log: The service's log.
    """

    server: Server
    paths: list[Path]
    target: Path
    expected: Path
    log: Path


class Phase(msgspec.Struct, frozen=True):
    """One phase of a siege: what the well-behaved client saw, and the highest and last vitals of the service."""

    name: str
    outcome: Outcome
    highest: Vitals
    last: Vitals


class Minute(msgspec.Struct, frozen=True):
    """One part of a soak, by default a minute; the vitals are the highest in it."""

    latency: Latency | None
    vitals: Vitals


@contextmanager
def stage(options: argparse.Namespace, console: Console) -> Iterator[Stage]:
    """Builds bundles and serves the first one."""
    with tempfile.TemporaryDirectory(prefix="twotower-siege-") as name:
        folder = Path(name)
        console.print(f"building bundles of {options.candidates:,} × {options.dim} …")
        paths, expected = variants_of(folder, options, VARIANTS)
        target, log = folder / "served", folder / "service.log"
        shutil.copytree(paths[0], target)
        (folder / "expected.json").write_bytes(msgspec.json.encode(expected))
        with serving(target, log, options.threads, options.timeout) as server:
            yield Stage(server, paths, target, folder / "expected.json", log)


def siege(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Runs the three phases and prints their tables."""
    numbers = numbers_of(options)
    with stage(options, console) as on:
        asyncio.run(read_large(on.server.port, numbers))  # starts the threads that only large answers need
        before = phase("before", on, options, options.quiet_seconds, FIRST_SWAPS)
        swapped = events_of(on.log)["bundle swapped"]
        hostile = start_hostile(on.server.port, options.seconds, numbers)
        during = phase("siege", on, options, options.seconds, options.swaps)
        kinds = kinds_of(hostile)
        time.sleep(options.timeout + 2)  # longer than the service waits for anybody
        after = phase("after", on, options, options.quiet_seconds, 0)
        events = events_of(on.log)
    phases, swapped = [before, during, after], events["bundle swapped"] - swapped
    console.print(phase_table(phases))
    console.print(kind_table(kinds))
    cut_off = f"{events['cut off']} clients cut off because they did not read"
    console.print(f"{options.swaps} bundles published, {swapped} swapped in; {cut_off}")
    problems = problems_of(phases, kinds, events["bundle refused"], options.swaps - swapped)
    return {"phases": phases, "kinds": kinds, "swapped": swapped, "cut_off": events["cut off"], "problems": problems}


def phase(name: str, on: Stage, options: argparse.Namespace, seconds: float, swaps: int) -> Phase:
    """Runs the well-behaved client for some seconds and publishes bundles meanwhile."""
    with Monitor(on.server.pid, 0.5) as monitor:
        client = start_client(on.server.port, on.expected, options, seconds)
        publish(on, swaps, seconds)
        outcome = outcome_of(client)
        time.sleep(1)  # its connections are closed
    return Phase(name, outcome, monitor.highest(), Vitals.of(on.server.pid))


def publish(on: Stage, swaps: int, seconds: float) -> None:
    """Publishes bundles at equal intervals."""
    if swaps:
        offer(on.paths, on.target, swaps, 0, seconds / (swaps + 1))


def numbers_of(options: argparse.Namespace) -> Numbers:
    """How many hostile clients there are."""
    return Numbers(
        idle=options.idle,
        slow_heads=options.slow_heads,
        slow_bodies=options.slow_bodies,
        unread=options.unread,
        flood=options.flood,
        flood_seconds=options.flood_seconds,
        queries=options.queries,
        k=options.unread_k,
    )


def start_hostile(port: int, seconds: float, numbers: Numbers) -> subprocess.Popen[bytes]:
    """Starts a process with all hostile clients."""
    command = [sys.executable, __file__, "hostile", "--port", port, "--seconds", seconds]
    command += ["--numbers", msgspec.json.encode(numbers).decode()]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE)


def kinds_of(hostile: subprocess.Popen[bytes]) -> dict[str, Kind]:
    """Waits for the hostile clients, and returns what they did."""
    said, _ = hostile.communicate()
    if hostile.returncode:
        raise SystemExit(f"the hostile clients ended with {hostile.returncode}")
    return msgspec.json.decode(said, type=dict[str, Kind])


def problems_of(phases: list[Phase], kinds: dict[str, Kind], refused: int, missing: int) -> list[str]:
    """What was not as promised; an overloaded service may answer with 503 while it is flooded."""
    before, during, after = phases
    problems = [f"{one.outcome.mixed} answers mix bundles, {one.name}" for one in phases if one.outcome.mixed]
    for one, allowed in ((before, set[str]()), (during, {"503"}), (after, set[str]())):
        if wrong := {name: count for name, count in one.outcome.errors.items() if name not in allowed}:
            problems.append(f"the well-behaved client got {wrong}, {one.name}")
    for name, kind in kinds.items():
        if not kind.endings and name != "idle":
            problems.append(f"{name}: no connection ended")
        if wrong := {end: count for end, count in kind.endings.items() if end not in EXPECTED_ENDINGS[name]}:
            problems.append(f"{name}: connections ended with {wrong}")
    if refused or missing:
        problems.append(f"{refused} bundles were refused, {missing} were not swapped in")
    if after.last.resident > MEMORY_FACTOR * before.last.resident:
        problems.append(f"memory went from {mebibytes(before.last)} to {mebibytes(after.last)}")
    for name in ("descriptors", "threads"):
        if (now := getattr(after.last, name)) > (then := getattr(before.last, name)):
            problems.append(f"there are {now} {name} after the siege, {then} before")
    return problems


def phase_table(phases: list[Phase]) -> Table:
    """One row per phase."""
    names = ("phase", "requests", "p50", "p99", "highest", "errors", "mixed", "memory", "descriptors", "threads")
    table = Table(*names, show_edge=False)
    for one in phases:
        latency = one.outcome.latency
        times = [milliseconds(value) for value in (latency.p50, latency.p99, latency.highest)]
        errors = ", ".join(f"{name}: {count}" for name, count in one.outcome.errors.items())
        cells = (f"{one.outcome.requests:,}", *times, errors or "0", str(one.outcome.mixed))
        pairs = [(mebibytes(vitals), f"{vitals.descriptors:,}", vitals.threads) for vitals in (one.last, one.highest)]
        table.add_row(one.name, *cells, *(f"{last} ({highest})" for last, highest in zip(*pairs, strict=True)))
    table.caption = "memory, descriptors and threads at the end of the phase (highest in it)"
    return table


def kind_table(kinds: dict[str, Kind]) -> Table:
    """One row per kind of hostile client."""
    table = Table("hostile client", "at once", "connections", "endings", "longest", show_edge=False)
    for name, kind in kinds.items():
        endings = ", ".join(f"{end}: {count:,}" for end, count in kind.endings.items())
        longest = "" if kind.longest is None else f"{kind.longest:.1f} s"
        table.add_row(name, f"{kind.clients:,}", f"{kind.opened:,}", endings, longest)
    return table


def soak(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Sends requests at a steady rate, prints a row per part, and draws the plot."""
    seconds = 60 * options.minutes
    with stage(options, console) as on, Monitor(on.server.pid, options.sample) as monitor:
        publishing = threading.Thread(target=publish, args=(on, options.swaps, seconds))
        client = start_client(on.server.port, on.expected, options, seconds, options.part)
        publishing.start()
        outcome = outcome_of(client)
        publishing.join()
    minutes = minutes_of(monitor, outcome, options.part)
    found = grown(monitor, options.part)
    console.print(minute_table(minutes, options.part))
    for name, (growth, meaning) in found.items():
        console.print(f"{name}: {growth.mean:+.2f} ± {growth.half_width or float('nan'):.2f} per hour, {meaning}")
    first, last = (one.latency for one in (minutes[0], minutes[-1]))
    if first and last:
        console.print(f"p99: {milliseconds(first.p99)} in the first part, {milliseconds(last.p99)} in the last")
    console.print(f"{outcome.requests:,} requests, errors: {outcome.errors or 0}, mixed: {outcome.mixed}")
    default = IMAGES / "soak.png" if options.out is None else options.out.with_suffix(".png")
    draw(monitor, minutes, options, options.picture or default)
    growths = {name: {"per_hour": growth, "verdict": meaning} for name, (growth, meaning) in found.items()}
    return {"outcome": outcome, "minutes": minutes, "growth": growths, "times": monitor.times, "vitals": monitor.vitals}


def minutes_of(monitor: Monitor, outcome: Outcome, part: float) -> list[Minute]:
    """Latency and the highest vitals of each part of a soak."""
    minutes = []
    for number, latency in enumerate(outcome.parts):
        own = [one for at, one in zip(monitor.times, monitor.vitals, strict=True) if number <= at / part < number + 1]
        each = zip(*map(msgspec.structs.astuple, own or monitor.vitals[-1:]), strict=True)
        minutes.append(Minute(latency, Vitals(*map(max, each))))
    return minutes


def grown(monitor: Monitor, part: float) -> dict[str, tuple[Interval, str]]:
    """Growth per hour of memory in MiB and of descriptors, and what it means; the first part is a warm-up."""
    kept = [number for number, at in enumerate(monitor.times) if at >= part] or list(range(len(monitor.times)))
    times, vitals = [monitor.times[number] for number in kept], [monitor.vitals[number] for number in kept]
    found = {}
    for name, values in (
        ("memory in MiB", [one.resident / MEGABYTE for one in vitals]),
        ("descriptors", [float(one.descriptors) for one in vitals]),
    ):
        growth = growth_per_hour(times, values)
        found[name] = growth, verdict(growth, sum(values) / len(values))
    return found


def minute_table(minutes: list[Minute], part: float) -> Table:
    """One row per part of a soak."""
    table = Table("minute", "p50", "p99", "highest", "memory", "descriptors", "threads", show_edge=False)
    for number, one in enumerate(minutes):
        values = (one.latency.p50, one.latency.p99, one.latency.highest) if one.latency else ()
        times = [milliseconds(value) for value in values] or ["–"] * 3
        vitals = one.vitals
        counts = (mebibytes(vitals), str(vitals.descriptors), str(vitals.threads))
        table.add_row(f"{(number + 1) * part / 60:.4g}", *times, *counts)
    return table


def draw(monitor: Monitor, minutes: list[Minute], options: argparse.Namespace, file: Path) -> None:
    """Plots memory, descriptors and latency over time."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    memory, descriptors, latency = figure.subplots(3, sharex=True)
    at = [time / 60 for time in monitor.times]
    memory.plot(at, [one.resident / MEGABYTE for one in monitor.vitals], color="#0072b2")
    memory.set_ylabel("memory, MiB")
    descriptors.plot(at, [one.descriptors for one in monitor.vitals], color="#009e73")
    descriptors.set_ylabel("descriptors")
    ends = [(number + 1) * options.part / 60 for number, one in enumerate(minutes) if one.latency]
    for name, colour in (("p99", "#d55e00"), ("p50", "#999999")):
        values = [1000 * getattr(one.latency, name) for one in minutes if one.latency]
        latency.plot(ends, values, color=colour, label=name, marker="o", markersize=3)
    latency.set_ylabel("latency, ms")
    latency.set_xlabel("minutes")
    latency.legend(fontsize=8)
    for axes in (memory, descriptors, latency):
        axes.set_ylim(0, 1.1 * max(line.get_ydata().max() for line in axes.lines))
        axes.grid(alpha=0.3)
    memory.set_title(f"{options.rate:g} requests per second")
    figure.savefig(file, dpi=110)


def milliseconds(seconds: float) -> str:
    """A duration for a table."""
    return f"{1000 * seconds:,.1f} ms"


def mebibytes(vitals: Vitals) -> str:
    """Resident memory for a table."""
    return f"{vitals.resident / MEGABYTE:.0f} MiB"


def parser_of() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--candidates", type=int, default=20_000)
    both.add_argument("--dim", type=int, default=32, help="embedding dimension")
    both.add_argument("--queries", type=int, default=2_000)
    both.add_argument("--k", type=int, default=10, help="recommendations per answer")
    both.add_argument("--threads", type=int, default=2, help="threads per search")
    both.add_argument("--timeout", type=float, default=10.0, help="the service's limit for a request, in seconds")
    both.add_argument("--seed", type=int, default=0)
    both.add_argument("--out", type=Path, help="the JSON; default: results/siege.json or soak.json beside this script")
    both.set_defaults(index="exact", rerank=0)
    one = commands.add_parser("siege", parents=[both], help="hostile clients while bundles are published")
    one.add_argument("--rate", type=float, default=50.0, help="requests per second of the well-behaved client")
    one.add_argument("--seconds", type=float, default=240.0, help="length of the siege")
    one.add_argument("--quiet-seconds", type=float, default=20.0, help="length of the phases before and after it")
    one.add_argument("--swaps", type=int, default=50, help="bundles published during the siege")
    one.add_argument("--idle", type=int, default=1_000, help="idle connections")
    one.add_argument("--slow-heads", type=int, default=50, help="clients that send a head byte by byte")
    one.add_argument("--slow-bodies", type=int, default=50, help="clients that send a body byte by byte")
    one.add_argument("--unread", type=int, default=20, help="clients that never read their large answers")
    one.add_argument("--unread-k", type=int, default=100, help="recommendations per query of a large answer")
    one.add_argument("--flood", type=int, default=1_000, help="requests sent at once")
    one.add_argument("--flood-seconds", type=float, default=10.0, help="seconds between floods")
    one = commands.add_parser("soak", parents=[both], help="a steady load for a long time")
    one.add_argument("--minutes", type=float, default=30.0)
    one.add_argument("--rate", type=float, default=200.0, help="requests per second")
    one.add_argument("--swaps", type=int, default=0, help="bundles published during the soak")
    one.add_argument("--sample", type=float, default=5.0, help="seconds between two readings of memory and descriptors")
    one.add_argument("--part", type=float, default=60.0, help="seconds per row of the table")
    one.add_argument("--picture", type=Path, help="the plot; default: docs/images/soak.png, or beside the JSON")
    one = commands.add_parser("hostile", help="internal")
    one.add_argument("--port", type=int)
    one.add_argument("--seconds", type=float)
    one.add_argument("--numbers")
    return parser


def main() -> None:
    """Runs the benchmark."""
    options = parser_of().parse_args()
    if options.what == "hostile":
        numbers = msgspec.json.decode(options.numbers, type=Numbers)
        kinds = asyncio.run(besiege(options.port, numbers, options.seconds))
        sys.stdout.write(msgspec.json.encode(kinds).decode())
        return
    console = Console(width=140)
    found = siege(options, console) if options.what == "siege" else soak(options, console)
    used = {name: value for name, value in vars(options).items() if name not in ("out", "picture", "what")}
    console.print(f"written to {write_report(options.what, {'options': used, **found}, options.out)}")
    for problem in found.get("problems", []):
        console.print(f"PROBLEM {problem}")
    if found.get("problems"):
        sys.exit(1)


if __name__ == "__main__":
    main()
