"""Metrics made from ranks and from top-k lists, each under two protocols: `all` and `unseen`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from twotower.errors import ConfigError
from twotower.evaluation.intervals import Interval, cluster_interval

DEFAULT_KS = (1, 5, 10, 50, 100)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Metrics = dict[str, float]
"""Metric name (`top_100`, `mrr`, `ndcg_10`, …) to value."""


class Slice(msgspec.Struct, frozen=True):
    """A part of the test events, measured on its own; `evaluation/slices.py` says which parts there are.

    Attributes:
        by: What the events are told apart by: `candidate` or `history`.
        name: Which part: `head`, `new queries`, …
        events: How many events of test are in it.
        all: Top-k accuracy and MRR, nothing excluded.
        unseen: The same, what the query has in train excluded.
    """

    by: str
    name: str
    events: int
    all: Metrics
    unseen: Metrics


class Scores(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model measured under both protocols.

    Attributes:
        all: Nothing excluded from the ranking.
        unseen: What the query has chosen in train excluded, the true candidate never.
        half_widths: Half widths of the 95% intervals of `all.top_100`, `unseen.mrr`, …: how far another draw of
            queries might move the figure; of means over seeds, how far other seeds might. Those not known are
            not there.
        slices: The same model on parts of the events; empty where they were not measured.
    """

    all: Metrics
    unseen: Metrics
    half_widths: Metrics = {}
    slices: list[Slice] = []

    def value(self, metric: str) -> float:
        """The value of `all.top_100`, `unseen.mrr`, …; a bare name means `all`.

        Raises:
            ConfigError: It was not measured.
        """
        protocol, _, name = metric.rpartition(".")
        metrics = {"": self.all, "all": self.all, "unseen": self.unseen}.get(protocol, {})
        if name not in metrics:
            raise ConfigError(
                f"metric {metric!r} was not measured; expected one of {', '.join(self.all)}, after 'all.' or 'unseen.'"
            )
        return metrics[name]

    def interval(self, protocol: str, metric: str) -> Interval:
        """A metric with its 95% interval over the queries, where that was measured."""
        return Interval(self.value(f"{protocol}.{metric}"), self.half_widths.get(f"{protocol}.{metric}"))


def check_ks(ks: Sequence[int]) -> None:
    """Refuses lengths of lists below 1, repeated ones, and none at all."""
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        raise ConfigError(f"k = {list(ks)}; expected distinct whole numbers of at least 1")


def rank_metrics(ranks: FloatArray, ks: Sequence[int] = DEFAULT_KS) -> Metrics:
    """Means over events of what one true candidate's rank says.

    - `top_k`: share of the events whose rank is at most k (hit rate).
    - `mrr`: mean of 1 / rank.
    - `ndcg_k`: mean of 1 / log2(1 + rank) where the rank is at most k, else 0: with one true
      candidate the ideal list's gain is 1.

    Args:
        ranks: Rank of each event's true candidate, from 1; ties make halves, `[N]`.
        ks: Lengths of lists.

    Example:
        >>> rank_metrics(np.array([1.0, 3.0]), ks=[1, 5])
        {'top_1': 0.5, 'top_5': 1.0, 'mrr': 0.6666666666666666, 'ndcg_1': 0.5, 'ndcg_5': 0.75}
    """
    return {metric: float(values.mean()) for metric, values in event_values(ranks, ks).items()}


def rank_half_widths(ranks: FloatArray, queries: IntArray, ks: Sequence[int] = DEFAULT_KS) -> Metrics:
    """Half widths of the 95% intervals of `rank_metrics`, over queries; none where all events are of one query.

    Args:
        ranks: Rank of each event's true candidate, `[N]`.
        queries: Row of each event's query, `[N]`.
        ks: Lengths of lists.
    """
    intervals = {metric: cluster_interval(values, queries) for metric, values in event_values(ranks, ks).items()}
    return {metric: found.half_width for metric, found in intervals.items() if found.half_width is not None}


