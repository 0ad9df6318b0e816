"""What a study's figures say: which comparisons it makes, and what comes of them in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from twotower.evaluation.comparisons import (
    Comparison,
    Pair,
    against_baselines,
    compare,
)
from twotower.evaluation.measure import FLOORS, Measurement
from twotower.evaluation.metrics import Scores, metric_label
from twotower.evaluation.outcomes import Outcomes
from twotower.evaluation.verdicts import interval_note, verdict_sentences
from twotower.study.results import Depth, Run, best_depth, by_depth


def comparisons_of(
    baselines: Mapping[str, Measurement], runs: Sequence[Run], outcomes: Sequence[Outcomes], metric: str
) -> list[Comparison]:
    """Each depth with each baseline, and with the depth before it: all that the report judges.

    Args:
        baselines: What was measured beside the models.
        runs: Every model trained.
        outcomes: What each gave event by event, in the order of `runs`.
        metric: What models are compared by.
    """
    of_run = {(tuple(run.layers), run.seed): own for run, own in zip(runs, outcomes, strict=True)}
    depths = [(depth, [of_run[tuple(run.layers), run.seed] for run in depth.runs]) for depth in by_depth(runs)]
    pairs = [pair for depth, own in depths for pair in against_baselines(depth.label, own, baselines)]
    pairs += [Pair(deep.label, own, shallow.label, others) for (shallow, others), (deep, own) in pairwise(depths)]
    return compare(pairs, metric)


def strongest(baselines: Mapping[str, Scores], protocol: str, metric: str) -> str | None:
    """The baseline with the highest figure; the oracle, which no model can beat, is not counted. None without any."""
    return max(
        (name for name in FLOORS if name in baselines),
        key=lambda name: baselines[name].value(f"{protocol}.{metric}"),
        default=None,
    )


def verdicts(
    comparisons: Sequence[Comparison], baselines: Mapping[str, Scores], runs: Sequence[Run], metric: str
) -> list[str]:
    """What a reader should take away, in sentences.

    Args:
        comparisons: What `comparisons_of` gave.
        baselines: Scores of the baselines on test.
        runs: Every model trained.
        metric: What models are compared by.
    """
    depths = by_depth(runs)
    labels = {depth.label for depth in depths}
    return [
        *verdict_sentences([one for one in comparisons if one.rival not in labels]),
        *_towards_oracle(comparisons, baselines, best_depth(runs, metric), metric),
        *verdict_sentences([one for one in comparisons if one.rival in labels], "is better than"),
        *_seeds_note(depths),
        *interval_note(comparisons),
    ]


def _towards_oracle(
    comparisons: Sequence[Comparison], baselines: Mapping[str, Scores], best: Depth, metric: str
) -> list[str]:
    """How far the best depth goes from popularity to the oracle, where it beats popularity."""
    beaten = any(
        (one.name, one.rival, one.protocol, one.verdict) == (best.label, "popularity", "all", "better")
        for one in comparisons
    )
    if "oracle" not in baselines or not beaten:
        return []
    floor, ceiling = baselines["popularity"].all[metric], baselines["oracle"].all[metric]
    share = (best.interval("all", metric).mean - floor) / (ceiling - floor)
    return [
        f"{best.label} goes {share:.0%} of the way from popularity ({floor:.4f}) "
        f"to the best any model can reach ({ceiling:.4f}; {metric_label(metric)}, all)."
    ]


def _seeds_note(depths: Sequence[Depth]) -> list[str]:
    """Whether depths were compared over seeds."""
    if len(depths) < 2:
        return []
    if min(len(depth.runs) for depth in depths) < 2:
        return [
            "Depths are compared on these test events with one seed each, and another seed may change the order; "
            "--seeds 5 compares them over seeds as well."
        ]
    return [
        "A depth is better or worse where both intervals say so: the one over queries and the 95% interval over "
        f"{len(depths[0].runs)} paired seeds."
    ]
