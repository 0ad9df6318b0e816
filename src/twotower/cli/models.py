"""`twotower train` and `evaluate`: train and measure one model on your own data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from twotower.cli.baselines import (
    BaselineMemoryOption,
    BaselineSecondsOption,
    BaselinesOption,
    budget_of,
    with_baselines,
)
from twotower.cli.options import ImportOption, SplitOption, SplitSeedOption, configured
from twotower.cli.output import console_for, launched_together, show_log, write_json
from twotower.errors import ConfigError, DataUnavailableError, SavedFolderError
from twotower.evaluation import evaluate as measure_beside_baselines
from twotower.evaluation.evaluate import help_evaluate, retrieves
from twotower.experiments.start import Before
from twotower.experiments.train import check_train_target, help_train
from twotower.experiments.train import train as train_bundle
from twotower.progress import Display
from twotower.ranks import launched
from twotower.recipes.config import Config, config_of
from twotower.recognition import quoted
from twotower.retrieval import Notes, Retriever
from twotower.version import VERSION

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value to standard output.")]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A bundle written by `twotower train`.")]

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def train(
    source: Annotated[str, typer.Argument(metavar="CONFIG.toml|DATA", help="A config, or a data set's name.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    from_bundle: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="BUNDLE",
            help="Continue from a bundle, with only new events or with all; new ids are added. It may be OUT.",
        ),
    ] = None,
    retire_after: Annotated[
        float | None, typer.Option(metavar="DAYS", help="With --from: drop ids without an event for this many days.")
    ] = None,
    split: SplitOption = None,
    split_seed: SplitSeedOption = None,
    baselines: BaselinesOption = None,
    baseline_seconds: BaselineSecondsOption = None,
    baseline_memory: BaselineMemoryOption = None,
    imports: ImportOption = None,
    json: JsonOption = False,
) -> None:
    """Train one model from a config, measure it and the baselines on test, and save it ready to recommend.

    Unless the config says otherwise, the model reads only what precedes an event, as it must when it recommends.
    Rerun the command to resume an interrupted training.

    Training `--from` a bundle needs a test part later than everything the bundle learned from. The report compares both
    on known and on new ids.

    Start it with `torchrun --nproc-per-node N -m twotower train CONFIG.toml --out DIR` to train with N processes.
    """
    if retire_after is not None and from_bundle is None:
        raise ConfigError("--retire-after without --from BUNDLE; expected both", field="retire_after")
    before = None if from_bundle is None else Before(from_bundle, retire_after=retire_after)
    console = console_for(json)
    with launched() as ranks:
        if ranks.size > 1:
            show_log()
        if ranks.is_first:
            check_train_target(out)
        config = with_baselines(configured(source, imports, split, split_seed), baselines)
        if not ranks.is_first:
            help_train(config, out, before)
            return
        trained = train_bundle(
            config,
            out,
            console=console,
            budget=budget_of(baseline_seconds, baseline_memory),
            before=before,
        )
    _say(console, [str(trained.evaluation), f"Saved to {out}. Try it: twotower recommend {quoted(out)} --query ID"])
    if json:
        write_json(trained.evaluation)


@app.command()
def evaluate(
    folder: FolderArgument,
    source: Annotated[
        str | None,
        typer.Argument(metavar="[CONFIG.toml|DATA]", help="Other data. Default: those it was trained on."),
    ] = None,
    baselines: BaselinesOption = None,
    baseline_seconds: BaselineSecondsOption = None,
    baseline_memory: BaselineMemoryOption = None,
    imports: ImportOption = None,
    json: JsonOption = False,
) -> None:
    """Measure a trained model and the baselines on its test part, whole and in slices.

    Start it with `torchrun --nproc-per-node N -m twotower evaluate DIR` to share the test events among N processes.
    """
    del imports  # imported before the bundle is read
    with launched_together() as ranks:
        console = console_for(json)
        retriever = Retriever.load(folder)
        notes = retriever.details.notes
        config = with_baselines(_config_in(notes, folder) if source is None else config_of(source), baselines)
        parts = config.parts()
        tasks = config.resolved_recipe(parts.train, parts.validation).trainer.tasks
        ranks.require_same(
            {"bundle": retriever.version, "data": parts.fingerprint, "twotower": VERSION},
            "expected the same bundle, data and version on all ranks",
        )
        if not ranks.is_first:
            if retrieves(tasks):
                help_evaluate(retriever.model, parts.test, parts.train)
            return
        _say(console, parts.remarks)
        if parts.fingerprint != notes.fingerprint:
            console.print(
                f"[yellow]This split is {parts.fingerprint}, but the model was trained on {notes.fingerprint}: "
                f"test events may have been in its training.[/]"
            )
        with Display(console) as display:
            evaluation = measure_beside_baselines(
                retriever.model,
                parts.test,
                parts.train,
                baselines=config.baselines,
                budget=budget_of(baseline_seconds, baseline_memory),
                progress=display,
                tasks=tasks,
                rerank=retriever.details.rerank,
            )
        _say(console, [str(evaluation)])
        if json:
            write_json(evaluation)


def _config_in(notes: Notes, folder: Path) -> Config:
    """The config that a bundle was trained with; does not import the modules it names.

    Raises:
        ConfigError: The bundle has no config.
        DataUnavailableError: A file of its data no longer exists.
        SavedFolderError: Its config is invalid.
    """
    if notes.config is None:
        raise ConfigError(
            f"{folder} does not say what it was trained on; give a config or a data set: "
            f"twotower evaluate {quoted(folder)} CONFIG.toml"
        )
    try:
        config = msgspec.convert(notes.config, Config)
    except (msgspec.ValidationError, ConfigError) as error:
        raise SavedFolderError(f"the config in {folder} is invalid: {error}") from error
    for key, path in config.data.paths.items():
        if not _exists(path):
            raise DataUnavailableError(
                f"{folder} was trained on [data] {key} = {path}, which no longer exists; "
                f"give a config with the new path: twotower evaluate {quoted(folder)} CONFIG.toml"
            )
    return config


def _exists(path: str) -> bool:
    """Whether a file or folder exists, or one that matches a pattern such as `log/*.parquet`."""
    there = Path(path)
    return there.exists() or any(there.parent.glob(there.name))


def _say(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
