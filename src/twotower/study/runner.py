"""Running a whole study: the baselines, all runs, and the folder with the report that is made of them."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import torch
from rich.console import Console

from twotower.data.dataset import Dataset
from twotower.data.splits import Split, SplitRule
from twotower.errors import SavedFolderError
from twotower.evaluation import measure_baselines
from twotower.files import MarkedFolder, check_folder_target, publish, write_file
from twotower.locks import partial_of, unfinished
from twotower.processes import cores
from twotower.saved import SavedKind, write_manifest
from twotower.study.config import Config
from twotower.study.curves import write_curves
from twotower.study.recipes import Recipe
from twotower.study.report import write_report
from twotower.study.results import DataSummary, Run, Study, write_results
from twotower.study.runs import Job, Planned, finished_run, run_side_by_side
from twotower.study.summary import verdicts
from twotower.training.callbacks import ProgressBar
from twotower.version import VERSION

METRIC = "top_100"
KIND, FORMAT = "twotower study", 1

PARTIAL = MarkedFolder(
    "an unfinished study",
    "identity",
    lambda raw: re.fullmatch(rb"[0-9a-f]{64}", raw) is not None,
    (
        *("results.json", "curves.png", "curves.svg", "report.html", "manifest.json", "runs/*.json"),
        *("checkpoints/*/state.json", "checkpoints/*.safetensors"),
        *("models/*.json", "models/*.arrow", "models/*.safetensors"),
    ),
)


class StudyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a study compares.

    Attributes:
        config: Data, split, recipe and model; its layers and seed are replaced by each run's.
        depths: Widths of the dense layers of each model.
        seeds: Seeds of each depth.
        workers: Processes that run them side by side; they share the cores. 1 runs them here, one after the other.
    """

    config: Config
    depths: list[list[int]]
    seeds: int = 1
    workers: int = 1

    @property
    def runs(self) -> list[Planned]:
        """Every depth with every seed."""
        return [
            Planned(layers, seed, f"{layers}" if self.seeds == 1 else f"{layers}, seed {seed}")
            for layers in self.depths
            for seed in range(self.seeds)
        ]

    @property
    def threads(self) -> int:
        """Of PyTorch, for each run."""
        return torch.get_num_threads() if self.workers == 1 else max(1, cores() // self.workers)


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
        ConfigError: The folder is there and is no study's, or cannot be written.
        SavedFolderError: `OUT.partial` is of another study, or another process is at work on it.
        TwoTowerError: A training diverged.
    """
    check_study_target(out)
    with unfinished(out, PARTIAL) as partial:
        study = _finished(plan, data, partial, command=command, console=console)
        _publish(partial, out)
    return study


def check_study_target(out: Path) -> Path:
    """The folder to write, links followed, after a check that it and `OUT.partial` may be written.

    Raises:
        ConfigError: One of them is there and is no study's, or cannot be written.
    """
    real = check_folder_target(out, SavedKind(KIND))
    check_folder_target(partial_of(out), PARTIAL)
    return real


def _finished(plan: StudyPlan, data: Dataset, partial: Path, *, command: str, console: Console) -> Study:
    """Runs a study in the folder of what is finished so far, and writes its report there."""
    started = time.perf_counter()
    config = plan.config
    rule = config.split.parsed()
    split = rule(data)
    recipe = config.resolved_recipe(split.train)
    _claim(partial, plan, split)
    with console.status("measuring the baselines") if console.is_terminal else nullcontext():
        baselines, notes = measure_baselines(split.test, split.train)
        curve_baselines, validation_size = baselines, 0
        if recipe.validate_on == "validation":
            inner = rule(split.train)
            validation_size = len(inner.test)
            curve_baselines, _ = measure_baselines(inner.test, inner.train)
    runs = _runs(plan, recipe, split, rule, partial, console)
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
            "threads of a run": str(plan.threads),
            "runs side by side": str(plan.workers),
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - started,
    )
    write_results(study, partial / "results.json")
    write_curves(study, partial)
    write_report(study, partial / "report.html")
    return study


def _runs(plan: StudyPlan, recipe: Recipe, split: Split, rule: SplitRule, partial: Path, console: Console) -> list[Run]:
    """All runs, in the plan's order; what each gave is printed when it has ended."""

    def say(run: Run) -> None:
        console.print(
            f"{run.label} seed {run.seed}: {METRIC} {run.final.all[METRIC]:.4f} all, "
            f"{run.final.unseen[METRIC]:.4f} unseen, {run.seconds.train:.1f} s of training",
            highlight=False,
        )

    runs = []
    with ProgressBar(console) as progress:
        if plan.workers > 1:
            jobs = [Job(plan.config, planned, str(partial), plan.threads) for planned in plan.runs]
            run_side_by_side(jobs, plan.workers, progress, say)
        for planned in plan.runs:
            runs.append(finished_run(plan.config, recipe, split, rule, planned, partial, progress))
            if plan.workers == 1:
                say(runs[-1])
    return runs


def _claim(partial: Path, plan: StudyPlan, split: Split) -> None:
    """Marks the folder of what is finished so far as that of this study.

    Raises:
        SavedFolderError: It is that of an interrupted study with other settings.
    """
    identity = hashlib.sha256(msgspec.json.encode(plan) + split.fingerprint.encode() + VERSION.encode()).hexdigest()
    mark = partial / PARTIAL.marker
    if not mark.exists():
        write_file(mark, identity)
    elif mark.read_text() != identity:
        raise SavedFolderError(
            f"{partial} is left from an interrupted study with other settings; finish that one with its own "
            f"command, delete the folder, or choose another --out"
        )


def _publish(partial: Path, out: Path) -> None:
    """Makes the finished folder take the place of the last one.

    Raises:
        ConfigError: Meanwhile somebody has put something else there; what is finished is kept.
    """
    real = check_study_target(out)
    for name in ("runs", "checkpoints"):
        shutil.rmtree(partial / name, ignore_errors=True)
    (partial / PARTIAL.marker).unlink()
    write_manifest(partial, KIND, FORMAT, VERSION, {})
    publish(partial, real, SavedKind(KIND))


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
