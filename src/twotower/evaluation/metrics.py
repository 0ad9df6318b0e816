"""Metrics of ranks and of top-k lists, each under two protocols: `all` and `unseen`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from twotower.arguments import checked, checks_arguments
from twotower.errors import ConfigError
from twotower.evaluation.by_rank import METRICS
from twotower.evaluation.exposed_events import ExposedEvents
from twotower.evaluation.intervals import Interval, cluster_interval, weighted_mean

DEFAULT_KS = (1, 5, 10, 50, 100)

ACRONYMS = {name.lower(): name for name in ("RMSE", "MAE", "AUC", "MAP")}
"""Metrics of tasks whose names are acronyms."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Metrics = dict[str, float]
"""Metric name (`top_100`, `mrr`, `ndcg_10`, …) to value."""


class Slice(msgspec.Struct, frozen=True):
    """A part of the test events, measured separately; `evaluation/slices.py` defines the parts.

    Attributes:
        by: What the events are grouped by: `candidate`, `history` or `choice`.
        name: Name of the part: `head`, `new queries`, …
        events: Number of test events in it, without those of weight 0.
        weight: Sum of their weights, which is how much the slice counts in the overall metrics; the number of events
            if the log has no weights.
        all: Rank metrics with nothing excluded.
        unseen: Rank metrics with the candidates that the query has in train excluded.
    """

    by: str
    name: str
    events: int
    weight: float
    all: Metrics
    unseen: Metrics


