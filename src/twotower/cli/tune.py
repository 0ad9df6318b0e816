"""`twotower tune`: searches for a better config by validating on a part of train."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.baselines import (
    BaselineMemoryOption,
    BaselineSecondsOption,
    BaselinesOption,
    budget_of,
    with_baselines,
)
from twotower.cli.options import ImportOption, SplitOption, SplitSeedOption, configured
from twotower.cli.output import console_for, write_json
from twotower.experiments.folder import TUNING
from twotower.extras import require
from twotower.files import check_folder_target
from twotower.processes import allowed_threads

DEFAULT_MINUTES = 10.0

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def tune(
    source: Annotated[
        str, typer.Argument(metavar="CONFIG.toml|DATA", help="A config, with or without [tune], or a data set's name.")
    ],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Stop at this many finished trials, including earlier commands'.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Time for this command, including the final training. Default: 10, unless --trials is given."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the allowed threads. Default: one per thread.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    split: SplitOption = None,
    split_seed: SplitSeedOption = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("tuning"),
    baselines: BaselinesOption = None,
    baseline_seconds: BaselineSecondsOption = None,
    baseline_memory: BaselineMemoryOption = None,
    imports: ImportOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print tune.json to standard output.")] = False,
) -> None:
    """Search for a better config on a validation part; measure the best and the built-in one on test.

    Writes best.toml, a config for train and study, tune.html, tune.json and, in runs/, every model. Rerun the command
    to resume. It needs the extra: pip install 'twotower[tune]'.
    """
    for module in ("optuna", "tomli_w"):
        require(module, "tune")
    from twotower.experiments.tuning.tune import BEST, REPORT, TunePlan
    from twotower.experiments.tuning.tune import tune as search

    console = console_for(json)
    check_folder_target(out, TUNING)
    plan = TunePlan(
        config=with_baselines(configured(source, imports, split, split_seed), baselines),
        trials=trials,
        minutes=DEFAULT_MINUTES if trials is None and minutes is None else minutes,
        workers=allowed_threads() if workers is None else workers,
        seed=seed,
    )
    budget, command = budget_of(baseline_seconds, baseline_memory), shlex.join(["twotower", *sys.argv[1:]])
    result = search(plan, out, command=command, console=console, baselines=budget)
    for line in (*result.verdicts, f"\nThe best config: {out / BEST}", f"The report: {out / REPORT}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if json:
        write_json(result)
