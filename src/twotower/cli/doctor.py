"""`twotower doctor`: shows what is installed, what works, and how fast this machine is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from twotower.cli.output import console_for, write_json
from twotower.experiments.speed import REFERENCE, Speed, measured_speed
from twotower.installed import ExtraState, Installation, installation

app = typer.Typer(rich_markup_mode="markdown")

Rows = Iterable[tuple[str, ...]]


@app.command()
def doctor(
    benchmark: Annotated[
        bool, typer.Option("--benchmark/--no-benchmark", help="Measure the speed, which takes a few seconds.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON value to standard output.")] = False,
) -> None:
    """Check the installation: versions, extras, devices, threads, and the speed of this machine.

    The exit code is 1 if something installed does not work. Include the output when you report a bug.
    """
    found = installation()
    speed = measured_speed() if benchmark else None
    if json:
        report = msgspec.to_builtins(found)
        if speed is not None:
            report["speed"] = {"measured": speed, "reference": REFERENCE}
        write_json(report)
    else:
        console = console_for(json)
        for title, headers, rows in _sections(found, speed):
            table = Table(*headers, title=title, title_justify="left", show_edge=False, pad_edge=False)
            for row in rows:
                table.add_row(*row)
            console.print(table, "")
    if any(device.error for device in found.devices) or any(extra.error for extra in found.extras):
        raise typer.Exit(1)


def _sections(found: Installation, speed: Speed | None) -> Iterable[tuple[str, tuple[str, ...], Rows]]:
    """Title, headers and rows of each table."""
    versions = {"twotower": found.twotower, "python": found.python, **found.libraries, "platform": found.platform}
    yield "Versions", ("library", "version"), versions.items()
    yield "Processors", ("limit", "value"), _limit_rows(found)
    yield (
        "Devices",
        ("device", "what it is", "state"),
        [(one.name, one.description, one.error or "works") for one in found.devices],
    )
    yield "Extras", ("extra", "state", "libraries"), map(_extra_row, found.extras)
    if speed is not None:
        yield f"Speed (reference: {REFERENCE.machine})", ("work", "here", "reference"), _speed_rows(speed)


def _limit_rows(found: Installation) -> Rows:
    limits = found.limits
    return [
        ("cores this process may run on", str(limits.cores)),
        ("control group quota", "no limit" if limits.quota is None else f"{limits.quota} cores"),
        ("OMP_NUM_THREADS", limits.omp_num_threads or "not set"),
        ("threads twotower uses", str(limits.threads)),
    ]


def _extra_row(extra: ExtraState) -> tuple[str, ...]:
    libraries = ", ".join(f"{name} {number}" for name, number in extra.versions.items())
    if extra.missing:
        return extra.name, "not installed", f"pip install 'twotower\\[{extra.name}]'"
    return extra.name, "works" if extra.works else f"broken: {extra.error}", libraries


def _speed_rows(speed: Speed) -> Rows:
    pairs = [
        ("training, events per second", "training_events_per_second", "{:,.0f}"),
        ("exact search of 100,000, one query, ms", "search_milliseconds", "{:.2f}"),
        ("exact search of 100,000, queries per second", "searches_per_second", "{:,.0f}"),
    ]
    return [
        (work, *(shown.format(getattr(figures, name)) for figures in (speed, REFERENCE))) for work, name, shown in pairs
    ]
