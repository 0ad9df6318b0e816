"""Running a whole study: the baselines, all runs, and the folder with the report that is made of them."""

from __future__ import annotations

import hashlib
import platform
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import torch
from rich.console import Console

from twotower.data.dataset import Dataset
from twotower.data.splits import Split, SplitRule
from twotower.errors import SavedFolderError
from twotower.evaluation import BaselineBudget, measure_baselines
from twotower.evaluation.beside import without_budget
from twotower.files import write_file
from twotower.processes import cores
from twotower.progress import Display
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


class StudyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a study compares.

    Attributes:
        config: Data, split, recipe and model; its layers and seed are replaced by each run's.
        depths: Widths of the dense layers of each model.
        seeds: Seeds of each depth.
        workers: Processes that run them side by side; they share the cores. 1 runs them here, one after the other.
        baseline_budget: What each baseline may cost.
    """

    config: Config
    depths: list[list[int]]
    seeds: int = 1
    workers: int = 1
    baseline_budget: BaselineBudget = BaselineBudget()

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
        SavedFolderError: `OUT.partial` is of another study.
        TwoTowerError: A training diverged.
    """
    started = time.perf_counter()
    config = plan.config
    rule = config.split.parsed()
    split = rule(data)
    recipe = config.resolved_recipe(split.train)
    partial = _partial_folder(plan, split, out)
    with Display(console) as display:
        baselines, notes = measure_baselines(
            split.test,
            split.train,
            baselines=config.baselines,
            budget=plan.baseline_budget,
            display=display,
            kept=partial / "runs" / "baselines",
        )
    curve_baselines, validation_size = baselines, 0
    if recipe.validate_on == "validation":
        inner = rule(split.train)
        validation_size = len(inner.test)
        # The others would have to learn again, from the part that validation leaves.
        curve_baselines, _ = measure_baselines(inner.test, inner.train, baselines=without_budget(config.baselines))
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
    _publish(partial, out)
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


def _partial_folder(plan: StudyPlan, split: Split, out: Path) -> Path:
    """The folder of what is finished so far, new or that of an interrupted run of the same study."""
    # The runs are the same whichever baselines are measured beside them.
    config = msgspec.structs.replace(plan.config, baselines="all")
    plan = msgspec.structs.replace(plan, config=config, baseline_budget=BaselineBudget())
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
