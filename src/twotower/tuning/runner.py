"""`tune`: the search for a better config on a validation part, and its one measurement on test."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import optuna
import torch
from filelock import FileLock, Timeout
from rich.console import Console

from twotower.data.dataset import Dataset
from twotower.data.splits import Split, SplitRule
from twotower.errors import SavedFolderError, TwoTowerError
from twotower.evaluation import DEFAULT_KS, Scores, measure_baselines, rank_metrics, verdict_metric
from twotower.evaluation.metrics import rank_metric_names
from twotower.files import write_file
from twotower.processes import cores
from twotower.study.config import Config, DataConfig
from twotower.study.runner import summary_of
from twotower.training.callbacks import ProgressBar
from twotower.tuning.budget import Budget
from twotower.tuning.database import Database
from twotower.tuning.final import Measured, train_and_measure
from twotower.tuning.importance import importances
from twotower.tuning.live import LiveTable
from twotower.tuning.pool import run_workers
from twotower.tuning.report import write_report
from twotower.tuning.results import TrialRecord, Tuning, best_of
from twotower.tuning.space import SearchSpace
from twotower.tuning.summary import comparisons_of, verdicts
from twotower.tuning.toml import write_config
from twotower.tuning.worker import Job
from twotower.version import VERSION


class TunePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to tune, and with what.

    Attributes:
        config: The built-in config, with the space in its `tune`, or none for the default one.
        trials: Finished trials in all, those of earlier commands included; None: no limit.
        minutes: Of this command; None: no limit.
        workers: Processes that share the cores.
        seed: Of the sampler.
    """

    config: Config
    trials: int | None
    minutes: float | None
    workers: int
    seed: int = 0


