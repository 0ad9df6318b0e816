"""`tune`: searches for a better config on a validation part and measures it once on test."""

from __future__ import annotations

import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import optuna
import torch
from rich.console import Console

from twotower.errors import TwoTowerError
from twotower.evaluation import DEFAULT_KS, Outcomes, Scores, rank_metrics, verdict_metric
from twotower.evaluation.baselines.budget import BaselineBudget
from twotower.evaluation.baselines.names import NAMES
from twotower.evaluation.beside import left_out, measurable
from twotower.evaluation.metrics import metric_label, rank_metric_names
from twotower.experiments.desks import ListDesk, Waiting, waiting_for
from twotower.experiments.folder import TUNING, working_in
from twotower.experiments.kept import ranks_of
from twotower.experiments.orders import RUNS, BaselineRun, ModelRun, identity_of
from twotower.experiments.pool import run_jobs
from twotower.experiments.report.tuning import write_report
from twotower.experiments.results import BaselineOutcome, Cut, ModelOutcome
from twotower.experiments.run import Runner
from twotower.experiments.store import Store
from twotower.experiments.study import cut_of
from twotower.experiments.tuning.budget import Budget
from twotower.experiments.tuning.desk import TrialDesk
from twotower.experiments.tuning.importance import importances
from twotower.experiments.tuning.results import Final, Tuning
from twotower.experiments.tuning.space import SearchSpace
from twotower.experiments.tuning.trials import TrialLog, TrialRecord, best_of
from twotower.experiments.tuning.verdicts import comparisons_of, verdicts
from twotower.files import write_file
from twotower.processes import threads_each
from twotower.progress import Display
from twotower.recipes.config import Config
from twotower.recipes.parts import Parts
from twotower.recipes.toml import write_config
from twotower.version import VERSION

BEST, REPORT, RESULTS, TRIALS = "best.toml", "tune.html", "tune.json", "trials.json"


class TunePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to tune, and the budget.

    Attributes:
        config: The built-in config; its `tune` holds the search space, or nothing for the default one.
        trials: Total number of finished trials, including those of earlier commands; None for no limit.
        minutes: Time limit of this command; None for no limit.
        workers: Number of processes that share the cores.
        seed: Seed of the sampler.
    """

    config: Config
    trials: int | None
    minutes: float | None
    workers: int
    seed: int = 0


def tune(
    plan: TunePlan, out: Path, *, command: str, console: Console, baselines: BaselineBudget | None = None
) -> Tuning:
    """Searches a config's space, trains the best config on all of train, measures it on test and writes the folder.

    Trials use only train: they are fitted on one part of it and compared on the other, cut by the split's own rule.
    The built-in config is the first trial, so the best config is never worse there. All trials are kept; rerun the
    command to resume.

    Args:
        plan: What to tune.
        out: The folder: best.toml, tune.json, tune.html, trials.json and the runs.
        command: The command that repeats the tuning, for the report.
        console: Where progress is shown.
        baselines: What each baseline may cost.

    Raises:
        ConfigError: The config or its space cannot be used.
        SavedFolderError: The folder holds another tuning, or another process is using it.
        TwoTowerError: No trial completed and the built-in config failed, or several trials in a row died.
    """
    budget = Budget.of(plan.trials, plan.minutes)
    with working_in(out, TUNING) as folder:
        search = _Search.prepare(plan, folder, budget, console)
        records, weights = search.trials()
        best, built_in = search.finals(records, baselines or BaselineBudget())
        tuning = search.tuning(records, weights, best, built_in, command)
        _write(tuning, search.space, folder)
    return tuning


class _Search:
    """The steps of a tuning, with their shared store and data."""

    def __init__(
        self, plan: TunePlan, space: SearchSpace, parts: Parts, folder: Path, budget: Budget, console: Console
    ) -> None:
        self.plan, self.space, self.parts, self.folder = plan, space, parts, folder
        self.store, self.budget, self.console, self.data = Store(folder / RUNS), budget, console, parts.identity
        self.metric = _metric(space.base, parts)
        self._baseline_runs: dict[str, Waiting] = {}

    @classmethod
    def prepare(cls, plan: TunePlan, folder: Path, budget: Budget, console: Console) -> _Search:
        """Reads and splits the data, and refuses a space that cannot be searched."""
        parts = plan.config.parts()
        for line in parts.remarks:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        plan = msgspec.structs.replace(plan, config=msgspec.structs.replace(plan.config, split=parts.split))
        space = SearchSpace.of(plan.config, parts.train, parts.validation)
        space.check(parts.train)
        return cls(plan, space, parts, folder, budget, console)

    @property
    def cut(self) -> Cut:
        """The description of the data for reports."""
        validation = self.parts.fitted_and_validation()[1]
        return cut_of(self.parts, len(validation))

    def trials(self) -> tuple[list[TrialRecord], dict[str, float]]:
        """Runs trials until the budget is spent; returns all that ended, and the importance of each key."""
        log = TrialLog(self.folder / TRIALS, _identity(self.space, self.parts))

        def say(record: TrialRecord) -> None:
            best = best_of(log.records)
            mark = "" if best is None else f" (best {best.score:.4f}, trial {best.number})"
            score = "" if record.so_far is None else f" {record.so_far:.4f}"
            why = f", {record.reason}" if record.reason else ""
            line = f"trial {record.number} {record.state}{why}:{score}{mark} {record.what_differs}"
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

        train, validation = self.parts.train, self.parts.validation
        desk = TrialDesk(
            self.space,
            log,
            self.store,
            self.data,
            lambda config: config.resolved_recipe(train, validation),
            self.budget,
            self.plan.seed,
            say,
        )
        self._run(desk)
        return [one for one in log.records if one.state != "running"], importances(
            desk.trials, [*self.space.dimensions]
        )

    def finals(self, records: list[TrialRecord], budget: BaselineBudget) -> tuple[Final, Final | None]:
        """Trains the best config and the built-in one on all of train, and measures them and the baselines on test."""
        best = best_of(records)
        failed = [one for one in records if one.built_in and one.state == "failed"]
        own = next((one for one in records if one.built_in and one.state == "complete"), None)
        if best is None and failed:
            raise TwoTowerError(f"no trial completed, and the built-in config failed: {failed[-1].reason}")
        built_in = None if failed else self._final("the built-in config", own, {})
        wanted = [] if built_in is None else [built_in]
        chosen = built_in
        if best is not None and best is not own:
            chosen = self._final(f"trial {best.number}", best, best.parameters)
            wanted.append(chosen)
        assert chosen is not None
        names, _ = measurable(self.plan.config.baselines, self.parts.test, self.parts.train)
        for name in names:
            run = BaselineRun(self.plan.config, name, "test", budget)
            self._baseline_runs[name] = waiting_for(NAMES[name], run, self.store, self.data)
        self._run(ListDesk([*wanted, *self._baseline_runs.values()], self.store))
        finished = self._finished(chosen, best)
        return finished, finished if chosen is built_in else None if built_in is None else self._finished(built_in, own)

    def tuning(
        self,
        records: list[TrialRecord],
        weights: dict[str, float],
        best: Final,
        built_in: Final | None,
        command: str,
    ) -> Tuning:
        """Collects all results."""
        measured, notes = self.baselines()
        test_metric = _test_metric(self.metric, self.parts.test.candidates.num_rows)
        own = None if built_in is None or built_in.key == best.key else ranks_of(self.store, built_in.key)
        ranks = {name: found for name, (_, found) in measured.items()}
        compared = comparisons_of(ranks_of(self.store, best.key), own, ranks, test_metric)
        return Tuning(
            cut=self.cut,
            metric=self.metric,
            test_metric=test_metric,
            space=msgspec.to_builtins(self.space.dimensions),
            trials=records,
            best=best,
            built_in=built_in,
            importances=weights,
            baselines={name: scores for name, (scores, _) in measured.items()},
            comparisons=compared,
            verdicts=[*verdicts(records, best, built_in, compared, self.metric), *self.parts.remarks, *notes],
            command=command,
            versions=_versions(self.plan.workers),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=time.time() - self.budget.start,
        )

    def baselines(self) -> tuple[dict[str, tuple[Scores, Outcomes]], list[str]]:
        """Scores and ranks of the measured baselines, and notes on those left out."""
        rows, notes = {}, []
        for name, waiting in self._baseline_runs.items():
            outcome = self.store.outcome(waiting.key, BaselineOutcome)
            assert outcome is not None
            if outcome.scores is None:
                notes.append(left_out(name, outcome.left_out))
            else:
                rows[name] = outcome.scores, ranks_of(self.store, waiting.key)
        return rows, notes

    def _final(self, label: str, record: TrialRecord | None, values: dict[str, object]) -> Waiting:
        config = self.space.config(record.parameters if record is not None else values)
        return waiting_for(label, ModelRun(config), self.store, self.data)

    def _finished(self, waiting: Waiting, record: TrialRecord | None) -> Final:
        outcome = self.store.outcome(waiting.key, ModelOutcome)
        assert outcome is not None
        number, score = (None, None) if record is None else (record.number, record.score)
        return Final(trial=number, score=score, key=waiting.key, outcome=outcome)

    def _run(self, desk: TrialDesk | ListDesk) -> None:
        with Display(self.console) as display:
            run_jobs(Runner, desk, self.plan.workers, display, threads_each(self.plan.workers))


def _metric(base: Config, parts: Parts) -> str:
    """The metric that trials are compared by; raises at once if validation does not measure it."""
    trainer = base.resolved_recipe(parts.train, parts.validation).trainer
    measured = rank_metrics(np.ones(1), trainer.ks)
    Scores(measured, measured).value(trainer.monitor)
    return trainer.monitor


def _test_metric(metric: str, candidates: int) -> str:
    """The metric for test: that of the trials if it is measured there and is informative, else the default one."""
    name = metric.rpartition(".")[2]
    informative = [k for k in DEFAULT_KS if k < candidates]
    return name if name in rank_metric_names(informative) else verdict_metric(informative, candidates)


def _identity(space: SearchSpace, parts: Parts) -> dict[str, str]:
    """What a tuning depends on, excluding the location and name of its files."""
    return {
        "data and split": parts.identity,
        "config": Store.key(identity_of(space.base)),
        "space": Store.key(space.dimensions),
        "version": VERSION,
    }


def _versions(workers: int) -> dict[str, str]:
    return {
        "twotower": VERSION,
        "Python": platform.python_version(),
        "PyTorch": str(torch.__version__),
        "Optuna": optuna.__version__,
        "workers": str(workers),
        "threads each": str(threads_each(workers)),
    }


def _write(tuning: Tuning, space: SearchSpace, out: Path) -> None:
    """Writes best.toml, tune.json and tune.html."""
    trial = next((one for one in tuning.trials if one.number == tuning.best.trial), None)
    config = space.config({} if trial is None else trial.parameters)
    which = "the built-in config" if trial is None or trial.built_in else f"trial {trial.number}"
    score = (
        "" if tuning.best.score is None else f", {metric_label(tuning.metric)} {tuning.best.score:.4f} on validation"
    )
    write_config(config, out / BEST, f"{which}{score}: twotower train best.toml --out DIR\n{tuning.command}")
    write_file(out / RESULTS, msgspec.json.format(msgspec.json.encode(tuning), indent=1))
    write_report(tuning, out / REPORT)
