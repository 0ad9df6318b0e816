"""Which of two scorers is better, judged by the paired difference over the same test events."""

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
"""What an interval says: above zero, below zero, neither; or that there is none."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two scorers that were measured on the same events, once or with several splits and seeds.

    Attributes:
        name: What sentences call the one that is judged.
        own: Its outcomes, one of each repetition.
        rival: What the other is called, or a baseline's key.
        others: Its outcomes, one of each repetition, in the order of `own`, on the same events.
        over_repetitions: Whether a verdict needs the interval over repetitions as well: where both were trained anew.
    """

    name: str
    own: Sequence[Outcomes]
    rival: str
    others: Sequence[Outcomes]
    over_repetitions: bool = True


class Comparison(msgspec.Struct, frozen=True):
    """How much more one scorer has than another under one protocol, event by event.

    Attributes:
        name: The one that is judged.
        rival: The other; a baseline by its key.
        protocol: `all` or `unseen`.
        metric: The metric compared, such as `top_100`.
        difference: Its mean over the events, weighted where they have weights, seeds averaged before.
        half_width: Half width of its interval over queries, which holds together with those of all other
            comparisons of the report with a probability of 95%; None where there are too few queries.
        events: Events of test that are compared: under `unseen` those whose query does not have their candidate in
            train.
        queries: Queries that they are of.
        over_seeds: The difference with its 95% interval over paired seeds, where both have several.
        verdict: `better` where the intervals lie above zero, `worse` where they lie below.
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


def compare(pairs: Sequence[Pair], metric: str) -> list[Comparison]:
    """Judges pairs of scorers under both protocols; the report that says it should hold no other verdicts.

    Args:
        pairs: Who is compared with whom.
        metric: Of `rank_metrics`.

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
    total = len(pairs) * len(PROTOCOLS)
    return [_comparison(pair, protocol, metric, total) for pair in pairs for protocol in PROTOCOLS]


def against_baselines(name: str, own: Sequence[Outcomes], baselines: Mapping[str, Measurement]) -> list[Pair]:
    """A model with each of the baselines that it should beat: all but the oracle.

    Args:
        name: What sentences call the model.
        own: Its outcomes, one of each seed.
        baselines: What was measured beside it.
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
            f"{pair.name} and {NAMES.get(pair.rival, pair.rival)} were measured on different events, or on the same in "
            f"another order; expected the outcomes of one test part"
        )


def _comparison(pair: Pair, protocol: str, metric: str, total: int) -> Comparison:
    """Judges a pair under one protocol.

    Events that repeat a choice of train do not count under `unseen`: of all that the query has in train, their
    candidate alone takes part in the ranking, so that whoever merely recalls train has it on top.

    Repetitions are joined event by event: events of one query are one cluster, whichever split or seed they are of.
    """
    found_each = [_differences(own, other, protocol, metric) for own, other in zip(pair.own, pair.others, strict=True)]
    differences, queries = (np.concatenate(parts) for parts in list(zip(*found_each, strict=True))[:2])
    weights = None if pair.own[0].weights is None else np.concatenate([one[2] for one in found_each])
    found = paired_interval(differences, queries, weights, total)
    if found.half_width is not None and found.half_width >= 1.0:  # as wide as all that a difference can be
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
    """Difference, query and weight of each event that counts under a protocol, `[N]` each."""
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
