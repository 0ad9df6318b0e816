"""`twotower update`: one turn of a daily loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.baselines import BaselinesOption, budget_of, with_baselines
from twotower.cli.options import ImportOption, SplitOption, SplitSeedOption, configured
from twotower.cli.output import console_for, write_json
from twotower.errors import ConfigError, UpdateRefusedError
from twotower.experiments.gates import GateSettings
from twotower.experiments.update import UpdateReport, UpdateSettings, roll_back
from twotower.experiments.update import update as update_bundle

GATES = GateSettings()

ToleranceOption = Annotated[float, typer.Option(min=0, max=1, help="How far the score may fall, beyond its interval.")]
CoverageOption = Annotated[
    float, typer.Option(min=0, max=1, help="Least share of the old bundle's coverage that must be left.")
]
DriftOption = Annotated[float, typer.Option(min=0, help="Most that a column may have moved, as a stability index.")]
EventsOption = Annotated[
    float, typer.Option(min=0, max=1, help="Least share of the last update's events that must be there.")
]
ParityOption = Annotated[
    float, typer.Option(min=0, max=1, help="Least recall of an approximate index against exact search.")
]

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def update(
    bundle: Annotated[Path, typer.Option(help="The bundle that is served, or where the first one is to be.")],
    source: Annotated[
        str | None, typer.Argument(metavar="[CONFIG.toml|DATA]", help="A config, or a data set's name.")
    ] = None,
    only_new: Annotated[
        bool, typer.Option("--only-new", help="Train on the events after the last one that the bundle learned from.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--from-scratch", help="Train from scratch instead of continuing from the bundle.")
    ] = False,
    retire_after: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Forget ids without an event for so long.")
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="Versions to keep, the one that is served included.")] = 3,
    rollback: Annotated[bool, typer.Option("--rollback", help="Serve the version that was published before.")] = False,
    tolerance: ToleranceOption = GATES.tolerance,
    coverage: CoverageOption = GATES.coverage,
    drift: DriftOption = GATES.drift,
    events: EventsOption = GATES.events,
    parity: ParityOption = GATES.parity,
    split: SplitOption = None,
    split_seed: SplitSeedOption = None,
    baselines: BaselinesOption = None,
    imports: ImportOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON value to standard output.")] = False,
) -> None:
    """Train a bundle's successor on new events, and publish it only if it is not worse.

    It is refused, with exit code 6, where columns of the input have moved, its score or its coverage is lower, or its
    index finds too little. The bundle is then as it was, and what was refused lies in BUNDLE.versions/refused. A
    service that runs over the bundle takes what is published. Rerun the command to resume an interrupted training.
    """
    console = console_for(json)
    if rollback:
        report = roll_back(bundle)
    else:
        if source is None:
            raise ConfigError("twotower update needs CONFIG.toml or the name of a data set, or --rollback")
        gates = GateSettings(tolerance=tolerance, coverage=coverage, drift=drift, events=events, parity=parity)
        settings = UpdateSettings(fresh, only_new, retire_after, keep, gates)
        config = with_baselines(configured(source, imports, split, split_seed), baselines)
        report = update_bundle(config, bundle, settings, console=console, budget=budget_of(None, None))
    if report.evaluation is not None:
        console.print(str(report.evaluation), highlight=False, markup=False, soft_wrap=True)
    if json:
        write_json(report)
    if report.outcome == "refused":
        raise UpdateRefusedError(_refusal(report))
    console.print(
        f"{bundle}: {report.outcome}, version {report.version}; kept are {', '.join(report.kept)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _refusal(report: UpdateReport) -> str:
    served = f"{report.bundle} stays version {report.version}" if report.version else "nothing was published"
    looked = f"; what was refused is in {report.refused}" if report.refused else ""
    return f"refused: {' '.join(report.reasons)} {served}{looked}"
