"""`run_study`: trains variants of a config on every split and seed, measures the baselines and writes the report."""

from __future__ import annotations

import platform
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import torch
from rich.console import Console

from twotower.errors import ConfigError
from twotower.evaluation import DEFAULT_KS, verdict_metric
from twotower.evaluation.baselines.budget import BaselineBudget
from twotower.evaluation.baselines.names import NAMES
from twotower.evaluation.beside import left_out, measurable, without_budget
from twotower.evaluation.metrics import metric_label
from twotower.evaluation.task_scores import task_sentences
from twotower.experiments.desks import ListDesk, Waiting, waiting_for
from twotower.experiments.folder import STUDY, working_in
from twotower.experiments.kept import ranks_of
from twotower.experiments.orders import RUNS, ModelRun, Part
from twotower.experiments.orders import BaselineRun as BaselineOrder
from twotower.experiments.plans import Planned, StudyPlan
from twotower.experiments.pool import run_jobs
from twotower.experiments.report.curves import write_curves
from twotower.experiments.report.study import write_report
from twotower.experiments.results import (
    RESULTS,
    BaselineOutcome,
    BaselineRun,
    Cut,
    ModelOutcome,
    Run,
    Study,
    changed_values,
    write_results,
)
from twotower.experiments.run import Runner
from twotower.experiments.store import Store
from twotower.experiments.verdicts import comparisons_of, verdicts
from twotower.processes import threads_each
from twotower.progress import Display
from twotower.recipes.config import Config
from twotower.recipes.parts import Parts
from twotower.recipes.recipe import Recipe
from twotower.version import VERSION

REPORT = "report.html"


@dataclass(frozen=True)
class _CutData:
    """One split of the data, and what can be found out about it without training."""

    cut: Cut
    config: Config
    identity: str
    recipe: Recipe
    baselines: list[str]
    curve_baselines: list[str]
    remarks: tuple[str, ...]
    columns: dict[int, tuple[str, ...]]
    looking_ahead: frozenset[int]

    def wanted(self, number: int) -> list[tuple[Part, str]]:
        """The baselines to measure on each part; those on validation are drawn with the curves of the first cut."""
        on_validation: list[tuple[Part, str]] = [("validation", name) for name in self.curve_baselines]
        on_test: list[tuple[Part, str]] = [("test", name) for name in self.baselines]
        return on_test + (on_validation if number == 0 else [])


def run_study(
    plan: StudyPlan, out: Path, *, command: str, console: Console, budget: BaselineBudget | None = None
) -> Study:
    """Runs a study and writes its folder: report, curves, results and, in `runs/`, every model.

    Finished runs are kept in `runs/`, keyed by what they depend on. Rerun the command to resume after an interruption;
    another study in the same folder trains only the runs that are missing.

    Args:
        plan: What to compare.
        out: The folder.
        command: The command that repeats the study, for the report.
        console: Where progress is shown.
        budget: What each baseline may cost.

    Raises:
        ConfigError: A variant cannot be built, or the folder holds something else or cannot be written.
        DataError: The data cannot be used.
        SavedFolderError: Another process is using the folder.
        TwoTowerError: Training diverged.
    """
    started = time.perf_counter()
    planned = list(plan.runs())
    with working_in(out, STUDY) as folder:
        cuts = _cuts(planned)
        first = next(iter(cuts.values()))
        for line in (*_columns_of(plan, cuts.values()), *first.remarks):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        desk = _StudyDesk(Store(folder / RUNS), planned, cuts, budget or BaselineBudget(), console)
        with Display(console) as display:
            run_jobs(Runner, desk, plan.workers, display, threads_each(plan.workers))
        study = _study_of(plan, desk, cuts, command, started)
        write_results(study, folder / RESULTS)
        write_curves(study, folder)
        write_report(study, folder / REPORT)
    return study


def _cuts(planned: Sequence[Planned]) -> dict[bytes, _CutData]:
    """The cuts of these runs, one for each combination of data and split."""
    by_cut: dict[bytes, list[Planned]] = {}
    for run in planned:
        by_cut.setdefault(_cut_name(run.config), []).append(run)
    return {name: _cut_data(runs) for name, runs in by_cut.items()}


def _cut_name(config: Config) -> bytes:
    return msgspec.json.encode([config.data, config.split])


