"""The baselines beside a model: which of them can be measured on a split, and their scores there."""

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
from twotower.evaluation.ranking import Scorer
from twotower.progress import Display, ReportStep, no_report

STREAMED = "it learns from a log in memory, and this one is streamed"


@checks_arguments
def measure_baselines(
    test: Dataset,
    train: Log,
    ks: Sequence[int] = DEFAULT_KS,
    baselines: BaselineNames = "all",
    budget: BaselineBudget | None = None,
    display: Display | None = None,
) -> tuple[dict[str, Measurement], list[str]]:
    """Measurements of the baselines; and why one that could be there, or was named, is not.

    Args:
        test: The events to measure on.
        train: What the baselines learn from, and what `unseen` excludes.
        ks: Lengths of lists.
        baselines: Which; `all`, their names, or `none`.
        budget: What each may cost; the default one where it is None.
        display: Shows what is learned and measured.

    Raises:
        ConfigError: A baseline's name is not known.
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
    """Those of the baselines that learn in no time, which may be measured on a second part as well."""
    if baselines == "none":
        return "none"
    return [name for name in NAMES if not _has_budget(name) and (baselines == "all" or name in baselines)]


def measurable(baselines: BaselineNames, test: Dataset, train: Log) -> tuple[list[str], list[str]]:
    """Which of the baselines mean something on this split, in the order of reports; and why one named does not.

    `recent_popularity` does where no event of train is later than one of test: elsewhere, also where each query's
    last event is test, "recent" would be the future of many test events. `oracle` does where the truth is known. On a
    streamed log only popularity is measured.

    Raises:
        ConfigError: A baseline's name is not known.
    """
    check_baselines(baselines)
    if baselines == "none":
        return [], []
    reasons = _reasons(test, train)
    wanted = [name for name in NAMES if baselines == "all" or name in baselines]
    notes = [left_out(name, reasons[name]) for name in wanted if name in reasons and baselines != "all"]
    if baselines == "all" and train.in_memory is None:
        notes = [f"The other baselines are not in the table: {STREAMED.replace('it learns', 'they learn')}."]
    return [name for name in wanted if name not in reasons], notes


def _reasons(test: Dataset, train: Log) -> dict[str, str]:
    """Why baselines mean nothing on this split."""
    events = train.in_memory
    if events is None:
        return {name: STREAMED for name in NAMES if name != "popularity"}
    reasons = {}
    if not follows(test, events):
        reasons["recent_popularity"] = "events of train are later than some of test, or have no times"
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
    """Learns one baseline and measures it.

    Args:
        name: One of those that `measurable` gives.
        test: The events to measure on.
        train: What it learns from, and what `unseen` excludes.
        ks: Lengths of lists.
        budget: What it may cost; the default one where it is None.
        machine: Says how fast this machine is; measured again where it is None.
        report: Told the step that runs.

    Raises:
        OverBudgetError: It is estimated to cost more than its budget, or turned out to.
        MissingExtraError: It needs a library that is not installed.
    """
    report("learning")
    if name == "popularity":
        return measure(Popularity(train), test, train.events_of(test), ks, report)
    events = require_in_memory(train, NAMES[name], "popularity, the baseline of a streamed log")
    if not _has_budget(name):
        return measure(_learned_at_once(name, test, events), test, events, ks, report)
    learn: Any = BASELINES[name]
    budget, machine = budget or BaselineBudget(), machine or Machine()
    check_cost(learn.cost(events, machine), budget, machine)
    clock = Clock(budget.seconds, report)
    return measure(learn(events, step=clock), test, events, ks, clock)


def left_out(name: str, reason: object) -> str:
    """The note that says why a baseline is not there."""
    return f"{NAMES[name]} is not in the table: {reason}"


def follows(test: Dataset, train: Dataset) -> bool:
    """Whether all of test happened after train, or at its last instant at the earliest."""
    return train.time is not None and float(train.times.max()) <= float(test.times.min())


def _learned_at_once(name: str, test: Dataset, train: Dataset) -> Scorer:
    if name == "oracle":
        assert test.oracle is not None
        return OracleScorer(test.oracle)
    return BASELINES[name](train)


def _has_budget(name: str) -> bool:
    """Whether a baseline says what it will cost; the others learn in no time."""
    return hasattr(BASELINES[name], "cost")
