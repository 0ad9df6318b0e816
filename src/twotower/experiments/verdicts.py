"""The comparisons a study makes, and its conclusions in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twotower.evaluation.baselines.names import FLOORS
from twotower.evaluation.comparisons import Comparison, Pair, compare
from twotower.evaluation.metrics import Scores, metric_label
from twotower.evaluation.outcomes import Outcomes
from twotower.evaluation.verdicts import interval_note, verdict_sentences
from twotower.experiments.results import Run, Study


def comparisons_of(study: Study, ranks: Mapping[str, Outcomes]) -> list[Comparison]:
    """All comparisons of the report: each variant with each baseline and with its neighbours.

    Args:
        study: The study.
        ranks: The ranks of the test events for each run and baseline, by key.
    """
    pairs = []
    for number, variant in enumerate(study.variants):
        runs = study.runs_of(number)
        for name in FLOORS:
            keys = {one.cut: one.key for one in study.baselines if one.name == name and one.key in ranks}
            if all(run.cut in keys for run in runs):
                own, others = [ranks[run.key] for run in runs], [ranks[keys[run.cut]] for run in runs]
                pairs.append(Pair(variant.name, own, name, others, over_repetitions=False))
    for first, second in study.neighbours:
        pairs += _paired(study, first, second, ranks)
    return compare(pairs, study.metric)


def _paired(study: Study, first: int, second: int, ranks: Mapping[str, Outcomes]) -> list[Pair]:
    """Two variants on the same splits and seeds; empty if their test events differ."""
    before = {_repetition(study, run): run for run in study.runs_of(first)}
    both = [
        (run, before[_repetition(study, run)]) for run in study.runs_of(second) if _repetition(study, run) in before
    ]
    if not both or any(study.cuts[own.cut].test != study.cuts[other.cut].test for own, other in both):
        return []
    names = study.variants[second].name, study.variants[first].name
    own, others = [ranks[one.key] for one, _ in both], [ranks[other.key] for _, other in both]
    return [Pair(names[0], own, names[1], others)]


def _repetition(study: Study, run: Run) -> tuple[int, int]:
    return study.cuts[run.cut].seed, run.seed


def strongest(baselines: Mapping[str, Scores], protocol: str, metric: str) -> str | None:
    """The baseline with the highest score, not counting the oracle, which no model can beat; None without baselines."""
    return max(
        (name for name in FLOORS if name in baselines),
        key=lambda name: baselines[name].value(f"{protocol}.{metric}"),
        default=None,
    )


def verdicts(study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """The study's conclusions, in sentences.

    Args:
        study: The study.
        comparisons: The result of `comparisons_of`.
    """
    names = {variant.name for variant in study.variants}
    return [
        *verdict_sentences([one for one in comparisons if one.rival not in names]),
        *_towards_oracle(study, comparisons),
        *verdict_sentences([one for one in comparisons if one.rival in names], "is better than"),
        *_choices_note(study),
        *_repetitions_note(study),
        *interval_note(comparisons),
    ]


def _towards_oracle(study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """How much of the gap between popularity and the oracle the best variant closes, if it beats popularity."""
    best, baselines, metric = study.variants[study.best], study.baseline_scores(), study.metric
    beaten = any(
        (one.name, one.rival, one.protocol, one.verdict) == (best.name, "popularity", "all", "better")
        for one in comparisons
    )
    if "oracle" not in baselines or not beaten:
        return []
    floor, ceiling = baselines["popularity"].all[metric], baselines["oracle"].all[metric]
    share = (study.scores_of(study.best).all[metric] - floor) / (ceiling - floor)
    return [
        f"{best.name} closes {share:.0%} of the gap between popularity ({floor:.4f}) and the best that any model can "
        f"reach ({ceiling:.4f}; {metric_label(metric)}, all)."
    ]


def _choices_note(study: Study) -> list[str]:
    """Which model the validation part chose for each variant, in its first run."""
    notes = []
    for number, variant in enumerate(study.variants):
        runs = study.runs_of(number)
        notes += [f"{variant.name}: {note}" for note in (runs[0].outcome.choice_note if runs else [])]
    return notes


def _repetitions_note(study: Study) -> list[str]:
    """Says whether variants were compared over several trainings."""
    if len(study.variants) < 2:
        return []
    least = min(len(study.runs_of(number)) for number in range(len(study.variants)))
    if least < 2:
        return [
            "Each variant was trained once; another seed may change their order. --seeds 5 or --split-seeds repeats "
            "them."
        ]
    return [
        "A variant counts as better or worse than another only if both its interval over queries and its 95% "
        f"interval over {least} paired trainings exclude zero."
    ]