class Scores(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model measured under both protocols.

    Attributes:
        all: Metrics with nothing excluded from the ranking.
        unseen: Metrics with the query's choices in train excluded, except for the true candidate.
        half_widths: Half widths of the 95% intervals of `all.top_100`, `unseen.mrr`, …: how much the metric might
            differ with another sample of queries or, for means over seeds, with other seeds. Unknown ones are
            missing.
        slices: The same model on parts of the events; empty if not measured.
        tasks: Metrics of tasks besides retrieval, by task name; without retrieval, `all` and `unseen` are empty.
        new: Rank metrics under `unseen` for new choices only: events whose query does not have the candidate in
            train. Empty if all events are new choices, or none is.
        exposed: Rank metrics among what was shown: of the events with which something was shown and not chosen, each
            true candidate against those. Empty if the log does not say.
        exposed_events: About these events; None if there are none.
    """

    all: Metrics
    unseen: Metrics
    half_widths: Metrics = {}
    slices: list[Slice] = []
    tasks: dict[str, Metrics] = {}
    new: Metrics = {}
    exposed: Metrics = {}
    exposed_events: ExposedEvents | None = None

    @property
    def by_group(self) -> dict[str, Metrics]:
        """All metrics, by protocol or task."""
        shown = {"exposed": self.exposed} if self.exposed else {}
        return {"all": self.all, "unseen": self.unseen, "new": self.new or self.unseen, **shown, **self.tasks}

    def figures(self, scorer: str) -> list[dict[str, Any]]:
        """The metrics of both protocols and among what was shown, as rows of `Evaluation.to_table` under this name."""
        return [
            {
                "scorer": scorer,
                "protocol": protocol,
                "metric": metric,
                "value": value,
                "half_width": self.half_widths.get(f"{protocol}.{metric}"),
            }
            for protocol in ("all", "unseen", "exposed")
            for metric, value in self.by_group.get(protocol, {}).items()
        ]

    def value(self, metric: str) -> float:
        """The value of `all.top_100`, `unseen.mrr`, `rating.rmse`, …; a bare name means `all`.

        Raises:
            ConfigError: The metric was not measured.
        """
        group, _, name = metric.rpartition(".")
        metrics = self.by_group.get(group or "all", {})
        if name not in metrics:
            of_tasks = [f"{task}.{known}" for task, known_metrics in self.tasks.items() for known in known_metrics]
            of_ranks = f"{', '.join(self.all)}, after 'all.', 'unseen.' or 'new.'" if self.all else ""
            expected = " or ".join(filter(None, [of_ranks, ", ".join(of_tasks)]))
            raise ConfigError(f"metric {metric!r} was not measured; expected one of {expected}")
        return metrics[name]

    def merit(self, metric: str) -> float:
        """The value of a metric, negated if the metric is an error, so that higher is better.

        Raises:
            ConfigError: The metric was not measured.

        Example:
            >>> Scores({}, {}, tasks={"rating": {"rmse": 0.9}}).merit("rating.rmse")
            -0.9
        """
        return merit_of(metric, self.value(metric))

    def interval(self, protocol: str, metric: str) -> Interval:
        """A metric with its 95% interval over queries, if measured."""
        return Interval(self.value(f"{protocol}.{metric}"), self.half_widths.get(f"{protocol}.{metric}"))


def is_error(metric: str) -> bool:
    """Whether lower is better for a metric, as for `rating.rmse`."""
    return metric.rpartition(".")[2] in ("rmse", "mae", "log_loss", "calibration_error")


def merit_of(metric: str, value: float) -> float:
    """The value of a metric, negated if the metric is an error, so that higher is better."""
    return -value if is_error(metric) else value


def check_ks(ks: Sequence[int]) -> None:
    """Refuses list lengths that are not whole numbers, below 1 or repeated, and an empty sequence."""
    ks = checked("evaluate", "ks", ks, tuple[int, ...])
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        raise ConfigError(f"k = {list(ks)}; expected distinct whole numbers of at least 1")


def check_ranks(ranks: FloatArray, weights: FloatArray | None) -> None:
    """Refuses invalid ranks and weights.

    Raises:
        ConfigError: One is invalid; names the first.
    """
    checked = {"ranks": (ranks, 1.0)} | ({} if weights is None else {"weights": (weights, 0.0)})
    for name, (values, least) in checked.items():
        if values.ndim != 1 or values.dtype.kind not in "iuf" or len(values) == 0 or len(values) != len(ranks):
            size = "at least one" if name == "ranks" else f"one for each of {len(ranks)} ranks"
            raise ConfigError(
                f"{name} is {values.dtype} {list(values.shape)}; expected numbers [N], {size}", field=name
            )
        wrong = ~((values >= least) & (values < np.inf))
        if wrong.any():
            row = int(wrong.argmax())
            raise ConfigError(
                f"{name}, row {row}: {values[row]:g}; expected a finite number of at least {least:g}",
                field=name,
                row=row,
            )
    if weights is not None and not weights.any():
        raise ConfigError("weights are all 0; expected at least one above 0", field="weights")


@checks_arguments
def rank_metrics(ranks: FloatArray, ks: Sequence[int] = DEFAULT_KS, weights: FloatArray | None = None) -> Metrics:
    """Means over events of functions of the true candidate's rank; weighted if events have weights.

    - `top_k`: share of the events whose rank is at most k (hit rate).
    - `mrr`: mean of 1 / rank.
    - `ndcg_k`: mean of 1 / log2(1 + rank) if the rank is at most k, else 0: with one true
      candidate, the ideal gain is 1.
    - metrics registered by users; see `Metric`.

    Args:
        ranks: Rank of each event's true candidate, from 1; ties may give half ranks, `[N]`.
        ks: Lengths of lists.
        weights: Weight of each event, at least 0, `[N]`; None for equal weights.

    Raises:
        ConfigError: There are no ranks, one is below 1 or not finite, a weight is negative or not finite, or all are 0.

    Example:
        >>> rank_metrics(np.array([1.0, 3.0]), ks=[1, 5])
        {'top_1': 0.5, 'top_5': 1.0, 'mrr': 0.6666666666666666, 'ndcg_1': 0.5, 'ndcg_5': 0.75}
        >>> rank_metrics(np.array([1.0, 3.0]), ks=[1], weights=np.array([3.0, 1.0]))["top_1"]
        0.75
    """
    check_ks(ks)
    check_ranks(ranks, weights)
    return {name: weighted_mean(event_values(ranks, name), weights) for name in rank_metric_names(ks)}


def new_choice_metrics(
    ranks: FloatArray, repeats: npt.NDArray[np.bool_], ks: Sequence[int], weights: FloatArray | None = None
) -> Metrics:
    """`rank_metrics` over new choices; empty if all events are new choices, or none is.

    Args:
        ranks: Rank of each event's true candidate under `unseen`, `[N]`.
        repeats: Whether the query has this candidate in train, `[N]`.
        ks: Lengths of lists.
        weights: Weight of each event, `[N]`; None for equal weights.
    """
    if repeats.all() or not repeats.any():
        return {}
    return rank_metrics(ranks[~repeats], ks, None if weights is None else weights[~repeats])


def rank_half_widths(
    ranks: FloatArray, queries: IntArray, ks: Sequence[int] = DEFAULT_KS, weights: FloatArray | None = None
) -> Metrics:
    """Half widths of the 95% intervals of `rank_metrics` over queries; empty if all events are of one query.

    Args:
        ranks: Rank of each event's true candidate, `[N]`.
        queries: Row of each event's query, `[N]`.
        ks: Lengths of lists.
        weights: Weight of each event, `[N]`; None for equal weights.
    """
    intervals = {name: cluster_interval(event_values(ranks, name), queries, weights) for name in rank_metric_names(ks)}
    return {name: found.half_width for name, found in intervals.items() if found.half_width is not None}


def rank_metric_names(ks: Sequence[int]) -> list[str]:
    """Names of the metrics of `rank_metrics`, in order: one per kind, or one per kind and length of list."""
    return [name for kind in METRICS for name in ([f"{kind}_{k}" for k in ks] if METRICS[kind].by_length else [kind])]


def event_values(ranks: FloatArray, metric: str) -> FloatArray:
    """Contribution of each event to the mean of a metric of `rank_metrics`, `[N]`.

    Raises:
        ConfigError: The metric is unknown.

    Example:
        >>> event_values(np.array([1.0, 3.0]), "top_2").tolist()
        [1.0, 0.0]
    """
    kind, k = _parsed(metric)
    return METRICS[kind]().values(ranks, k)


def verdict_metric(ks: Sequence[int], candidates: int) -> str:
    """The metric that models are compared by: top-k for the largest k below the catalogue size, or MRR if none is.

    Example:
        >>> verdict_metric([3, 20], candidates=1682), verdict_metric([3, 20], candidates=2)
        ('top_20', 'mrr')
    """
    return f"top_{max(shorter)}" if (shorter := [k for k in ks if k < candidates]) else "mrr"


def metric_label(metric: str) -> str:
    """Name of a metric in sentences and headings, with its protocol or task if it has one.

    Example:
        >>> metric_label("top_100"), metric_label("unseen.ndcg_10"), metric_label("rating.rmse")
        ('top-100', 'unseen NDCG@10', 'rating RMSE')
    """
    group, _, metric = metric.rpartition(".")
    if group:
        return f"{group} {metric_label(metric)}"
    kind, k = metric, ""
    if metric not in METRICS and metric[-1:].isdigit():
        kind, _, k = metric.rpartition("_")
    label = METRICS[kind].label if kind in METRICS else ACRONYMS.get(kind, kind.replace("_", " "))
    if not k:
        return label
    return f"{label}-{k}" if kind == "top" else f"{label}@{k}"


@checks_arguments
def query_metrics(
    ranks: FloatArray,
    queries: IntArray,
    candidates: IntArray,
    ks: Sequence[int] = DEFAULT_KS,
    weights: FloatArray | None = None,
) -> Metrics:
    """Means over queries of metrics of the ranks of all their true candidates.

    With R the distinct true candidates of a query, in ascending order of their ranks r_1, r_2, …:

    - `recall_k`: |{i: r_i ≤ k}| / |R|
    - `precision_k`: |{i: r_i ≤ k}| / k
    - `map_k`: Σ_{i: r_i ≤ k} min(1, i / r_i) / min(|R|, k), the average precision of the list, where
      tied candidates get their mean rank.

    The true candidates of a query form a set; event weights do not matter within it. If events have weights, the
    weight of a query in the mean is the mean weight of its events.

    Args:
        ranks: Rank of each event's true candidate in its query's one list, `[N]`; see `one_list_a_query`.
        queries: Row of each event's query, `[N]`.
        candidates: Row of each event's true candidate, `[N]`.
        ks: Lengths of lists.
        weights: Weight of each event, at least 0, `[N]`; None for equal weights.

    Raises:
        ConfigError: As `rank_metrics`, or `queries` or `candidates` are not row numbers (integers from 0), one per
            rank.
    """
    check_ks(ks)
    check_ranks(ranks, weights)
    for name, rows in (("queries", queries), ("candidates", candidates)):
        if rows.shape != ranks.shape or rows.dtype.kind not in "iu" or rows.min() < 0:
            raise ConfigError(
                f"{name} is {rows.dtype} {list(rows.shape)}; expected {len(ranks)} row numbers of at least 0",
                field=name,
            )
    _, first = np.unique(np.stack([queries, candidates], axis=1), axis=0, return_index=True)
    order = first[np.lexsort((ranks[first], queries[first]))]
    sorted_ranks = ranks[order]
    _, start, size = np.unique(queries[order], return_index=True, return_counts=True)
    place = 1 + np.arange(len(order)) - np.repeat(start, size)
    precision_there = np.minimum(1.0, place / sorted_ranks)
    counts = None if weights is None else _mean_weights(queries, weights)
    metrics: dict[str, Metrics] = {"recall": {}, "precision": {}, "map": {}}
    for k in ks:
        hit = sorted_ranks <= k
        hits = np.add.reduceat(hit.astype(np.float64), start)
        metrics["recall"][f"recall_{k}"] = weighted_mean(hits / size, counts)
        metrics["precision"][f"precision_{k}"] = weighted_mean(hits / k, counts)
        gained = np.add.reduceat(np.where(hit, precision_there, 0.0), start)
        metrics["map"][f"map_{k}"] = weighted_mean(gained / np.minimum(size, k), counts)
    return metrics["recall"] | metrics["precision"] | metrics["map"]


def _parsed(metric: str) -> tuple[str, int | None]:
    """The kind of a metric and its length of list."""
    if metric in METRICS and not METRICS[metric].by_length:
        return metric, None
    kind, _, k = metric.rpartition("_")
    if kind in METRICS and METRICS[kind].by_length and k.isdigit():
        return kind, int(k)
    kinds = (f"{kind}_K" if METRICS[kind].by_length else kind for kind in METRICS)
    raise ConfigError(f"metric {metric!r} is unknown; expected one of {', '.join(kinds)}")


def _mean_weights(queries: IntArray, weights: FloatArray) -> FloatArray:
    """Mean event weight of each query with events, in row order."""
    events = np.bincount(queries)
    return (np.bincount(queries, weights) / np.maximum(events, 1))[events > 0]


class ListStatistics:
    """Coverage and popularity bias of top-k lists, accumulated block by block.

    - `coverage_k`: share of the catalogue that is in at least one list.
    - `popularity_bias_k`: mean popularity (choices in train) of the listed candidates, divided by that of the
      true candidates. Above 1, the lists are more popular than the actual choices. Both means are weighted if
      events have weights.

    Args:
        popularity: Number of choices of each candidate in train, `[C]`.
        ks: Lengths of lists.
    """

    def __init__(self, popularity: FloatArray, ks: Sequence[int]) -> None:
        self.popularity, self.ks = popularity, ks
        self._listed = {k: np.zeros(len(popularity), dtype=bool) for k in ks}
        self._popularity = dict.fromkeys(ks, 0.0)
        self._entries = dict.fromkeys(ks, 0.0)
        self._chosen_popularity = 0.0
        self._chosen = 0.0

    def add(self, lists: IntArray, chosen: IntArray, weights: FloatArray | None = None) -> None:
        """Adds lists `[n, at least max(ks), or all candidates]`, best first, with −1 for empty places.

        Args:
            lists: Candidates in each event's list.
            chosen: True candidate of each event, `[n]`.
            weights: Weight of each event, above 0, `[n]`; None for equal weights.
        """
        counts = np.ones(len(chosen)) if weights is None else weights
        self._chosen_popularity += float((counts * self.popularity[chosen]).sum())
        self._chosen += float(counts.sum())
        for k in self.ks:
            listed = lists[:, :k]
            filled = listed >= 0
            self._listed[k][listed[filled]] = True
            self._popularity[k] += float(counts @ np.where(filled, self.popularity[listed], 0.0).sum(axis=1))
            self._entries[k] += float(counts @ filled.sum(axis=1))

    def metrics(self) -> Metrics:
        """The metrics so far."""
        usual = self._chosen_popularity / self._chosen or 1.0
        bias = {f"popularity_bias_{k}": self._popularity[k] / (self._entries[k] or 1.0) / usual for k in self.ks}
        return {f"coverage_{k}": float(self._listed[k].mean()) for k in self.ks} | bias
