"""One model trained by a recipe: how many epochs are found on which part, and what is trained in the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from twotower.data.dataset import Dataset
from twotower.data.stream import ParquetLog
from twotower.model.two_tower import TwoTower
from twotower.study.config import Config
from twotower.study.parts import Parts, StreamedParts
from twotower.study.recipes import Recipe
from twotower.study.results import Seconds
from twotower.training.callbacks import Progress
from twotower.training.history import TrainingHistory


@dataclass(frozen=True)
class Trained:
    """What training by a recipe gave.

    Attributes:
        model: The finished model.
        history: Of the training whose curves are shown.
        seconds: Of all training and validating.
        best_epoch: The epoch that validated best.
    """

    model: TwoTower
    history: TrainingHistory
    seconds: Seconds
    best_epoch: int


def train_by_recipe(
    config: Config,
    recipe: Recipe,
    parts: Parts,
    *,
    progress: Progress,
    checkpoint: Path | None = None,
) -> Trained:
    """Trains a model as a recipe says.

    `tutorial` validates on test and keeps the last epoch, as the tutorial does. `tuned` cuts a validation
    part from train by the same rule, finds the best number of epochs there, and trains a fresh model on
    all of train for as many; where the validation part is given, the weights are those of the best epoch.

    Args:
        config: Which model.
        recipe: How to train.
        parts: What to train and validate on.
        progress: Shows it.
        checkpoint: A folder for the state of the training, to go on from after an interruption.
    """
    if recipe.validate_on == "validation" and parts.validation is not None:
        return _trained_once(config, recipe, parts.train, parts.validation, progress, checkpoint)
    first, second = (None, None) if checkpoint is None else (checkpoint / "search", checkpoint / "final")
    train = parts.train
    fitted, validation = (train, parts.test) if recipe.validate_on == "test" else parts.fitted_and_validation()
    model = config.model.build(train, recipe)
    history = recipe.trainer.fit(model, fitted, validation, callbacks=[progress], checkpoint=first)
    seconds = Seconds(history.train_seconds, history.validation_seconds)
    if recipe.validate_on == "test":
        return Trained(model, history, seconds, history.best.epoch)
    best = history.best.epoch
    model, spent = train_for(best, config, recipe, train, progress=progress, checkpoint=second)
    return Trained(model, history, Seconds(seconds.train + spent, seconds.validate), best)


def train_for(
    epochs: int,
    config: Config,
    recipe: Recipe,
    train: Dataset,
    *,
    progress: Progress,
    checkpoint: Path | None = None,
) -> tuple[TwoTower, float]:
    """Trains a fresh model on all of train for the epochs that were best on a validation part.

    Returns:
        The model, and the seconds of training.
    """
    progress.label = f"{progress.label} on all of train"
    model = config.model.build(train, recipe)
    trainer = msgspec.structs.replace(recipe.trainer, early_stopping=None)
    history = trainer.fit(model, train, callbacks=[progress], checkpoint=checkpoint, stop_after=epochs)
    return model, history.train_seconds


def train_streamed(
    config: Config,
    recipe: Recipe,
    parts: StreamedParts,
    *,
    progress: Progress,
    checkpoint: Path | None = None,
) -> Trained:
    """Trains a model on a streamed log, once; the weights are those of the epoch that validated best.

    Args:
        config: Which model.
        recipe: How to train; without a validation part, all of its epochs.
        parts: What to train and validate on.
        progress: Shows it.
        checkpoint: A folder for the state of the training, to go on from after an interruption.
    """
    measured = parts.test if recipe.validate_on == "test" else parts.validation
    return _trained_once(config, recipe, parts.train, measured, progress, checkpoint)


def _trained_once(
    config: Config,
    recipe: Recipe,
    train: Dataset | ParquetLog,
    validation: Dataset | None,
    progress: Progress,
    checkpoint: Path | None,
) -> Trained:
    """A model trained once, with the weights of the epoch that validated best."""
    trainer = recipe.trainer
    if validation is None:
        trainer = msgspec.structs.replace(trainer, early_stopping=None)
    model = config.model.build(train, recipe)
    history = trainer.fit(model, train, validation, callbacks=[progress], checkpoint=checkpoint)
    best = history.restored or len(history.epochs)
    return Trained(model, history, Seconds(history.train_seconds, history.validation_seconds), best)
