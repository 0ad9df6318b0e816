"""What a tuning's figures say, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from twotower.evaluation.baselines.names import FLOORS, NAMES
from twotower.evaluation.comparisons import comparisons, listed
from twotower.evaluation.metrics import Scores
from twotower.tuning.results import Final, State, TrialRecord

ENDS: dict[State, str] = {
    "complete": "complete",
    "pruned": "stopped early",
    "failed": "failed",
    "interrupted": "interrupted",
}


def verdicts(
    records: Sequence[TrialRecord], best: Final, built_in: Final | None, baselines: Mapping[str, Scores], metric: str
) -> list[str]:
    """What a reader should take away.

    Args:
        records: All trials that ended.
        best: The best config.
        built_in: The built-in one; None where its training failed.
        baselines: Scores of the baselines on test.
        metric: What trials were compared by.
    """
    counts = Counter(record.state for record in records)
    said = ", ".join(f"{counts[state]} {words}" for state, words in ENDS.items() if counts[state])
    return [
        f"{len(records)} trials: {said or 'none ended in the time there was'}.",
        *_against_built_in(records, best, built_in, metric),
        *_against_baselines(best, baselines, metric.rpartition(".")[2]),
    ]


def _against_built_in(records: Sequence[TrialRecord], best: Final, built_in: Final | None, metric: str) -> list[str]:
    if best.score is None:
        return ["No trial was complete, so the built-in config stands; --minutes gives more time."]
    if built_in is None:
        reasons = [record.reason for record in records if record.built_in and record.state == "failed"]
        return [f"Trial {best.trial} validates best: {best.score:.4f}. The built-in config failed: {reasons[-1]}"]
    if built_in.score is None:
        return [f"Trial {best.trial} validates best: {best.score:.4f}. The built-in config was not done in time."]
    if built_in.trial == best.trial:
        return [f"No trial validates better than the built-in config ({best.score:.4f}, {metric})."]
    before, after = built_in.test.value(metric), best.test.value(metric)
    found = f"On test it has {after:.4f} against {before:.4f}, one seed each"
    return [
        f"Trial {best.trial} validates best: {best.score:.4f} against {built_in.score:.4f} of the built-in config "
        f"({metric}); the best of many is in part luck.",
        f"{found}." if after > before else f"{found}: what it gained on validation did not carry over.",
    ]


def _against_baselines(best: Final, baselines: Mapping[str, Scores], metric: str) -> list[str]:
    beside = comparisons("the best config", best.test, baselines, metric)
    lost = [sentence for sentence in beside if "does not beat" in sentence]
    rivals = listed([NAMES[name] for name in FLOORS if name in baselines])
    return lost or ([f"The best config beats {rivals} on test under both protocols ({metric})."] if rivals else [])
