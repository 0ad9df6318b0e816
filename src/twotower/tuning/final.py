"""The end of a tuning: a config trained on all of train, measured on test, and kept until all is written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from twotower.data.splits import Split, SplitRule
from twotower.evaluation import ModelScorer, Outcomes, measure
from twotower.files import write_file
from twotower.model.two_tower import TwoTower
from twotower.study.config import Config
from twotower.study.results import Seconds
from twotower.study.trained import train_by_recipe, train_for
from twotower.training.callbacks import Progress
from twotower.tuning.results import Final, TrialRecord


@dataclass(frozen=True, eq=False)
class Measured:
    """A finished config, and the ranks that it gives the events of test."""

    final: Final
    outcomes: Outcomes


def train_and_measure(
    config: Config,
    record: TrialRecord | None,
    split: Split,
    rule: SplitRule,
    folder: Path,
    progress: Progress,
) -> Measured:
    """Trains as `twotower train` does, whose search for the number of epochs the trial has done already.

    What an earlier command has trained is read instead.

    Args:
        config: What to train.
        record: Its trial; None where there is none.
        split: Train and test.
        rule: How validation parts are cut.
        folder: For what is trained.
        progress: Shows it.

    Raises:
        SavedFolderError: What an earlier command kept is damaged.
        TwoTowerError: The training diverged.
    """
    name = "built-in" if record is None else f"trial-{record.number}"
    kept, ranks = folder / f"{name}.json", folder / f"{name}.arrow"
    if kept.exists() and ranks.exists():
        return Measured(msgspec.json.decode(kept.read_bytes(), type=Final), Outcomes.read(ranks))
    epochs, model, seconds = _trained(config, record, split, rule, folder / name, progress)
    measured = measure(ModelScorer(model), split.test, split.train)
    final = Final(
        trial=None if record is None else record.number,
        score=None if record is None else record.score,
        parameters=model.parameter_count,
        best_epoch=epochs,
        seconds=seconds,
        test=measured.scores,
    )
    measured.outcomes.write(ranks)
    write_file(kept, msgspec.json.encode(final))
    shutil.rmtree(folder / name, ignore_errors=True)
    return Measured(final, measured.outcomes)


def _trained(
    config: Config, record: TrialRecord | None, split: Split, rule: SplitRule, checkpoint: Path, progress: Progress
) -> tuple[int, TwoTower, Seconds]:
    """The epochs, the model and the time it took."""
    recipe = config.resolved_recipe(split.train)
    if record is not None and record.best_epoch is not None and recipe.validate_on == "validation":
        epochs = record.best_epoch
        model, spent = train_for(epochs, config, recipe, split.train, progress=progress, checkpoint=checkpoint)
        return epochs, model, Seconds(spent, 0.0)
    trained = train_by_recipe(config, recipe, split.train, split.test, rule, progress=progress, checkpoint=checkpoint)
    return trained.best_epoch, trained.model, trained.seconds
