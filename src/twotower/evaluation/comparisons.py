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
from twotower.evaluation.metrics import metric_label
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
    return [Pair(name, own, key, [baselines[key].outcomes]) for key in FLOORS if key in baselines]


def _require_same_events(pair: Pair) -> None:
    first = pair.own[0]
    if not all(np.array_equal(first.queries, one.queries) for one in (*pair.own, *pair.others)):
        raise DataError(
            f"{pair.name} and {NAMES.get(pair.rival, pair.rival)} were measured on different events, or on the same in "
            f"another order; expected the outcomes of one test part"
        )


def _comparison(pair: Pair, protocol: str, metric: str, total: int) -> Comparison:
    """Judges a pair under one protocol.

    Events that repeat a choice of train do not count under `unseen`: of all that the query has in train, their
    candidate alone takes part in the ranking, so that whoever merely recalls train has it on top.
    """
    first = pair.own[0]
    counted = ~first.repeats if protocol == "unseen" else np.ones(len(first.queries), dtype=bool)
    own, others = (
        np.stack([one.values(protocol, metric)[counted] for one in each]) for each in (pair.own, pair.others)
    )  # [seeds, counted events]
    queries, weights = first.queries[counted], None if first.weights is None else first.weights[counted]
    found = paired_interval(own.mean(axis=0) - others.mean(axis=0), queries, weights, total)
    if found.half_width is not None and found.half_width >= 1.0:  # as wide as all that a difference can be
        found = Interval(found.mean)
    over_seeds = None
    if min(len(own), len(others)) > 1:
        over_seeds = mean_interval(
            [weighted_mean(one - other, weights) for one, other in zip(own, others, strict=True)]
        )
    return Comparison(
        name=pair.name,
        rival=pair.rival,
        protocol=protocol,
        metric=metric,
        difference=found.mean,
        half_width=found.half_width,
        events=len(queries),
        queries=len(np.unique(queries)),
        over_seeds=over_seeds,
        verdict=_verdict(found, over_seeds),
    )


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
        ...     Comparison("[32]", "ease", protocol, "top_100", 0.03, 0.01, 9000, 900, None, "better")
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
    notes = [f"Differences are paired by event; ± is their 95% interval over {known[0].queries:,} queries{together}."]
    counts = {one.protocol: one.events for one in known}
    repeats = counts.get("all", 0) - counts.get("unseen", counts.get("all", 0))
    if repeats:
        notes.append(
            f"Differences under unseen leave out the {repeats:,} test events whose query has their candidate in train: "
            "of all that it has there, that one alone is ranked."
        )
    return notes


def _sentence(name: str, verdicts: tuple[Verdict, ...], same: Sequence[Mapping[str, Comparison]], better: str) -> str:
    """What holds for a scorer and all rivals with the same verdicts, under both protocols."""
    names = [NAMES.get(own, own) for own in (found[PROTOCOLS[0]].rival for found in same)]
    label = metric_label(same[0][PROTOCOLS[0]].metric)
    judged = {
        protocol: verdict for protocol, verdict in zip(PROTOCOLS, verdicts, strict=True) if verdict != "too few queries"
    }
    if not judged:
        queries = same[0][PROTOCOLS[0]].queries
        return (
            f"The {queries:,} queries of test are too few, or too unequal, to tell whether {name} {better} "
            f"{listed(names, 'or')} ({label})."
        )
    figures = [", ".join(_figure(found[protocol]) for protocol in judged) for found in same]
    if len(names) > 1:
        figures = [f"{rival} {figure}" for rival, figure in zip(names, figures, strict=True)]
    unjudged = [protocol for protocol in PROTOCOLS if protocol not in judged]
    missing = "".join(f"; under {protocol}, too few queries are left to tell" for protocol in unjudged)
    return f"{name} {_judged(names, judged, better)} ({label}: {'; '.join(figures)}){missing}."


def _judged(names: Sequence[str], judged: Mapping[str, Verdict], better: str) -> str:
    """Verbs and rivals: `beats popularity and EASE under both protocols`."""
    (protocol, verdict), *others = judged.items()
    rivals = listed(names, "or" if verdict == "not significantly different" else "and")
    if set(judged.values()) == {verdict}:
        return f"{_verb(verdict, better)} {rivals} under {'both protocols' if others else protocol}"
    it = "it" if len(names) == 1 else "them"
    rest = "".join(f" and {_verb(other, better)} {it} under {name}" for name, other in others)
    return f"{_verb(verdict, better)} {rivals} under {protocol}{rest}"


def _verb(verdict: Verdict, better: str) -> str:
    verbs = {
        "better": better,
        "worse": "is worse than",
        "not significantly different": "is not significantly different from",
    }
    return verbs[verdict]


def _figure(found: Comparison) -> str:
    if found.over_seeds is None:
        return f"{found.difference:+.4f} ± {found.half_width:.4f} {found.protocol}"
    return (
        f"{found.difference:+.4f} ± {found.half_width:.4f} over queries and ± {found.over_seeds.half_width:.4f} over "
        f"seeds {found.protocol}"
    )


def listed(words: Sequence[str], word: str = "and") -> str:
    """Words as a sentence lists them.

    Example:
        >>> listed(["popularity", "EASE", "iALS"])
        'popularity, EASE and iALS'
    """
    return f" {word} ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
