"""Running: one model of one depth and seed by a recipe, and a whole study of several."""

from __future__ import annotations

import hashlib
import platform
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import torch
from rich.console import Console

from twotower.data.dataset import Dataset
from twotower.data.splits import Split, SplitRule
from twotower.data.stream import ParquetLog
from twotower.errors import SavedFolderError
from twotower.evaluation import ModelScorer, measure, measure_baselines
from twotower.files import write_file
from twotower.model.saving import save_model
from twotower.model.two_tower import TwoTower
from twotower.study.config import Config
from twotower.study.curves import write_curves
from twotower.study.recipes import Recipe
from twotower.study.report import write_report
from twotower.study.results import CurvePoint, DataSummary, Run, Seconds, Study, write_results
from twotower.study.summary import verdicts
from twotower.training.callbacks import ProgressBar
from twotower.training.history import TrainingHistory
from twotower.version import VERSION

METRIC = "top_100"


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
    train: Dataset,
    test: Dataset,
    rule: SplitRule,
    *,
    progress: ProgressBar,
    checkpoint: Path | None = None,
) -> Trained:
    """Trains a model as a recipe says.

    `tutorial` validates on test and keeps the last epoch, as the tutorial does. `tuned` cuts a validation
    part from train by the same rule, finds the best number of epochs there, and trains a fresh model on
    all of train for as many.

    Args:
        config: Which model.
        recipe: How to train.
        train: The training split.
        test: The test split, for the recipe that validates on it.
        rule: How the validation part is cut.
        progress: Shows it.
        checkpoint: A folder for the state of the training, to go on from after an interruption.
    """
    first, second = (None, None) if checkpoint is None else (checkpoint / "search", checkpoint / "final")
    fitted, validation = (train, test) if recipe.validate_on == "test" else rule(train)
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
    progress: ProgressBar,
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
    train: ParquetLog,
    test: Dataset,
    validation: Dataset | None,
    *,
    progress: ProgressBar,
    checkpoint: Path | None = None,
) -> Trained:
    """Trains a model on a streamed log, once; the weights are those of the epoch that validated best.

    Args:
        config: Which model.
        recipe: How to train; without a validation part, all of its epochs.
        train: The log.
        test: The test part, for the recipe that validates on it.
        validation: The part that the other recipe validates on, where it was given.
        progress: Shows it.
        checkpoint: A folder for the state of the training, to go on from after an interruption.
    """
    measured = test if recipe.validate_on == "test" else validation
    trainer = recipe.trainer
    if measured is None:
        trainer = msgspec.structs.replace(trainer, early_stopping=None)
    model = config.model.build(train, recipe)
    history = trainer.fit(model, train, measured, callbacks=[progress], checkpoint=checkpoint)
    best = history.restored or len(history.epochs)
    return Trained(model, history, Seconds(history.train_seconds, history.validation_seconds), best)


class StudyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a study compares.

    Attributes:
        config: Data, split, recipe and model; its layers and seed are replaced by each run's.
        depths: Widths of the dense layers of each model.
        seeds: Seeds of each depth.
    """

    config: Config
    depths: list[list[int]]
    seeds: int = 1


def run_study(plan: StudyPlan, data: Dataset, out: Path, *, command: str, console: Console) -> Study:
    """Runs a study and writes its folder: report, curves, results and models.

    What is finished is kept in `OUT.partial` beside the folder: after an interruption the same command goes
    on from there. The folder itself appears, or is replaced, when all is done.

    Args:
        plan: What to compare.
        data: The data.
        out: The folder.
        command: The command that repeats it, for the report.
        console: Where progress is shown.

    Raises:
        SavedFolderError: `OUT.partial` is of another study.
        TwoTowerError: A training diverged.
    """
    started = time.perf_counter()
    config = plan.config
    rule = config.split.parsed()
    split = rule(data)
    recipe = config.resolved_recipe(split.train)
    partial = _partial_folder(plan, split, out)
    with console.status("measuring the baselines") if console.is_terminal else nullcontext():
        baselines, notes = measure_baselines(split.test, split.train)
        curve_baselines, validation_size = baselines, 0
        if recipe.validate_on == "validation":
            inner = rule(split.train)
            validation_size = len(inner.test)
            curve_baselines, _ = measure_baselines(inner.test, inner.train)
    runs = []
    with ProgressBar(console) as progress:
        for layers in plan.depths:
            for seed in range(plan.seeds):
                progress.label = f"{layers}" if plan.seeds == 1 else f"{layers}, seed {seed}"
                run = _finished_run(config, recipe, split, rule, layers, seed, partial, progress)
                runs.append(run)
                console.print(
                    f"{run.label} seed {seed}: {METRIC} {run.final.all[METRIC]:.4f} all, "
                    f"{run.final.unseen[METRIC]:.4f} unseen, {run.seconds.train:.1f} s of training",
                    highlight=False,
                )
    study = Study(
        data=summary_of(data, split, validation_size),
        baselines=baselines,
        runs=runs,
        curves_on=recipe.validate_on,
        curve_baselines=curve_baselines,
        metric=METRIC,
        verdicts=[*verdicts(baselines, runs, METRIC), *_looks_ahead(config, recipe), *notes],
        command=command,
        versions={
            "twotower": VERSION,
            "Python": platform.python_version(),
            "PyTorch": str(torch.__version__),
            "threads": str(torch.get_num_threads()),
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - started,
    )
    write_results(study, partial / "results.json")
    write_curves(study, partial)
    write_report(study, partial / "report.html")
    _publish(partial, out)
    return study


def _finished_run(
    config: Config,
    recipe: Recipe,
    split: Split,
    rule: SplitRule,
    layers: Sequence[int],
    seed: int,
    partial: Path,
    progress: ProgressBar,
) -> Run:
    """One run: from the partial folder where it is there already, else trained and put there."""
    name = f"{'-'.join(map(str, layers)) or 'none'}-seed{seed}"
    record = partial / "runs" / f"{name}.json"
    if record.exists():
        return msgspec.json.decode(record.read_bytes(), type=Run)
    own = msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, layers=tuple(layers)))
    seeded = msgspec.structs.replace(recipe, trainer=msgspec.structs.replace(recipe.trainer, seed=seed))
    checkpoint = partial / "checkpoints" / name
    trained = train_by_recipe(own, seeded, split.train, split.test, rule, progress=progress, checkpoint=checkpoint)
    run = Run(
        layers=list(layers),
        seed=seed,
        recipe=recipe.name,
        epochs=len(trained.history.epochs),
        parameters=trained.model.parameter_count,
        seconds=trained.seconds,
        history=[
            CurvePoint(epoch.epoch, epoch.loss, scores.all, scores.unseen)
            for epoch, scores in trained.history.validated
        ],
        losses=[epoch.loss for epoch in trained.history.epochs],
        final=measure(ModelScorer(trained.model), split.test, split.train),
        best_epoch=trained.best_epoch,
    )
    save_model(trained.model, partial / "models" / name)
    write_file(record, msgspec.json.encode(run))
    shutil.rmtree(checkpoint, ignore_errors=True)
    return run


def _partial_folder(plan: StudyPlan, split: Split, out: Path) -> Path:
    """The folder of what is finished so far, new or that of an interrupted run of the same study."""
    identity = hashlib.sha256(msgspec.json.encode(plan) + split.fingerprint.encode() + VERSION.encode()).hexdigest()
    partial = out.with_name(f"{out.name}.partial")
    mark = partial / "identity"
    if not partial.exists():
        write_file(mark, identity)
    elif not mark.is_file() or mark.read_text() != identity:
        raise SavedFolderError(
            f"{partial} is left from an interrupted study with other settings; finish that one with its own "
            f"command, delete the folder, or choose another --out"
        )
    return partial


def _publish(partial: Path, out: Path) -> None:
    """Makes the finished folder take the place of the last one."""
    for name in ("runs", "checkpoints"):
        shutil.rmtree(partial / name, ignore_errors=True)
    (partial / "identity").unlink()
    retired = out.with_name(f".{out.name}.retired")
    shutil.rmtree(retired, ignore_errors=True)
    if out.exists():
        out.rename(retired)
    partial.rename(out)
    shutil.rmtree(retired, ignore_errors=True)


def _looks_ahead(config: Config, recipe: Recipe) -> list[str]:
    """Says so where models read what a service would not have."""
    model = config.model
    if model.query or (model.inputs or recipe.inputs) == "tutorial" or (model.reach or recipe.reach) == "before":
        return []
    return [
        "The models read what lies around an event, later choices of the query included, as EASE, item-kNN and iALS "
        'do; reach = "before" in [model] measures what a service would have.'
    ]


def summary_of(data: Dataset, split: Split, validation: int) -> DataSummary:
    """What reports say of the data and how it was cut."""
    return DataSummary(
        name=data.name,
        interactions=len(data),
        queries=data.queries.num_rows,
        candidates=data.candidates.num_rows,
        train=len(split.train),
        validation=validation,
        test=len(split.test),
        split=split.rule,
        fingerprint=split.fingerprint,
        dropped=data.dropped,
        terms=data.terms,
    )