def event_values(ranks: FloatArray, ks: Sequence[int]) -> dict[str, FloatArray]:
    """What each event adds to the means of `rank_metrics`, `[N]` a metric."""
    gains = 1 / np.log2(1 + ranks)
    return (
        {f"top_{k}": (ranks <= k).astype(np.float64) for k in ks}
        | {"mrr": 1 / ranks}
        | {f"ndcg_{k}": np.where(ranks <= k, gains, 0.0) for k in ks}
    )


def query_metrics(
    ranks: FloatArray, queries: IntArray, candidates: IntArray, ks: Sequence[int] = DEFAULT_KS
) -> Metrics:
    """Means over queries of what the ranks of all their true candidates say.

    With R the distinct true candidates of a query, in ascending order of their ranks r_1, r_2, …:

    - `recall_k`: |{i: r_i ≤ k}| / |R|
    - `precision_k`: |{i: r_i ≤ k}| / k
    - `map_k`: Σ_{i: r_i ≤ k} min(1, i / r_i) / min(|R|, k), the average precision of the list, where
      candidates that tie have their mean rank.

    Args:
        ranks: Rank of each event's true candidate in its query's one list, `[N]`; see `one_list_a_query`.
        queries: Row of each event's query, `[N]`.
        candidates: Row of each event's true candidate, `[N]`.
        ks: Lengths of lists.
    """
    _, first = np.unique(np.stack([queries, candidates], axis=1), axis=0, return_index=True)
    order = first[np.lexsort((ranks[first], queries[first]))]
    sorted_ranks = ranks[order]
    _, start, size = np.unique(queries[order], return_index=True, return_counts=True)
    place = 1 + np.arange(len(order)) - np.repeat(start, size)
    precision_there = np.minimum(1.0, place / sorted_ranks)
    metrics: dict[str, Metrics] = {"recall": {}, "precision": {}, "map": {}}
    for k in ks:
        hit = sorted_ranks <= k
        hits = np.add.reduceat(hit.astype(np.float64), start)
        metrics["recall"][f"recall_{k}"] = float((hits / size).mean())
        metrics["precision"][f"precision_{k}"] = float((hits / k).mean())
        gained = np.add.reduceat(np.where(hit, precision_there, 0.0), start)
        metrics["map"][f"map_{k}"] = float((gained / np.minimum(size, k)).mean())
    return metrics["recall"] | metrics["precision"] | metrics["map"]


class ListStatistics:
    """Coverage and popularity bias of top-k lists, added up block by block.

    - `coverage_k`: share of the catalogue that is in at least one list.
    - `popularity_bias_k`: mean popularity (choices in train) of what is listed, over the mean
      popularity of what was truly chosen. Above 1 the lists are more popular than the choices.

    Args:
        popularity: Choices of each candidate in train, `[C]`.
        ks: Lengths of lists.
    """

    def __init__(self, popularity: FloatArray, ks: Sequence[int]) -> None:
        self.popularity, self.ks = popularity, ks
        self._listed = {k: np.zeros(len(popularity), dtype=bool) for k in ks}
        self._popularity = dict.fromkeys(ks, 0.0)
        self._entries = dict.fromkeys(ks, 0)
        self._chosen_popularity = 0.0
        self._chosen = 0

    def add(self, lists: IntArray, chosen: IntArray) -> None:
        """Counts lists `[n, at least max(ks) or all]`, the best first, −1 for places that nothing fills."""
        self._chosen_popularity += float(self.popularity[chosen].sum())
        self._chosen += len(chosen)
        for k in self.ks:
            listed = lists[:, :k]
            listed = listed[listed >= 0]
            self._listed[k][listed] = True
            self._popularity[k] += float(self.popularity[listed].sum())
            self._entries[k] += len(listed)

    def metrics(self) -> Metrics:
        """What was counted."""
        usual = self._chosen_popularity / self._chosen or 1.0
        bias = {f"popularity_bias_{k}": self._popularity[k] / max(1, self._entries[k]) / usual for k in self.ks}
        return {f"coverage_{k}": float(self._listed[k].mean()) for k in self.ks} | bias
