"""Baselines to compare a model with: which ones can be measured on a split, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twotower.arguments import checks_arguments
from twotower.data.dataset import Dataset
from twotower.data.log import Log, require_in_memory
from twotower.errors import TwoTowerError
from twotower.evaluation.baselines import OracleScorer, Popularity
from twotower.evaluation.baselines.budget import BaselineBudget, Clock, Machine, check_cost
from twotower.evaluation.baselines.names import BASELINES, NAMES, BaselineNames, check_baselines
from twotower.evaluation.measure import Measurement, measure
from twotower.evaluation.metrics import DEFAULT_KS, check_ks
from twotower.progress import Display, ReportStep, no_report

STREAMED_REASON = "it learns from a log in memory, but this one is streamed"


@checks_arguments
def measure_baselines(
    test: Dataset,
    train: Log,
    ks: Sequence[int] = DEFAULT_KS,
    baselines: BaselineNames = "all",
    budget: BaselineBudget | None = None,
    display: Display | None = None,
) -> tuple[dict[str, Measurement], list[str]]:
    """Measures the baselines; also returns notes on why an expected or named baseline is missing.

    Args:
        test: The events to evaluate on.
        train: The events that the baselines learn from and that `unseen` excludes.
        ks: Lengths of lists.
        baselines: `all`, `none`, or names.
        budget: Budget of each baseline; None for the default.
        display: Shows the progress.

    Raises:
        ConfigError: A baseline's name is unknown.
    """
    check_ks(ks)
    names, notes = measurable(baselines, test, train)
    machine, rows = Machine(), {}
    for name in names:
        try:
            report = no_report if display is None else display.reporter(NAMES[name])
            rows[name] = measure_baseline(name, test, train, ks, budget, machine, report)
        except TwoTowerError as error:
            notes.append(left_out(name, error))
    return rows, notes


def without_budget(baselines: BaselineNames) -> BaselineNames:
    """The baselines that learn in no time, and are thus cheap enough to measure on a second part as well."""
    if baselines == "none":
        return "none"
    return [name for name in NAMES if not _has_budget(name) and (baselines == "all" or name in baselines)]


def measurable(baselines: BaselineNames, test: Dataset, train: Log) -> tuple[list[str], list[str]]:
    """The baselines that make sense on this split, in report order, with notes on why a named one does not.

    `recent_popularity` requires that no train event is later than a test event. Otherwise, and also when each query's
    last event is test, "recent" would be the future for many test events. `oracle` requires that the truth is known.
    On a streamed log, only these two are measured: popularity, and the oracle if the truth is known.

    Raises:
        ConfigError: A baseline's name is unknown.
    """
    check_baselines(baselines)
    if baselines == "none":
        return [], []
    reasons = _reasons(test, train)
    wanted = [name for name in NAMES if baselines == "all" or name in baselines]
    notes = [left_out(name, reasons[name]) for name in wanted if name in reasons and baselines != "all"]
    if baselines == "all" and train.in_memory is None:
        notes = [f"The other baselines are not in the table: {STREAMED_REASON.replace('it learns', 'they learn')}."]
    return [name for name in wanted if name not in reasons], notes


def _reasons(test: Dataset, train: Log) -> dict[str, str]:
    """Why baselines make no sense on this split, by name."""
    events = train.in_memory
    if events is None:
        reasons = {name: STREAMED_REASON for name in NAMES if name not in ("popularity", "oracle")}
    elif not follows(test, events):
        reasons = {"recent_popularity": "train has no times, or has events later than some test events"}
    else:
        reasons = {}
    if test.oracle is None:
        reasons["oracle"] = "only simulated data has one"
    return reasons


def measure_baseline(
    name: str,
    test: Dataset,
    train: Log,
    ks: Sequence[int] = DEFAULT_KS,
    budget: BaselineBudget | None = None,
    machine: Machine | None = None,
    report: ReportStep = no_report,
) -> Measurement:
    """Fits one baseline and measures it.

    Args:
        name: A baseline that `measurable` returned.
        test: The events to evaluate on.
        train: The events that it learns from and that `unseen` excludes.
        ks: Lengths of lists.
        budget: Its budget; None for the default.
        machine: Speed of this machine; None to measure it.
        report: Receives the current step.

    Raises:
        OverBudgetError: It is estimated to exceed its budget, or exceeded it while running.
        MissingExtraError: It needs a library that is not installed.
    """
    report("learning")
    if name == "popularity":
        return measure(Popularity(train), test, train.events_of(test), ks, report)
    if name == "oracle":
        assert test.oracle is not None
        return measure(OracleScorer(test.oracle), test, train.events_of(test), ks, report)
    events = require_in_memory(train, NAMES[name], "popularity, the baseline of a streamed log")
    if not _has_budget(name):
        return measure(BASELINES[name](events), test, events, ks, report)
    learn: Any = BASELINES[name]
    budget, machine = budget or BaselineBudget(), machine or Machine()
    check_cost(learn.cost(events, machine), budget, machine)
    clock = Clock(budget.seconds, report)
    return measure(learn(events, step=clock), test, events, ks, clock)


def left_out(name: str, reason: object) -> str:
    """The note on why a baseline is missing from the table."""
    return f"{NAMES[name]} is not in the table: {reason}"


def follows(test: Dataset, train: Dataset) -> bool:
    """Whether train has times, and no test event is earlier than the last train event."""
    return train.time is not None and float(train.times.max()) <= float(test.times.min())


def _has_budget(name: str) -> bool:
    """Whether a baseline estimates its cost; the others learn in no time."""
    return hasattr(BASELINES[name], "cost")
