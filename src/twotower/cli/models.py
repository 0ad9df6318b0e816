"""`twotower train` and `evaluate`: one model on one's own data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from twotower.cli.output import console_for, write_json
from twotower.data import ParquetLog
from twotower.evaluation import evaluate as measure_beside_baselines
from twotower.retrieval import Retriever
from twotower.retrieval.building import check_title
from twotower.study.config import Config, config_of
from twotower.study.trained import train_by_recipe, train_streamed
from twotower.training.callbacks import ProgressBar

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value to standard output.")]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="What `twotower train` wrote.")]


def train(
    source: Annotated[str, typer.Argument(metavar="CONFIG.toml|DATA", help="A config, or a data set's name.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    json: JsonOption = False,
) -> None:
    """Train one model as a config says, measure it on test beside the baselines, save it ready to recommend.

    Where the config does not say otherwise the model reads only what lies before an event, as there is nothing
    after it when it recommends. An interrupted training goes on where it was when the same command is given again.
    """
    console = console_for(json)
    config = _for_serving(config_of(source))
    parts = config.parts()
    train, test = parts.train, parts.test
    if config.data.title is not None:
        check_title(train.candidates, config.data.title)
    recipe = config.resolved_recipe(train, parts.validation)
    console.print(
        f"{train.name}: {len(train):,} train, {len(test):,} test; split {parts.rule}, {parts.fingerprint}", markup=False
    )
    checkpoint = out.with_name(f"{out.name}.partial")
    with ProgressBar(console, str(config.model.layers)) as progress:
        if isinstance(train, ParquetLog):
            trained = train_streamed(
                config, recipe, train, test, parts.validation, progress=progress, checkpoint=checkpoint
            )
        else:
            rule = config.split.parsed()
            trained = train_by_recipe(config, recipe, train, test, rule, progress=progress, checkpoint=checkpoint)
    evaluation = measure_beside_baselines(trained.model, test, train)
    notes = {
        "config": msgspec.to_builtins(config),
        "split": parts.rule,
        "fingerprint": parts.fingerprint,
        "best_epoch": trained.best_epoch,
        "history": msgspec.to_builtins(trained.history),
        "evaluation": msgspec.to_builtins(evaluation),
    }
    seen = train.read() if isinstance(train, ParquetLog) else train
    Retriever.build(trained.model, train.candidates, seen=seen, title=config.data.title, notes=notes).save(out)
    shutil.rmtree(checkpoint, ignore_errors=True)
    console.print(str(evaluation), highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"Saved to {out}; ask it: twotower recommend {out} --query …", highlight=False, markup=False, soft_wrap=True
    )
    if json:
        write_json(evaluation)


def evaluate(
    folder: FolderArgument,
    source: Annotated[
        str | None, typer.Argument(metavar="[CONFIG.toml|DATA]", help="Other data; default: what it was trained on.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure a trained model on the test part of its data and on slices of it, beside the baselines."""
    console = console_for(json)
    retriever = Retriever.load(folder)
    notes = retriever.details.notes
    config = config_of(source) if source is not None else msgspec.convert(notes["config"], Config)
    parts = config.parts()
    if parts.fingerprint != notes["fingerprint"]:
        console.print(
            f"[yellow]This split is {parts.fingerprint}; the model was trained on {notes['fingerprint']}: "
            f"test events may have been in its training.[/]"
        )
    evaluation = measure_beside_baselines(retriever.model, parts.test, parts.train)
    console.print(str(evaluation), highlight=False, markup=False, soft_wrap=True)
    if json:
        write_json(evaluation)


def _for_serving(config: Config) -> Config:
    model = msgspec.structs.replace(config.model, reach=config.model.reach or "before")
    return msgspec.structs.replace(config, model=model)