def _cut_data(runs: Sequence[Planned]) -> _CutData:
    """Reads and splits the data of these runs once, to find out what is needed before training."""
    config = runs[0].config
    parts = config.parts()
    pinned = msgspec.structs.replace(config, split=parts.split)
    variants = {run.variant: msgspec.structs.replace(run.config, split=parts.split) for run in runs}
    recipes = {number: one.resolved_recipe(parts.train, parts.validation) for number, one in variants.items()}
    recipe = recipes[runs[0].variant]
    if not recipe.trainer.retrieves:
        raise ConfigError(
            "[[tasks]] without retrieval: a study compares models by their ranks; expected a task of kind retrieval "
            "among them, or `twotower train`, which measures each task by its own metrics",
            field="tasks",
        )
    fitted, validation = parts.for_recipe(recipe)
    names, notes = measurable(config.baselines, parts.test, parts.train)
    on_validation = recipe.validate_on == "validation"
    curves = measurable(without_budget(config.baselines), validation, fitted)[0] if on_validation else []
    return _CutData(
        cut=cut_of(parts, len(validation) if on_validation else 0),
        config=pinned,
        identity=parts.identity,
        recipe=recipe,
        baselines=names,
        curve_baselines=curves,
        remarks=(*parts.remarks, *notes),
        columns={
            number: tuple(one.model.input_lines(parts.train, recipes[number])) for number, one in variants.items()
        },
        looking_ahead=frozenset(number for number, one in variants.items() if _looks_ahead(one, recipes[number])),
    )


def cut_of(parts: Parts, validation: int) -> Cut:
    """The description of the data and their split for reports.

    Args:
        parts: The parts.
        validation: Number of events of train that are used for validation.
    """
    train = parts.train
    return Cut(
        name=train.name,
        interactions=len(train) + len(parts.test) + (0 if parts.validation is None else len(parts.validation)),
        queries=train.queries.num_rows,
        candidates=train.candidates.num_rows,
        train=len(train),
        validation=validation,
        test=len(parts.test),
        split=parts.rule,
        seed=parts.split.seed,
        fingerprint=parts.fingerprint,
        dropped=train.dropped,
        terms=parts.test.terms,
    )


class _StudyDesk(ListDesk):
    """The models of a study and its baselines.

    Attributes:
        models: The models to train.
        baselines: Cut, name, part and run of each baseline.
    """

    def __init__(
        self,
        store: Store,
        planned: Sequence[Planned],
        cuts: Mapping[bytes, _CutData],
        budget: BaselineBudget,
        console: Console,
    ) -> None:
        self.console = console
        self.models: list[tuple[Planned, Waiting]] = []
        self.baselines: list[tuple[int, str, Part, Waiting]] = []
        for run in planned:
            data = cuts[_cut_name(run.config)]
            config = msgspec.structs.replace(run.config, split=data.config.split)
            self.models.append((run, waiting_for(run.label, ModelRun(config), store, data.identity)))
        for number, data in enumerate(cuts.values()):
            several = f", split {data.cut.seed}" if len(cuts) > 1 else ""
            for part, name in data.wanted(number):
                order = BaselineOrder(data.config, name, part, budget)
                label = f"{NAMES[name]} on {part}{several}"
                self.baselines.append((number, name, part, waiting_for(label, order, store, data.identity)))
        super().__init__([*(w for _, w in self.models), *(w for *_, w in self.baselines)], store)

    def succeeded(self, waiting: Waiting) -> None:
        """Prints the scores of a model."""
        if isinstance(waiting.order.run, ModelRun):
            outcome = self.store.outcome(waiting.key, ModelOutcome)
            assert outcome is not None
            self.console.print(_score_line(waiting.label, outcome), highlight=False, markup=False, soft_wrap=True)


def _score_line(label: str, outcome: ModelOutcome) -> str:
    metric = next(reversed([name for name in outcome.scores.all if name.startswith("top_")]))
    return (
        f"{label}: {metric_label(metric)} {outcome.scores.all[metric]:.4f} all, "
        f"{outcome.scores.unseen[metric]:.4f} unseen, {outcome.seconds.train:.1f} s of training"
    )


