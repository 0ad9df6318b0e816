"""The end of a tuning: a config trained on all of train, measured on test, and kept until all is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from twotower.evaluation import ModelScorer, measure
from twotower.files import write_file
from twotower.study.config import Config
from twotower.study.parts import Parts
from twotower.study.results import Seconds
from twotower.study.trained import train_by_recipe, train_for
from twotower.training.callbacks import Progress
from twotower.tuning.results import Final, TrialRecord


def train_and_measure(
    config: Config,
    record: TrialRecord | None,
    parts: Parts,
    folder: Path,
    progress: Progress,
) -> Final:
    """Trains as `twotower train` does, whose search for the number of epochs the trial has done already.

    What an earlier command has trained is read instead.

    Args:
        config: What to train.
        record: Its trial; None where there is none.
        parts: Train and test.
        folder: For what is trained.
        progress: Shows it.

    Raises:
        TwoTowerError: The training diverged.
    """
    name = "built-in" if record is None else f"trial-{record.number}"
    kept = folder / f"{name}.json"
    if kept.exists():
        return msgspec.json.decode(kept.read_bytes(), type=Final)
    recipe = config.resolved_recipe(parts.train, parts.validation)
    if record is not None and record.best_epoch is not None and recipe.validate_on == "validation":
        epochs = record.best_epoch
        model, spent = train_for(epochs, config, recipe, parts.train, progress=progress, checkpoint=folder / name)
        seconds = Seconds(spent, 0.0)
    else:
        trained = train_by_recipe(config, recipe, parts, progress=progress, checkpoint=folder / name)
        epochs, model, seconds = trained.best_epoch, trained.model, trained.seconds
    final = Final(
        trial=None if record is None else record.number,
        score=None if record is None else record.score,
        parameters=model.parameter_count,
        best_epoch=epochs,
        seconds=seconds,
        test=measure(ModelScorer(model), parts.test, parts.train),
    )
    write_file(kept, msgspec.json.encode(final))
    shutil.rmtree(folder / name, ignore_errors=True)
    return final
