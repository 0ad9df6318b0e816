"""Running a whole study: the baselines, all runs, and the folder with the report that is made of them."""

from __future__ import annotations

import hashlib
import platform
import shutil
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import torch
from rich.console import Console

from twotower.data.dataset import Dataset
from twotower.errors import SavedFolderError
from twotower.evaluation import DEFAULT_KS, measure_baselines, verdict_metric
from twotower.evaluation.metrics import metric_label
from twotower.files import write_file
from twotower.processes import threads_each
from twotower.study.config import Config
from twotower.study.curves import write_curves
from twotower.study.parts import GIVEN, Parts
from twotower.study.recipes import Recipe
from twotower.study.report import write_report
from twotower.study.results import DataSummary, Run, Study, write_results
from twotower.study.runs import Job, Planned, finished_run, outcomes_of, run_side_by_side
from twotower.study.summary import comparisons_of, verdicts
from twotower.training.callbacks import ProgressBar
from twotower.version import VERSION


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
        return torch.get_num_threads() if self.workers == 1 else threads_each(self.workers)


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
    plan, parts = _cut(plan, data)
    recipe = plan.config.resolved_recipe(parts.train, parts.validation)
    for line in (*plan.config.model.columns(parts.train, recipe).lines(), *parts.remarks):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    partial = _partial_folder(plan, parts, out)
    with console.status("measuring the baselines") if console.is_terminal else nullcontext():
        baselines, notes = measure_baselines(parts.test, parts.train)
        curve_baselines, validation_size = baselines, 0
        if recipe.validate_on == "validation":
            fitted, validation = parts.fitted_and_validation()
            validation_size = len(validation)
            curve_baselines, _ = measure_baselines(validation, fitted)
    metric = _metric(recipe, data)
    runs = _runs(plan, recipe, parts, partial, console, metric)
    comparisons = comparisons_of(baselines, runs, [outcomes_of(partial, planned) for planned in plan.runs], metric)
    scores = {name: measured.scores for name, measured in baselines.items()}
    study = Study(
        data=summary_of(parts, validation_size),
        baselines=scores,
        runs=runs,
        curves_on=recipe.validate_on,
        curve_baselines={name: measured.scores for name, measured in curve_baselines.items()},
        metric=metric,
        comparisons=comparisons,
        verdicts=[
            *verdicts(comparisons, scores, runs, metric),
            *_looks_ahead(plan.config, recipe),
            *parts.remarks,
            *notes,
        ],
        command=command,
        versions=_versions(plan),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - started,
    )
    write_results(study, partial / "results.json")
    write_curves(study, partial)
    write_report(study, partial / "report.html")
    _publish(partial, out)
    return study


def _cut(plan: StudyPlan, data: Dataset) -> tuple[StudyPlan, Parts]:
    """The plan with the rule of its split written out, and the parts that it cuts."""
    parts = plan.config.parts(data)
    config = msgspec.structs.replace(plan.config, split=parts.split)
    return msgspec.structs.replace(plan, config=config), parts


def _versions(plan: StudyPlan) -> dict[str, str]:
    """What the study ran with."""
    return {
        "twotower": VERSION,
        "Python": platform.python_version(),
        "PyTorch": str(torch.__version__),
        "threads of a run": str(plan.threads),
        "runs side by side": str(plan.workers),
    }


def _metric(recipe: Recipe, data: Dataset) -> str:
    """What models are compared by: the longest list that is validated and measured and shorter than the catalogue."""
    return verdict_metric([k for k in DEFAULT_KS if k in recipe.trainer.ks], data.candidates.num_rows)


def _runs(plan: StudyPlan, recipe: Recipe, parts: Parts, partial: Path, console: Console, metric: str) -> list[Run]:
    """All runs, in the plan's order; what each gave is printed when it has ended."""

    def say(run: Run) -> None:
        console.print(
            f"{run.label} seed {run.seed}: {metric_label(metric)} {run.final.all[metric]:.4f} all, "
            f"{run.final.unseen[metric]:.4f} unseen, {run.seconds.train:.1f} s of training",
            highlight=False,
        )

    runs = []
    with ProgressBar(console) as progress:
        if plan.workers > 1:
            jobs = [Job(plan.config, planned, str(partial), plan.threads) for planned in plan.runs]
            run_side_by_side(jobs, plan.workers, progress, say)
        for planned in plan.runs:
            runs.append(finished_run(plan.config, recipe, parts, planned, partial, progress))
            if plan.workers == 1:
                say(runs[-1])
    return runs


def _partial_folder(plan: StudyPlan, parts: Parts, out: Path) -> Path:
    """The folder of what is finished so far, new or that of an interrupted run of the same study."""
    identity = hashlib.sha256(msgspec.json.encode(plan) + parts.fingerprint.encode() + VERSION.encode()).hexdigest()
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


def summary_of(parts: Parts, validation: int) -> DataSummary:
    """What reports say of the data and how it was cut."""
    train, test = parts.train, parts.test
    given = [part for part in (test, parts.validation) if part is not None and parts.rule == GIVEN]
    return DataSummary(
        name=train.name,
        interactions=len(train) + (sum(map(len, given)) or len(test)),
        queries=train.queries.num_rows,
        candidates=train.candidates.num_rows,
        train=len(train),
        validation=validation,
        test=len(test),
        split=parts.rule,
        fingerprint=parts.fingerprint,
        dropped=train.dropped + sum(part.dropped for part in given),
        terms=train.terms,
    )
