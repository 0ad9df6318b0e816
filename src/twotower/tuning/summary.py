"""What a tuning's figures say, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from twotower.evaluation.comparisons import (
    Comparison,
    Pair,
    against_baselines,
    compare,
)
from twotower.evaluation.measure import Measurement
from twotower.evaluation.verdicts import interval_note, verdict_sentences
from twotower.tuning.final import Measured
from twotower.tuning.results import Final, State, TrialRecord

ENDS: dict[State, str] = {
    "complete": "complete",
    "pruned": "stopped early",
    "failed": "failed",
    "interrupted": "interrupted",
}

BEST, BUILT_IN = "the best config", "the built-in config"
"""What sentences call the two."""


def comparisons_of(
    best: Measured, built_in: Measured | None, baselines: Mapping[str, Measurement], metric: str
) -> list[Comparison]:
    """The best config with each baseline and with the built-in config, on test: all that the report judges.

    Args:
        best: The best config.
        built_in: The built-in one, which may be the best; None where its training failed.
        baselines: What was measured beside them.
        metric: What they are compared by on test.
    """
    pairs = against_baselines(BEST, [best.outcomes], baselines)
    if built_in is not None and built_in is not best:
        pairs.append(Pair(BEST, [best.outcomes], BUILT_IN, [built_in.outcomes]))
    return compare(pairs, metric)


def verdicts(
    records: Sequence[TrialRecord],
    best: Final,
    built_in: Final | None,
    comparisons: Sequence[Comparison],
    metric: str,
) -> list[str]:
    """What a reader should take away.

    Args:
        records: All trials that ended.
        best: The best config.
        built_in: The built-in one; None where its training failed.
        comparisons: What `comparisons_of` gave.
        metric: What trials were compared by.
    """
    counts = Counter(record.state for record in records)
    said = ", ".join(f"{counts[state]} {words}" for state, words in ENDS.items() if counts[state])
    beside = [one for one in comparisons if one.rival == BUILT_IN]
    return [
        f"{len(records)} trials: {said or 'none ended in the time there was'}.",
        *_on_validation(records, best, built_in, metric),
        *(f"On test, {_lower(sentence)}" for sentence in verdict_sentences(beside, "is better than")),
        *(
            f"On test, {_lower(sentence)}"
            for sentence in verdict_sentences([one for one in comparisons if one.rival != BUILT_IN])
        ),
        *interval_note(comparisons),
        *(["Both configs were trained with one seed; another seed may change the order."] if beside else []),
    ]


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _on_validation(records: Sequence[TrialRecord], best: Final, built_in: Final | None, metric: str) -> list[str]:
    """Scores on the validation part, which are figures of single trials: which of them is the highest."""
    if best.score is None:
        return ["No trial was complete, so the built-in config stands; --minutes gives more time."]
    if built_in is None:
        reasons = [record.reason for record in records if record.built_in and record.state == "failed"]
        return [f"Trial {best.trial} validates best: {best.score:.4f}. The built-in config failed: {reasons[-1]}"]
    if built_in.score is None:
        return [f"Trial {best.trial} validates best: {best.score:.4f}. The built-in config was not done in time."]
    if built_in.trial == best.trial:
        return [f"No trial has a higher score on validation than the built-in config ({best.score:.4f}, {metric})."]
    return [
        f"Trial {best.trial} validates best: {best.score:.4f} against {built_in.score:.4f} of the built-in config "
        f"({metric}); the best of many is in part luck."
    ]
