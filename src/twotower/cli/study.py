"""`twotower study`: compares variants of a config and writes a report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from twotower.cli.baselines import (
    BaselineMemoryOption,
    BaselineSecondsOption,
    BaselinesOption,
    budget_of,
    with_baselines,
)
from twotower.cli.options import ImportOption, SplitOption, configured
from twotower.cli.output import console_for, write_json
from twotower.cli.values import ValuesCommand
from twotower.data.describe import describe, describe_table
from twotower.errors import ConfigError
from twotower.experiments.folder import STUDY
from twotower.experiments.plans import LAYERS, TRAIN_SHARE, StudyPlan, changed, grid
from twotower.experiments.report.terminal import results_table
from twotower.experiments.results import Variant
from twotower.experiments.study import REPORT, run_study
from twotower.files import check_folder_target
from twotower.processes import allowed_threads
from twotower.recipes.config import Config

DEPTHS = ((32,), (64, 32), (128, 64, 32))

LAYERS_HELP = (
    "Widths of the dense layers, such as 64,32 256,64. Default: 32 64,32 128,64,32, unless you vary something else."
)
SOURCE_HELP = "simulated (embedded), movielens-100k (or another edition), or the path of a config."

SourceArgument = Annotated[str, typer.Argument(metavar="[DATA|CONFIG.toml]", help=SOURCE_HELP)]
LayersOption = Annotated[list[str] | None, typer.Option(help=LAYERS_HELP, show_default=False)]
VaryOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=V1,V2", help="Values of any config key, such as model.dim=16,32. Repeatable."),
]
TrainShareOption = Annotated[
    list[float] | None, typer.Option(help="Shares of the training events to train on, such as 0.1 0.3 1.0.")
]
RecipeOption = Annotated[
    str | None,
    typer.Option(help="tuned (default): trains well. tutorial: exactly TFRS's tutorial, 300 epochs."),
]
SplitSeedsOption = Annotated[
    list[int] | None, typer.Option(help="Seeds of a random split, such as 42 43 44. Default: the config's, or 42.")
]
OnOption = Annotated[
    str | None,
    typer.Option(help="test (default), or validation: a part of train, to choose models without using test."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that share the cores. Default: one per run, at most one more than cores."),
]

app = typer.Typer(rich_markup_mode="markdown")


@app.command(cls=ValuesCommand)
def study(
    source: SourceArgument = "simulated",
    layers: LayersOption = None,
    vary: VaryOption = None,
    train_share: TrainShareOption = None,
    recipe: RecipeOption = None,
    split: SplitOption = None,
    split_seeds: SplitSeedsOption = None,
    on: OnOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds per variant.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs. Default: the recipe's.")] = None,
    workers: WorkersOption = None,
    baselines: BaselinesOption = None,
    baseline_seconds: BaselineSecondsOption = None,
    baseline_memory: BaselineMemoryOption = None,
    imports: ImportOption = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("study"),
    json: Annotated[bool, typer.Option("--json", help="Print results.json to standard output.")] = False,
) -> None:
    """Compare variants of a config: depths by default, or whatever --vary, --train-share or [variants] name.

    Writes report.html, curves.png, curves.svg, results.json and, in runs/, every model. Rerun the command to resume.
    """
    console = console_for(json)
    check_folder_target(out, STUDY)
    config = with_baselines(configured(source, imports, split, None), baselines)
    config = changed(config, _changes(recipe, epochs, on))
    variants = _variants(config, layers, vary, train_share)
    split_seeds = split_seeds or [config.split.seed]
    runs = len(variants) * len(split_seeds) * seeds + (config.baselines != "none")  # baselines run in parallel
    plan = StudyPlan(
        config=config,
        variants=variants,
        split_seeds=split_seeds,
        seeds=list(range(seeds)),
        workers=min(runs, allowed_threads() + 1) if workers is None else workers,
    )
    if not config.data.stream:
        console.print(describe_table(describe(config.data.load())))
    command = shlex.join(["twotower", *sys.argv[1:]])
    budget = budget_of(baseline_seconds, baseline_memory)
    result = run_study(plan, out, command=command, console=console, budget=budget)
    console.print(results_table(result))
    for line in (*result.verdicts, f"\nThe report: {out / REPORT}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if json:
        write_json(result)


def parse_layers(text: str) -> list[int]:
    """Parses `64,32`, or `none` for no dense layer.

    Raises:
        ConfigError: The text is neither.
    """
    if text == "none":
        return []
    try:
        widths = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--layers {text!r}: expected comma-separated widths, such as 64,32") from error
    if min(widths) < 1:
        raise ConfigError(f"--layers {text!r}: expected widths of at least 1")
    return widths


def parse_vary(text: str) -> tuple[str, list[Any]]:
    """Parses `model.dim=16,32`; values that are not valid JSON are text.

    Raises:
        ConfigError: The text does not have that form.

    Example:
        >>> parse_vary("model.norm=none,layer")
        ('model.norm', ['none', 'layer'])
        >>> parse_vary("model.layers=[[32], [64, 32]]")
        ('model.layers', [[32], [64, 32]])
    """
    key, _, values = text.partition("=")
    if not key or "." not in key or not values:
        raise ConfigError(f"--vary {text!r}: expected KEY=V1,V2, such as model.dim=16,32")
    if values.startswith("["):
        try:
            return key, msgspec.json.decode(values, type=list[Any])
        except msgspec.DecodeError as error:
            raise ConfigError(f"--vary {text!r}: {error}; expected a JSON list of values") from error
    return key, [_value(value) for value in values.split(",")]


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _variants(
    config: Config, layers: Sequence[str] | None, vary: Sequence[str] | None, shares: Sequence[float] | None
) -> list[Variant]:
    """A variant for every combination of varied values; several depths if nothing is varied."""
    varied: dict[str, list[Any]] = dict(parse_vary(text) for text in vary or ())
    if layers:
        varied = {LAYERS: [parse_layers(text) for text in layers]} | varied
    elif not (varied or shares or config.variants):
        varied = {LAYERS: [list(depth) for depth in DEPTHS]}
    if shares:
        varied[TRAIN_SHARE] = list(shares)
    return grid(varied, config.variants)


def _changes(recipe: str | None, epochs: int | None, on: str | None) -> dict[str, Any]:
    if recipe not in (None, "tuned", "tutorial"):
        raise ConfigError(f"--recipe {recipe!r}; expected tuned or tutorial")
    if on not in (None, "test", "validation"):
        raise ConfigError(f"--on {on!r}; expected test or validation")
    changes = {"recipe": recipe, "training.epochs": epochs, "split.on": on}
    return {key: value for key, value in changes.items() if value is not None}
