"""`TaskEvaluation`: the metrics of a model and of baselines on one task, and whether the model beats them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from rich.table import Table

from twotower.evaluation.comparisons import Verdict
from twotower.evaluation.grid import Grid, notes_html
from twotower.evaluation.intervals import Interval, mean_interval, paired_interval, weighted_mean
from twotower.evaluation.metrics import FloatArray, IntArray, Metrics, is_error, metric_label
from twotower.evaluation.predictions import ReliabilityBin
from twotower.evaluation.verdicts import listed


class TaskScores(msgspec.Struct, frozen=True):
    """Scores of one scorer on one task.

    Attributes:
        metrics: Metrics by name, such as `rmse` or `ndcg_10`.
        half_widths: Half widths of their 95% intervals over queries or seeds; unknown ones are missing.
        reliability: Mean predictions and targets, from the lowest to the highest predictions; empty for lists.
    """

    metrics: Metrics
    half_widths: Metrics = {}
    reliability: list[ReliabilityBin] = []

    def interval(self, metric: str) -> Interval:
        """A metric with its interval."""
        return Interval(self.metrics[metric], self.half_widths.get(metric))


class TaskComparison(msgspec.Struct, frozen=True):
    """Difference between the model and a baseline, paired by event or list.

    Attributes:
        rival: The baseline's key.
        label: Its name in sentences.
        metric: The metric compared.
        difference: The model's metric minus the baseline's.
        half_width: Half width of its interval over queries. The intervals for all baselines hold together with a
            probability of 95%. None if there are too few queries.
        verdict: The verdict from the interval; for an error, lower is better.
    """

    rival: str
    label: str
    metric: str
    difference: float
    half_width: float | None
    verdict: Verdict


class TaskEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Evaluation of one task.

    Attributes:
        task: Name of the task.
        kind: Its kind.
        metric: The metric that the model and the baselines are compared by.
        units: What the means are taken over: `events` or `lists`.
        count: Number of units.
        rows: Scores by name: `model` and the baselines.
        labels: Labels of the baselines in tables.
        comparisons: Comparison of the model with each baseline.
        notes: The results in sentences.
    """

    task: str
    kind: str
    metric: str
    units: str
    count: int
    rows: dict[str, TaskScores]
    labels: dict[str, str]
    comparisons: list[TaskComparison]
    notes: list[str]

    @property
    def model(self) -> TaskScores:
        """The model's scores."""
        return self.rows["model"]

    def table(self) -> Table:
        """All metrics of the model and the baselines, as a table for the terminal."""
        return self.grid().rich()

    def grid(self) -> Grid:
        """All metrics of the model and the baselines."""
        metrics = list(self.model.metrics)
        rows = [
            [self.labels.get(name, name), *(_shown(one, metric) for metric in metrics)]
            for name, one in self.rows.items()
        ]
        strong = frozenset(number for number, name in enumerate(self.rows) if name == "model")
        return Grid([self.task, *map(metric_label, metrics)], rows, strong=strong)

    def reliability_grid(self) -> Grid:
        """The model's mean predictions and targets, from the lowest to the highest."""
        rows = [[f"{one.weight:,.0f}", f"{one.predicted:.4f}", f"{one.actual:.4f}"] for one in self.model.reliability]
        return Grid([self.units, "predicted", "actual"], rows, words=0)

    def figures(self) -> list[dict[str, Any]]:
        """All metrics of all scorers, as rows of `Evaluation.to_table`."""
        return [
            {
                "scorer": name,
                "protocol": self.task,
                "metric": metric,
                "value": value,
                "half_width": one.half_widths.get(metric),
            }
            for name, one in self.rows.items()
            for metric, value in one.metrics.items()
        ]

    def _repr_html_(self) -> str:
        """HTML for notebooks."""
        curve = self.reliability_grid().html("reliability") if self.model.reliability else ""
        return self.grid().html() + curve + notes_html(self.notes)


@dataclass(frozen=True, eq=False)
class Measured:
    """A scorer's scores, with the values of each unit behind them.

    Attributes:
        scores: The metrics.
        values: Contribution of each unit to the compared metric, `[U]`.
        is_root: Whether the metric is the square root of the mean of `values`.
    """

    scores: TaskScores
    values: FloatArray
    is_root: bool = False


