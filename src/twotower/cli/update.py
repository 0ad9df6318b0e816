"""`twotower update`: one round of a daily retraining loop."""

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

ToleranceOption = Annotated[float, typer.Option(min=0, max=1, help="Accepted loss of score, beyond its interval.")]
CoverageOption = Annotated[
    float, typer.Option(min=0, max=1, help="Smallest accepted share of the old bundle's coverage.")
]
DriftOption = Annotated[float, typer.Option(min=0, help="Largest accepted population stability index of a column.")]
EventsOption = Annotated[
    float, typer.Option(min=0, max=1, help="Smallest accepted share of the last update's number of events.")
]
ParityOption = Annotated[
    float, typer.Option(min=0, max=1, help="Smallest accepted recall of an approximate index against exact search.")
]

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def update(
    bundle: Annotated[Path, typer.Option(help="The served bundle, or the folder for the first one.")],
    source: Annotated[
        str | None, typer.Argument(metavar="[CONFIG.toml|DATA]", help="A config, or a data set's name.")
    ] = None,
    only_new: Annotated[
        bool, typer.Option("--only-new", help="Train only on events later than those the bundle learned from.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--from-scratch", help="Train from scratch instead of continuing from the bundle.")
    ] = False,
    retire_after: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Drop ids without an event for this many days.")
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="Versions to keep, including the served one.")] = 3,
    rollback: Annotated[bool, typer.Option("--rollback", help="Serve the previously published version.")] = False,
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

    The update is refused with exit code 6 if input columns have drifted, the score or the coverage is lower, or the
    index misses too much. The bundle then stays unchanged, and the refused one is kept in BUNDLE.versions/refused.
    A running service picks up what is published. Rerun the command to resume an interrupted training.
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
        f"{bundle}: {report.outcome}, version {report.version}; kept: {', '.join(report.kept)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _refusal(report: UpdateReport) -> str:
    served = f"{report.bundle} stays version {report.version}" if report.version else "nothing was published"
    kept = f"; the refused bundle is in {report.refused}" if report.refused else ""
    return f"refused: {' '.join(report.reasons)} {served}{kept}"
