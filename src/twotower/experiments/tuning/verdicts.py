"""The conclusions of a tuning, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from twotower.evaluation.baselines.names import FLOORS
from twotower.evaluation.comparisons import Comparison, Pair, compare
from twotower.evaluation.metrics import metric_label
from twotower.evaluation.outcomes import Outcomes
from twotower.evaluation.verdicts import interval_note, verdict_sentences
from twotower.experiments.tuning.results import Final
from twotower.experiments.tuning.trials import State, TrialRecord

STATE_WORDS: dict[State, str] = {
    "complete": "complete",
    "pruned": "stopped early",
    "failed": "failed",
    "interrupted": "interrupted",
}

BEST, BUILT_IN = "the best config", "the built-in config"
"""Names of the two configs in sentences."""


def comparisons_of(
    best: Outcomes, built_in: Outcomes | None, baselines: Mapping[str, Outcomes], metric: str
) -> list[Comparison]:
    """All comparisons of the report, on test: the best config with each baseline and with the built-in config.

    Args:
        best: Ranks of the best config, event by event.
        built_in: Ranks of the built-in config; None if it is the best, or its training failed.
        baselines: Ranks of the baselines.
        metric: The metric compared on test.
    """
    pairs = [Pair(BEST, [best], name, [baselines[name]]) for name in FLOORS if name in baselines]
    if built_in is not None:
        pairs.append(Pair(BEST, [best], BUILT_IN, [built_in]))
    return compare(pairs, metric)


def verdicts(
    records: Sequence[TrialRecord],
    best: Final,
    built_in: Final | None,
    comparisons: Sequence[Comparison],
    metric: str,
) -> list[str]:
    """The conclusions, in sentences.

    Args:
        records: All trials that ended.
        best: The best config.
        built_in: The built-in config; None if its training failed.
        comparisons: The result of `comparisons_of`.
        metric: The metric that trials were compared by.
    """
    counts = Counter(record.state for record in records)
    said = ", ".join(f"{counts[state]} {words}" for state, words in STATE_WORDS.items() if counts[state])
    against_built_in = [one for one in comparisons if one.rival == BUILT_IN]
    against_baselines = [one for one in comparisons if one.rival != BUILT_IN]
    on_test = verdict_sentences(against_built_in, "is better than") + verdict_sentences(against_baselines)
    return [
        f"{len(records)} trials: {said or 'none ended in time'}.",
        *_on_validation(records, best, built_in, metric),
        *(f"On test, {sentence[0].lower()}{sentence[1:]}" for sentence in on_test),
        *interval_note(comparisons),
        *(["Both configs were trained with one seed; another seed may change the order."] if against_built_in else []),
    ]


def _on_validation(records: Sequence[TrialRecord], best: Final, built_in: Final | None, metric: str) -> list[str]:
    """Which trial has the highest score on the validation part."""
    if best.score is None:
        return ["No trial completed, so the built-in config is kept; --minutes gives more time."]
    if built_in is None:
        reasons = [record.reason for record in records if record.built_in and record.state == "failed"]
        return [f"Trial {best.trial} validates best: {best.score:.4f}. The built-in config failed: {reasons[-1]}"]
    if built_in.score is None:
        return [f"Trial {best.trial} validates best: {best.score:.4f}. The built-in config did not finish in time."]
    if built_in.trial == best.trial:
        return [
            f"No trial scores higher on validation than the built-in config ({best.score:.4f}, {metric_label(metric)})."
        ]
    return [
        f"Trial {best.trial} validates best: {best.score:.4f} against {built_in.score:.4f} for the built-in config "
        f"({metric_label(metric)}); the best of many trials is partly luck."
    ]