@dataclass(frozen=True, eq=False)
class Units:
    """The units that a task's means are taken over.

    Attributes:
        name: `events` or `lists`.
        queries: Row of each unit's query, `[U]`.
        weights: Weight of each unit, `[U]`; None for equal weights.
    """

    name: str
    queries: IntArray
    weights: FloatArray | None = field(default=None)


def evaluated(
    task: str,
    kind: str,
    metric: str,
    units: Units,
    model: Measured,
    baselines: Mapping[str, tuple[str, Measured]],
    notes: Sequence[str] = (),
) -> TaskEvaluation:
    """Compares the model with the baselines.

    Args:
        task: Name of the task.
        kind: Its kind.
        metric: The metric to compare by.
        units: The units that were measured.
        model: The model's measurement.
        baselines: By key: label in sentences, and measurement.
        notes: Further sentences.
    """
    comparisons = [
        _comparison(key, label, metric, model, other, units, len(baselines))
        for key, (label, other) in baselines.items()
    ]
    return TaskEvaluation(
        task=task,
        kind=kind,
        metric=metric,
        units=units.name,
        count=len(units.queries),
        rows={"model": model.scores} | {key: other.scores for key, (_, other) in baselines.items()},
        labels={key: label for key, (label, _) in baselines.items()},
        comparisons=comparisons,
        notes=[*task_sentences(task, comparisons), *notes],
    )


def task_sentences(task: str, comparisons: Sequence[TaskComparison], model: str = "the model") -> list[str]:
    """One sentence for all baselines with the same verdict, with the difference to the closest one.

    Example:
        >>> found = [TaskComparison("means", "means", "rmse", -0.03, 0.01, "better")]
        >>> task_sentences("rating", found)
        ['Rating: the model beats means (RMSE −0.0300 ± 0.0100).']
    """
    groups: dict[Verdict, list[TaskComparison]] = {}
    for one in comparisons:
        groups.setdefault(one.verdict, []).append(one)
    return [_sentence(task, verdict, same, model) for verdict, same in groups.items()]


def mean_task_scores(scores: Sequence[TaskScores]) -> TaskScores:
    """Means over repetitions, with intervals over them; a single repetition is returned unchanged."""
    if len(scores) == 1:
        return scores[0]
    found = {name: mean_interval([one.metrics[name] for one in scores]) for name in scores[0].metrics}
    half_widths = {name: one.half_width for name, one in found.items() if one.half_width is not None}
    return TaskScores({name: one.mean for name, one in found.items()}, half_widths, scores[0].reliability)


def _comparison(
    key: str, label: str, metric: str, model: Measured, other: Measured, units: Units, total: int
) -> TaskComparison:
    found = paired_interval(model.values - other.values, units.queries, units.weights, total)
    factor = 1.0
    if model.is_root:  # √a − √b = (a − b) / (√a + √b)
        roots = sum(weighted_mean(one.values, units.weights) ** 0.5 for one in (model, other))
        factor = 1 / roots if roots > 0 else 0.0
    half_width = None if found.half_width is None else factor * found.half_width
    return TaskComparison(key, label, metric, factor * found.mean, half_width, _verdict(found, metric))


def _verdict(found: Interval, metric: str) -> Verdict:
    if found.half_width is None:
        return "too few queries"
    if found.low <= 0 <= found.high:
        return "not significantly different"
    return "better" if (found.high < 0) == is_error(metric) else "worse"


def _sentence(task: str, verdict: Verdict, same: Sequence[TaskComparison], model: str) -> str:
    names = listed([one.label for one in same], "or" if verdict == "not significantly different" else "and")
    start, label = task[:1].upper() + task[1:], metric_label(same[0].metric)
    if verdict == "too few queries":
        return f"{start}: the queries of test are too few, or too unequal, to tell whether {model} beats {names}."
    verbs = {"better": "beats", "worse": "is worse than"}
    closest = min(same, key=lambda one: abs(one.difference))
    of_which = f"; closest is {closest.label}:" if len(same) > 1 else ""
    figure = f"{_signed(closest.difference)} ± {closest.half_width:.4f}"
    verb = verbs.get(verdict, "is not significantly different from")
    return f"{start}: {model} {verb} {names} ({label}{of_which} {figure})."


def _signed(number: float) -> str:
    return f"{number:+.4f}".replace("-", "−")


def _shown(scores: TaskScores, metric: str) -> str:
    return str(scores.interval(metric))
