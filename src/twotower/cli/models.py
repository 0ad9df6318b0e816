"""`twotower train` and `evaluate`: one model on one's own data."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from twotower.cli.options import ImportOption, SplitOption, SplitSeedOption, configured
from twotower.cli.output import console_for, write_json
from twotower.data import ParquetLog
from twotower.errors import ConfigError, DataUnavailableError, SavedFolderError
from twotower.evaluation import evaluate as measure_beside_baselines
from twotower.retrieval import Retriever
from twotower.study.config import Config, config_of
from twotower.study.parts import Parts, StreamedParts
from twotower.study.recipes import Recipe
from twotower.study.trained import Trained, train_by_recipe, train_streamed
from twotower.training.callbacks import ProgressBar

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value to standard output.")]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="What `twotower train` wrote.")]


def train(
    source: Annotated[str, typer.Argument(metavar="CONFIG.toml|DATA", help="A config, or a data set's name.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    split: SplitOption = None,
    split_seed: SplitSeedOption = None,
    imports: ImportOption = None,
    json: JsonOption = False,
) -> None:
    """Train one model as a config says, measure it on test beside the baselines, save it ready to recommend.

    Where the config does not say otherwise the model reads only what lies before an event, as there is nothing
    after it when it recommends. An interrupted training goes on where it was when the same command is given again.
    """
    console = console_for(json)
    config = _for_serving(configured(source, imports, split, split_seed))
    parts = _parts_of(config)
    if isinstance(parts, Parts):
        config = msgspec.structs.replace(config, split=parts.split)
    train, test = parts.train, parts.test
    recipe = config.resolved_recipe(train, parts.validation)
    columns = config.model.columns(train, recipe)
    cut = f"{train.name}: {len(train):,} train, {len(test):,} test; split {parts.rule}, {parts.fingerprint}"
    _say(console, [cut, *parts.remarks, *columns.lines()])
    checkpoint = out.with_name(f"{out.name}.partial")
    trained = _trained(config, recipe, parts, checkpoint, console)
    evaluation = measure_beside_baselines(trained.model, test, train)
    notes = {
        "config": msgspec.to_builtins(config),
        "split": parts.rule,
        "remarks": list(parts.remarks),
        "columns": msgspec.to_builtins(columns),
        "fingerprint": parts.fingerprint,
        "best_epoch": trained.best_epoch,
        "history": msgspec.to_builtins(trained.history),
        "evaluation": msgspec.to_builtins(evaluation),
    }
    seen = train.read() if isinstance(train, ParquetLog) else train
    Retriever.build(trained.model, train.candidates, seen=seen, notes=notes).save(out)
    shutil.rmtree(checkpoint, ignore_errors=True)
    _say(console, [str(evaluation), f"Saved to {out}; ask it: twotower recommend {out} --query …"])
    if json:
        write_json(evaluation)


def evaluate(
    folder: FolderArgument,
    source: Annotated[
        str | None, typer.Argument(metavar="[CONFIG.toml|DATA]", help="Other data; default: what it was trained on.")
    ] = None,
    imports: ImportOption = None,
    json: JsonOption = False,
) -> None:
    """Measure a trained model on the test part of its data and on slices of it, beside the baselines."""
    del imports  # done, before a bundle is read
    console = console_for(json)
    retriever = Retriever.load(folder)
    notes = retriever.details.notes
    parts = _parts_of(_config_in(notes, folder) if source is None else config_of(source))
    _say(console, parts.remarks)
    if parts.fingerprint != notes.get("fingerprint"):
        console.print(
            f"[yellow]This split is {parts.fingerprint}; the model was trained on {notes.get('fingerprint')}: "
            f"test events may have been in its training.[/]"
        )
    evaluation = measure_beside_baselines(retriever.model, parts.test, parts.train)
    _say(console, [str(evaluation)])
    if json:
        write_json(evaluation)


def _parts_of(config: Config) -> Parts | StreamedParts:
    return config.streamed_parts() if config.data.stream else config.parts()


def _trained(
    config: Config, recipe: Recipe, parts: Parts | StreamedParts, checkpoint: Path, console: Console
) -> Trained:
    with ProgressBar(console, str(list(config.model.layers))) as progress:
        if isinstance(parts, StreamedParts):
            return train_streamed(config, recipe, parts, progress=progress, checkpoint=checkpoint)
        return train_by_recipe(config, recipe, parts, progress=progress, checkpoint=checkpoint)


def _config_in(notes: Mapping[str, Any], folder: Path) -> Config:
    """The config that a bundle was trained with; the modules that it names are not imported.

    Raises:
        ConfigError: The bundle does not say.
        DataUnavailableError: A file of its data is no longer there.
        SavedFolderError: What it says is no config.
    """
    if "config" not in notes:
        raise ConfigError(
            f"{folder} does not say what it was trained on; give a config or a data set: "
            f"twotower evaluate {folder} CONFIG.toml"
        )
    try:
        config = msgspec.convert(notes["config"], Config)
    except (msgspec.ValidationError, ConfigError) as error:
        raise SavedFolderError(f"{folder} holds no config that can be read: {error}") from error
    for key, path in config.data.paths.items():
        if not _exists(path):
            raise DataUnavailableError(
                f"{folder} was trained on [data] {key} = {path}, which is not there; "
                f"give a config that says where the data are now: twotower evaluate {folder} CONFIG.toml"
            )
    return config


def _exists(path: str) -> bool:
    """Whether there is a file or folder, or for a pattern such as `log/*.parquet` one that it matches."""
    there = Path(path)
    return there.exists() or any(there.parent.glob(there.name))


def _say(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _for_serving(config: Config) -> Config:
    model = msgspec.structs.replace(config.model, reach=config.model.reach or "before")
    return msgspec.structs.replace(config, model=model)