def tune(plan: TunePlan, out: Path, *, command: str, console: Console) -> Tuning:
    """Searches the space of a config, trains the best on all of train, measures it on test, writes the folder.

    Trials see train alone: they learn from one part of it and are compared on the other, cut by the split's
    own rule. The built-in config is the first of them, so that the best is never worse than it there. All
    trials are kept in `OUT/tune.db`, from which the same call goes on after an interruption.

    Args:
        plan: What to tune.
        out: The folder: best.toml, tune.json, tune.html and tune.db.
        command: The command that repeats it, for the report.
        console: Where progress is shown.

    Raises:
        ConfigError: The config or its space cannot be used.
        SavedFolderError: The folder holds something else, or another command is at work in it.
        TwoTowerError: No worker could start, or every trial failed.
    """
    budget = Budget.of(plan.trials, plan.minutes)
    job = Job(
        config=plan.config,
        out=str(out),
        seed=plan.seed,
        budget=budget,
        threads=max(1, cores() // plan.workers),
    )
    _check_folder(out, job.database)
    data = plan.config.data.load()
    rule = plan.config.split.parsed()
    split = rule(data)
    space = SearchSpace.of(plan.config, split.train)
    space.check(split.train)
    metric = _metric(space.base, split.train)
    with _held(out):
        records, weights = _search(job, plan.workers, space, split, console)
        best, built_in = _finals(space, records, split, rule, out / "final", console)
        with console.status("measuring the baselines") if console.is_terminal else nullcontext():
            baselines, notes = measure_baselines(split.test, split.train)
        own = None if built_in is None else built_in.final
        test_metric = _test_metric(metric, data.candidates.num_rows)
        comparisons = comparisons_of(best, built_in, baselines, test_metric)
        tuning = Tuning(
            data=summary_of(data, split, len(rule(split.train).test)),
            metric=metric,
            space=msgspec.to_builtins(space.dimensions),
            trials=records,
            best=best.final,
            built_in=own,
            importances=weights,
            baselines={name: measured.scores for name, measured in baselines.items()},
            test_metric=test_metric,
            comparisons=comparisons,
            verdicts=[*verdicts(records, best.final, own, comparisons, metric), *notes],
            command=command,
            versions=_versions(plan, job),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=time.time() - budget.start,
        )
        _write(tuning, space, out)
    return tuning


def _check_folder(out: Path, database: Path) -> None:
    """Refuses a folder with files that are not a tuning's; hidden ones, such as locks, do not count."""
    if not out.exists() or database.is_file():
        return
    if not out.is_dir() or any(not path.name.startswith(".") for path in out.iterdir()):
        raise SavedFolderError(f"{out} holds something else than a tuning; choose another --out, or delete it")


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Makes the folder and keeps other commands out of it; the lock ends with the process, however it ends."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".tune.lock", timeout=0):
            yield
    except Timeout as error:
        raise SavedFolderError(f"another command is tuning in {out}; wait for it, or choose another --out") from error


def _metric(base: Config, train: Dataset) -> str:
    """What trials are compared by; refused at once where validation does not measure it."""
    trainer = base.resolved_recipe(train).trainer
    measured = rank_metrics(np.ones(1), trainer.ks)
    Scores(measured, measured).value(trainer.monitor)
    return trainer.monitor


def _test_metric(metric: str, candidates: int) -> str:
    """What configs are compared by on test: the trials' metric, where it is measured there and can differ."""
    name = metric.rpartition(".")[2]
    informative = [k for k in DEFAULT_KS if k < candidates]
    return name if name in rank_metric_names(informative) else verdict_metric(informative, candidates)


def _search(
    job: Job, workers: int, space: SearchSpace, split: Split, console: Console
) -> tuple[list[TrialRecord], dict[str, float]]:
    """Runs trials until the budget is spent; gives all that ended, and what they say of each key."""
    with Database.opened(job.database) as database:
        try:
            database.claim_identity(_identity(space, split))
        except SavedFolderError as error:
            raise SavedFolderError(f"{job.out}: {error}") from error
        database.requeue_interrupted()
        database.enqueue_built_in(space.base_params)
        with LiveTable(console, database, space, job.budget) as table:
            run_workers(job, workers, database, table.update)
        trials = [trial for trial in database.trials() if trial.state.is_finished()]
    records = [TrialRecord.of(trial, space) for trial in trials]
    return records, importances(trials, list(space.dimensions))


def _identity(space: SearchSpace, split: Split) -> dict[str, str]:
    """What a tuning depends on; where its files lie and how they are called is not of it."""
    config = msgspec.structs.replace(space.base, data=DataConfig())
    return {
        "data and split": split.fingerprint,
        "config": hashlib.sha256(msgspec.json.encode(config)).hexdigest()[:12],
        "space": hashlib.sha256(msgspec.json.encode(space.dimensions)).hexdigest()[:12],
        "version": VERSION,
    }


def _finals(
    space: SearchSpace, records: list[TrialRecord], split: Split, rule: SplitRule, folder: Path, console: Console
) -> tuple[Measured, Measured | None]:
    """The best config and the built-in one, trained on all of train and measured on test."""
    best = best_of(records)
    own = next((one for one in records if one.built_in and one.state == "complete"), None)
    failed = [one for one in records if one.built_in and one.state == "failed"]
    if best is None and failed:
        raise TwoTowerError(f"no trial was complete, and the built-in config failed: {failed[-1].reason}")
    with ProgressBar(console) as progress:
        built_in = None
        if not failed:
            progress.label = "the built-in config"
            built_in = train_and_measure(space.base, own, split, rule, folder, progress)
            if best is None or best is own:
                return built_in, built_in
        assert best is not None
        progress.label = f"trial {best.number}"
        return train_and_measure(space.config(best.parameters), best, split, rule, folder, progress), built_in


def _versions(plan: TunePlan, job: Job) -> dict[str, str]:
    return {
        "twotower": VERSION,
        "Python": platform.python_version(),
        "PyTorch": str(torch.__version__),
        "Optuna": optuna.__version__,
        "workers": str(plan.workers),
        "threads each": str(job.threads),
    }


def _write(tuning: Tuning, space: SearchSpace, out: Path) -> None:
    """Writes best.toml, tune.json and tune.html."""
    trial = next((one for one in tuning.trials if one.number == tuning.best.trial), None)
    config = space.config({} if trial is None else trial.parameters)
    which = "the built-in config" if trial is None or trial.built_in else f"trial {trial.number}"
    score = "" if tuning.best.score is None else f", {tuning.metric} {tuning.best.score:.4f} on validation"
    write_config(config, out / "best.toml", f"{which}{score}: twotower train best.toml --out DIR\n{tuning.command}")
    write_file(out / "tune.json", msgspec.json.format(msgspec.json.encode(tuning), indent=1))
    write_report(tuning, out / "tune.html")
