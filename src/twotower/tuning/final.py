"""The end of a tuning: a config trained on all of train, measured on test, and kept until all is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from twotower.data.splits import Split, SplitRule
from twotower.evaluation import ModelScorer, measure
from twotower.files import write_file
from twotower.study.config import Config
from twotower.study.runner import train_by_recipe
from twotower.training.callbacks import ProgressBar
from twotower.tuning.results import Final, TrialRecord


def train_and_measure(
    config: Config,
    record: TrialRecord | None,
    split: Split,
    rule: SplitRule,
    folder: Path,
    progress: ProgressBar,
) -> Final:
    """Trains as `twotower train` does; what an earlier command has trained already is read instead.

    Args:
        config: What to train.
        record: Its trial; None where there is none.
        split: Train and test.
        rule: How validation parts are cut.
        folder: For what is trained.
        progress: Shows it.

    Raises:
        TwoTowerError: The training diverged.
    """
    name = "built-in" if record is None else f"trial-{record.number}"
    kept = folder / f"{name}.json"
    if kept.exists():
        return msgspec.json.decode(kept.read_bytes(), type=Final)
    recipe = config.resolved_recipe(split.train)
    trained = train_by_recipe(
        config, recipe, split.train, split.test, rule, progress=progress, checkpoint=folder / name
    )
    final = Final(
        trial=None if record is None else record.number,
        score=None if record is None else record.score,
        parameters=trained.model.parameter_count,
        best_epoch=trained.best_epoch,
        seconds=trained.seconds,
        test=measure(ModelScorer(trained.model), split.test, split.train),
    )
    write_file(kept, msgspec.json.encode(final))
    shutil.rmtree(folder / name, ignore_errors=True)
    return final
