"""Which of two scorers is better: judged by the paired difference over the same test events, and said in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from twotower.errors import DataError
from twotower.evaluation.intervals import Interval, mean_interval, paired_interval, weighted_mean
from twotower.evaluation.measure import FLOORS, NAMES, Measurement
from twotower.evaluation.metrics import FloatArray, metric_label
from twotower.evaluation.outcomes import PROTOCOLS, Outcomes

Verdict = Literal["better", "worse", "not significantly different", "too few queries"]
"""What an interval says: above zero, below zero, neither; or that there is none."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two scorers that were measured on the same events.

    Attributes:
        name: What sentences call the one that is judged.
        own: Its outcomes: one, or one of each seed.
        rival: What the other is called, or a baseline's key.
        others: Its outcomes: one, or one of each seed, in the order of `own`.
    """

    name: str
    own: Sequence[Outcomes]
    rival: str
    others: Sequence[Outcomes]


class Comparison(msgspec.Struct, frozen=True):
    """How much more one scorer has than another under one protocol, event by event.

    Attributes:
        name: The one that is judged.
        rival: The other; a baseline by its key.
        protocol: `all` or `unseen`.
        metric: The metric compared, such as `top_100`.
        difference: Its mean over the events of test (weighted where they have weights), seeds averaged before.
        half_width: Half width of its interval over queries, which holds together with those of all other
            comparisons of the report with a probability of 95%; None where there are too few queries.
        queries: Queries that the events are of.
        over_seeds: The difference with its 95% interval over paired seeds, where both have several.
        verdict: `better` where the intervals lie above zero, `worse` where they lie below.
    """

    name: str
    rival: str
    protocol: str
    metric: str
    difference: float
    half_width: float | None
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
        >>> best, worst = (Outcomes(np.full((2, 200), rank, dtype=np.float32), clicks) for rank in (1, 9))
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
    return [Pair(name, own, key, [baselines[key].outcomes]) for key in FLOORS if key in baselines]


def _require_same_events(pair: Pair) -> None:
    first = pair.own[0]
    if not all(np.array_equal(first.queries, one.queries) for one in (*pair.own, *pair.others)):
        raise DataError(
            f"{pair.name} and {NAMES.get(pair.rival, pair.rival)} were measured on different events, or on the same in "
            f"another order; expected the outcomes of one test part"
        )


def _comparison(pair: Pair, protocol: str, metric: str, total: int) -> Comparison:
    first = pair.own[0]
    own, others = (_mean_values(each, protocol, metric) for each in (pair.own, pair.others))
    found = paired_interval(own - others, first.queries, first.weights, total)
    over_seeds = None
    if min(len(pair.own), len(pair.others)) > 1:
        over_seeds = mean_interval(
            [
                weighted_mean(one.values(protocol, metric) - other.values(protocol, metric), one.weights)
                for one, other in zip(pair.own, pair.others, strict=True)
            ]
        )
    return Comparison(
        name=pair.name,
        rival=pair.rival,
        protocol=protocol,
        metric=metric,
        difference=found.mean,
        half_width=found.half_width,
        queries=len(np.unique(first.queries)),
        over_seeds=over_seeds,
        verdict=_verdict(found, over_seeds),
    )


def _mean_values(outcomes: Sequence[Outcomes], protocol: str, metric: str) -> FloatArray:
    """What each event adds to a metric, averaged over the seeds, `[N]`."""
    mean: FloatArray = np.mean([one.values(protocol, metric) for one in outcomes], axis=0)
    return mean


def _verdict(over_queries: Interval, over_seeds: Interval | None) -> Verdict:
    if over_queries.half_width is None:
        return "too few queries"
    intervals = [over_queries] if over_seeds is None else [over_queries, over_seeds]
    if all(interval.low > 0 for interval in intervals):
        return "better"
    return "worse" if all(interval.high < 0 for interval in intervals) else "not significantly different"


def verdict_sentences(comparisons: Sequence[Comparison], better: str = "beats") -> list[str]:
    """One sentence for all rivals of a scorer that get the same verdicts, with the differences and their intervals.

    Args:
        comparisons: What `compare` gave.
        better: The verb of a difference above zero.

    Example:
        >>> found = [
        ...     Comparison("[32]", "ease", protocol, "top_100", 0.03, 0.01, 900, None, "better")
        ...     for protocol in ("all", "unseen")
        ... ]
        >>> verdict_sentences(found)
        ['[32] beats EASE under both protocols (top-100: +0.0300 ± 0.0100 all, +0.0300 ± 0.0100 unseen).']
    """
    rivals: dict[tuple[str, str], dict[str, Comparison]] = {}
    for one in comparisons:
        rivals.setdefault((one.name, one.rival), {})[one.protocol] = one
    groups: dict[tuple[str, tuple[Verdict, ...]], list[dict[str, Comparison]]] = {}
    for (name, _), found in rivals.items():
        verdicts = tuple(found[protocol].verdict for protocol in PROTOCOLS)
        groups.setdefault((name, verdicts), []).append(found)
    sentences = [_sentence(name, verdicts, same, better) for (name, verdicts), same in groups.items()]
    return [sentence[0].upper() + sentence[1:] for sentence in sentences]


def interval_note(comparisons: Sequence[Comparison]) -> list[str]:
    """What the intervals of the sentences are; nothing where no comparison has one."""
    known = [one for one in comparisons if one.half_width is not None]
    if not known:
        return []
    together = f", wide enough for all {len(comparisons)} comparisons at once" if len(comparisons) > 1 else ""
    return [f"Differences are paired by event; ± is their 95% interval over {known[0].queries:,} queries{together}."]


def _sentence(name: str, verdicts: tuple[Verdict, ...], same: Sequence[Mapping[str, Comparison]], better: str) -> str:
    first = same[0][PROTOCOLS[0]]
    names = [NAMES.get(own, own) for own in (found[PROTOCOLS[0]].rival for found in same)]
    rivals = listed(names, "or" if verdicts[0] == "not significantly different" else "and")
    label = metric_label(first.metric)
    if "too few queries" in verdicts:
        return (
            f"The {first.queries:,} queries of test, or the few that have most of its events, are too few to tell "
            f"whether {name} {better} {listed(names, 'or')} ({label})."
        )
    if len(set(verdicts)) == 1:
        said = f"{_verb(verdicts[0], better)} {rivals} under both protocols"
    else:
        it = "it" if len(names) == 1 else "them"
        said = f"{_verb(verdicts[0], better)} {rivals} under all, {_verb(verdicts[1], better)} {it} under unseen"
    figures = [", ".join(_figure(found[protocol]) for protocol in PROTOCOLS) for found in same]
    if len(names) > 1:
        figures = [f"{rival} {figure}" for rival, figure in zip(names, figures, strict=True)]
    return f"{name} {said} ({label}: {'; '.join(figures)})."


def _verb(verdict: Verdict, better: str) -> str:
    verbs = {
        "better": better,
        "worse": "is worse than",
        "not significantly different": "is not significantly different from",
    }
    return verbs[verdict]


def _figure(found: Comparison) -> str:
    seeds = f" over queries and ± {found.over_seeds.half_width:.4f} over seeds," if found.over_seeds is not None else ""
    return f"{found.difference:+.4f} ± {found.half_width:.4f}{seeds} {found.protocol}"


def listed(words: Sequence[str], word: str = "and") -> str:
    """Words as a sentence lists them.

    Example:
        >>> listed(["popularity", "EASE", "iALS"])
        'popularity, EASE and iALS'
    """
    return f" {word} ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
