"""`twotower study`: models of growing depth compared, with a report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from twotower.cli.output import console_for, write_json
from twotower.data.describe import describe, describe_table
from twotower.errors import ConfigError
from twotower.processes import cores
from twotower.study.config import Config, SplitConfig, config_of
from twotower.study.recipes import RecipeName
from twotower.study.runner import StudyPlan, check_study_target, run_study
from twotower.study.tables import results_table

DEPTHS = ((32,), (64, 32), (128, 64, 32))


def study(
    source: Annotated[
        str,
        typer.Argument(
            metavar="[DATA|CONFIG.toml]",
            help="simulated (embedded), movielens-100k (or another edition), or the path of a config.",
        ),
    ] = "simulated",
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help="Widths of the dense layers, such as 64,32; once for each model. Default: 32, 64,32 and 128,64,32."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="tuned (default): trains well. tutorial: TFRS's tutorial to the letter, 300 epochs."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="random:SHARE, last-out or time:SHARE. Default: random:0.2.")
    ] = None,
    split_seed: Annotated[int | None, typer.Option(help="Seed of a random split. Default: 42.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each depth, for intervals.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs. Default: the recipe's.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that share the cores. Default: one a model, at most one more than cores."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("study"),
    json: Annotated[bool, typer.Option("--json", help="Print results.json to standard output.")] = False,
) -> None:
    """Train models of growing depth, compare them with the baselines, write a report with their curves.

    DIR gets report.html, curves.png, curves.svg, results.json and the models. An interrupted study goes on
    where it was when the same command is given again.
    """
    console = console_for(json)
    check_study_target(out)
    config = _with_options(config_of(source), recipe, split, split_seed, epochs)
    depths = [parse_layers(text) for text in layers] if layers else [list(depth) for depth in DEPTHS]
    data = config.data.load()
    console.print(describe_table(describe(data)))
    runs = len(depths) * seeds
    result = run_study(
        StudyPlan(config=config, depths=depths, seeds=seeds, workers=_workers(runs) if workers is None else workers),
        data,
        out,
        command=shlex.join(["twotower", *sys.argv[1:]]),
        console=console,
    )
    console.print(results_table(result))
    for sentence in result.verdicts:
        console.print(sentence, highlight=False, markup=False)
    console.print(f"\nThe report: {out / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    if json:
        write_json(result)


def parse_layers(text: str) -> list[int]:
    """Reads `64,32`; `none` for no dense layer.

    Raises:
        ConfigError: It is neither.
    """
    if text == "none":
        return []
    try:
        widths = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--layers {text!r}: expected widths with commas between them, such as 64,32") from error
    if min(widths) < 1:
        raise ConfigError(f"--layers {text!r}: expected widths of at least 1")
    return widths


def _workers(runs: int) -> int:
    """Processes for so many runs: as they take different times, one more than there are cores, so that none is idle."""
    return min(runs, cores() + 1)


def _with_options(
    config: Config, recipe: str | None, split: str | None, split_seed: int | None, epochs: int | None
) -> Config:
    changes: dict[str, object] = {}
    if recipe is not None:
        try:
            changes["recipe"] = msgspec.convert(recipe, RecipeName)
        except msgspec.ValidationError as error:
            raise ConfigError(f"--recipe {recipe!r}; expected tuned or tutorial") from error
    if split is not None or split_seed is not None:
        changes["split"] = SplitConfig(
            config.split.rule if split is None else split, config.split.seed if split_seed is None else split_seed
        )
    if epochs is not None:
        changes["training"] = config.training | {"epochs": epochs}
    return msgspec.structs.replace(config, **changes)
