"""Compares two scorers by the paired difference over the same test events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from twotower.errors import DataError
from twotower.evaluation.baselines.names import FLOORS, NAMES
from twotower.evaluation.intervals import Interval, mean_interval, paired_interval, weighted_mean
from twotower.evaluation.measure import Measurement
from twotower.evaluation.metrics import FloatArray, IntArray
from twotower.evaluation.outcomes import PROTOCOLS, Outcomes

Verdict = Literal["better", "worse", "not significantly different", "too few queries"]
"""The interval is above zero, below zero, or contains zero; or there is no interval."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two scorers measured on the same events, once or over several splits and seeds.

    Attributes:
        name: Name of the scorer being judged, in sentences.
        own: Its outcomes, one per repetition.
        rival: Name of the other scorer, or a baseline's key.
        others: The other's outcomes, one per repetition, on the same events and in the order of `own`.
        over_repetitions: Whether the verdict also needs the interval over repetitions, because both were retrained.
    """

    name: str
    own: Sequence[Outcomes]
    rival: str
    others: Sequence[Outcomes]
    over_repetitions: bool = True


class Comparison(msgspec.Struct, frozen=True):
    """Difference between two scorers under one protocol, paired by event.

    Attributes:
        name: The scorer being judged.
        rival: The other scorer; the key if it is a baseline.
        protocol: `all` or `unseen`.
        metric: The metric compared, such as `top_100`.
        difference: Mean difference over the events (weighted if they have weights), averaged over seeds.
        half_width: Half width of its interval over queries. The intervals of all comparisons in the report hold
            together with a probability of 95%. None if there are too few queries.
        events: Number of test events compared; under `unseen`, only those whose query does not have the candidate in
            train.
        queries: Number of queries with such events.
        over_seeds: The difference with its 95% interval over paired seeds, if both scorers have several.
        verdict: `better` if the intervals are above zero, `worse` if they are below.
    """

    name: str
    rival: str
    protocol: str
    metric: str
    difference: float
    half_width: float | None
    events: int
    queries: int
    over_seeds: Interval | None
    verdict: Verdict


def compare(pairs: Sequence[Pair], *metrics: str) -> list[Comparison]:
    """Judges pairs of scorers under both protocols.

    Pass all pairs and metrics of a report in one call, since the intervals are widened to hold for all of them at once.

    Args:
        pairs: The pairs to compare.
        metrics: Metrics of `rank_metrics`.

    Raises:
        DataError: Two scorers were measured on different events.

    Example:
        >>> clicks = np.repeat(np.arange(40), 5)  # 40 queries of five events each
        >>> best, worst = (Outcomes(np.full((2, 200), rank), clicks, clicks < 0) for rank in (1, 9))
        >>> [found] = [one for one in compare([Pair("[32]", [best], "ease", [worst])], "mrr") if one.protocol == "all"]
        >>> found.verdict, round(found.difference, 3)
        ('better', 0.889)
    """
    for pair in pairs:
        _require_same_events(pair)
    total = len(metrics) * len(pairs) * len(PROTOCOLS)
    return [
        _comparison(pair, protocol, metric, total) for metric in metrics for pair in pairs for protocol in PROTOCOLS
    ]


def against_baselines(name: str, own: Sequence[Outcomes], baselines: Mapping[str, Measurement]) -> list[Pair]:
    """Pairs of a model with each baseline that it should beat: all but the oracle.

    Args:
        name: Name of the model in sentences.
        own: Its outcomes, one per seed.
        baselines: Measurements of the baselines.
    """
    return [
        Pair(name, own, key, [baselines[key].outcomes] * len(own), over_repetitions=False)
        for key in FLOORS
        if key in baselines
    ]


def _require_same_events(pair: Pair) -> None:
    same = len(pair.own) == len(pair.others) and all(
        np.array_equal(one.queries, other.queries) for one, other in zip(pair.own, pair.others, strict=True)
    )
    if not same:
        raise DataError(
            f"{pair.name} and {NAMES.get(pair.rival, pair.rival)} were measured on different events, or in a "
            f"different order; expected the outcomes of one test part"
        )


def _comparison(pair: Pair, protocol: str, metric: str, total: int) -> Comparison:
    """Judges a pair under one protocol.

    Events that repeat a choice from train do not count under `unseen`. Their candidate is the only one of the query's
    train candidates that is not excluded, so a scorer that merely memorises train ranks it first.

    Repetitions are concatenated: all events of a query form one cluster, whatever their split or seed.
    """
    found_each = [_differences(own, other, protocol, metric) for own, other in zip(pair.own, pair.others, strict=True)]
    differences, queries = (np.concatenate(parts) for parts in list(zip(*found_each, strict=True))[:2])
    weights = None if pair.own[0].weights is None else np.concatenate([one[2] for one in found_each])
    found = paired_interval(differences, queries, weights, total)
    if found.half_width is not None and found.half_width >= 1.0:  # as wide as the range of possible differences
        found = Interval(found.mean)
    over_seeds = None
    if len(pair.own) > 1 and pair.over_repetitions:
        over_seeds = mean_interval(
            [weighted_mean(each, None if weights is None else own) for each, _, own in found_each]
        )
    return Comparison(
        name=pair.name,
        rival=pair.rival,
        protocol=protocol,
        metric=metric,
        difference=found.mean,
        half_width=found.half_width,
        events=len(found_each[0][0]),
        queries=len(np.unique(queries)),
        over_seeds=over_seeds,
        verdict=_verdict(found, over_seeds),
    )


def _differences(own: Outcomes, other: Outcomes, protocol: str, metric: str) -> tuple[FloatArray, IntArray, FloatArray]:
    """Difference, query and weight of each event that counts under the protocol, `[N]` each."""
    counted = ~own.repeats if protocol == "unseen" else np.ones(len(own.queries), dtype=bool)
    difference = own.values(protocol, metric)[counted] - other.values(protocol, metric)[counted]
    weights = np.ones(len(difference)) if own.weights is None else own.weights[counted]
    return difference, own.queries[counted], weights


def _verdict(over_queries: Interval, over_seeds: Interval | None) -> Verdict:
    if over_queries.half_width is None:
        return "too few queries"
    intervals = [over_queries] if over_seeds is None else [over_queries, over_seeds]
    if all(interval.low > 0 for interval in intervals):
        return "better"
    return "worse" if all(interval.high < 0 for interval in intervals) else "not significantly different"