def _study_of(plan: StudyPlan, desk: _StudyDesk, cuts: Mapping[bytes, _CutData], command: str, started: float) -> Study:
    """Collects the outcomes of the plan from the store, with comparisons and verdicts."""
    numbers = {name: number for number, name in enumerate(cuts)}
    runs, ranks = [], {}
    for planned, waiting in desk.models:
        outcome = desk.store.outcome(waiting.key, ModelOutcome)
        assert outcome is not None
        cut = numbers[_cut_name(planned.config)]
        seed = int(planned.config.training.get("seed", 0))
        runs.append(Run(variant=planned.variant, cut=cut, seed=seed, key=waiting.key, outcome=outcome))
        ranks[waiting.key] = ranks_of(desk.store, waiting.key)
    baselines, notes = [], []
    for cut, name, part, waiting in desk.baselines:
        found = desk.store.outcome(waiting.key, BaselineOutcome)
        assert found is not None
        baselines.append(BaselineRun(name=name, cut=cut, part=part, key=waiting.key, outcome=found))
        if found.scores is not None and part == "test":
            ranks[waiting.key] = ranks_of(desk.store, waiting.key)
        elif found.left_out is not None and part == "test":
            notes.append(left_out(name, found.left_out))
    first = next(iter(cuts.values()))
    metric = verdict_metric([k for k in DEFAULT_KS if k in first.recipe.trainer.ks], first.cut.candidates)
    unjudged = Study(
        cuts=_with_changes(plan, cuts),
        varied=changed_values([variant.values for variant in plan.variants]),
        variants=plan.variants,
        runs=runs,
        baselines=baselines,
        curves_on=first.recipe.validate_on,
        metric=metric,
        comparisons=[],
        verdicts=[],
        command=command,
        versions=_versions(plan.workers),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - started,
    )
    comparisons = comparisons_of(unjudged, ranks)
    said = [
        *verdicts(unjudged, comparisons),
        *_task_verdicts(unjudged),
        *_ahead_note(plan, first.looking_ahead),
        *first.remarks,
        *dict.fromkeys(notes),
    ]
    return msgspec.structs.replace(unjudged, comparisons=comparisons, verdicts=said)


def _task_verdicts(study: Study) -> list[str]:
    """The verdicts on the other tasks of each variant, from its first model."""
    return [
        sentence
        for number, variant in enumerate(study.variants)
        for task in study.runs_of(number)[0].outcome.tasks
        for sentence in task_sentences(task.task, task.comparisons, variant.name)
    ]


def _with_changes(plan: StudyPlan, cuts: Mapping[bytes, _CutData]) -> list[Cut]:
    """The cuts, each with the varied keys that affect it."""
    changes: dict[bytes, dict[str, object]] = {}
    for run in plan.runs():
        values = plan.variants[run.variant].values
        own = {key: value for key, value in values.items() if key.startswith(("data.", "split."))}
        changes.setdefault(_cut_name(run.config), own)
    return [msgspec.structs.replace(data.cut, changes=changes[name]) for name, data in cuts.items()]


def _versions(workers: int) -> dict[str, str]:
    return {
        "twotower": VERSION,
        "Python": platform.python_version(),
        "PyTorch": str(torch.__version__),
        "threads of a run": str(threads_each(workers)),
        "runs side by side": str(workers),
    }


def _columns_of(plan: StudyPlan, cuts: Iterable[_CutData]) -> list[str]:
    """The columns the towers read, with the variants that share a list named once."""
    said: dict[tuple[str, ...], dict[str, None]] = {}
    for cut in cuts:
        for number, lines in cut.columns.items():
            said.setdefault(lines, {})[plan.variants[number].name] = None
    return [
        line if len(said) == 1 else f"{'; '.join(names)}: {line}" for lines, names in said.items() for line in lines
    ]


def _looks_ahead(config: Config, recipe: Recipe) -> bool:
    """Whether a model reads inputs that a service would not have."""
    if config.model.query or (config.model.inputs or recipe.inputs) == "tutorial":
        return False
    return (config.model.reach or recipe.reach) == "around"


def _ahead_note(plan: StudyPlan, looking_ahead: Container[int]) -> list[str]:
    """Names the variants that read inputs a service would not have."""
    names = [variant.name for number, variant in enumerate(plan.variants) if number in looking_ahead]
    if not names:
        return []
    subject = "The models" if len(names) == len(plan.variants) else "; ".join(names)
    return [
        f"{subject} read events on both sides of the one to predict, including the query's later choices, as EASE, "
        'item-kNN and iALS do. Set reach = "before" in [model] to measure with only what a service would have.'
    ]
