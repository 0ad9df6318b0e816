"""`twotower tune`: a search for a better config, by validation on a part of train."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.output import console_for, write_json
from twotower.extras import require
from twotower.files import check_folder_target
from twotower.processes import cores
from twotower.study.config import config_of
from twotower.tuning.folder import TuningFolder

MINUTES = 10.0


def tune(
    source: Annotated[
        str, typer.Argument(metavar="CONFIG.toml|DATA", help="A config, with or without [tune], or a data set's name.")
    ],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Stop at this many finished trials, earlier commands' included.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Time for this command, training and measuring the best included. Default: 10, or --trials."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the cores. Default: one a core.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("tuning"),
    json: Annotated[bool, typer.Option("--json", help="Print tune.json to standard output.")] = False,
) -> None:
    """Search for a better config on a part of train; measure the best, and the one built in, on test.

    DIR gets best.toml, which train and study take, tune.html, tune.json and tune.db. An interrupted search
    goes on where it was when the same command is given again. It needs the extra: pip install 'twotower[tune]'.
    """
    for module in ("optuna", "tomli_w"):
        require(module, "tune")
    from twotower.tuning.runner import TunePlan
    from twotower.tuning.runner import tune as search

    console = console_for(json)
    check_folder_target(out, TuningFolder())
    plan = TunePlan(
        config=config_of(source),
        trials=trials,
        minutes=MINUTES if trials is None and minutes is None else minutes,
        workers=cores() if workers is None else workers,
        seed=seed,
    )
    result = search(plan, out, command=shlex.join(["twotower", *sys.argv[1:]]), console=console)
    for sentence in result.verdicts:
        console.print(sentence, highlight=False, markup=False)
    console.print(f"\nThe best config: {out / 'best.toml'}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"The report: {out / 'tune.html'}", highlight=False, markup=False, soft_wrap=True)
    if json:
        write_json(result)
