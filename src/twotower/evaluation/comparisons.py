"""In words: which baselines a model beats and which it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twotower.evaluation.baselines.names import FLOORS, NAMES
from twotower.evaluation.metrics import Scores


def comparisons(name: str, model: Scores, baselines: Mapping[str, Scores], metric: str = "top_100") -> list[str]:
    """One sentence for each protocol that says which baselines a model beats and which it does not beat.

    Where the catalogue is shorter than 100 or the metric was not measured, MRR stands in for it.

    Example:
        >>> scores = {name: Scores({"mrr": mrr}, {"mrr": mrr}) for name, mrr in (("popularity", 0.1), ("ease", 0.3))}
        >>> comparisons("[32]", Scores({"mrr": 0.2}, {"mrr": 0.2}), scores)[0]
        '[32] (mrr, all: 0.2000) beats popularity (0.1000), does not beat EASE (0.3000).'
    """
    metric = telling(model, metric)
    sentences = []
    for protocol in ("all", "unseen"):
        own = model.value(f"{protocol}.{metric}")
        others = {
            NAMES[floor]: baselines[floor].value(f"{protocol}.{metric}") for floor in FLOORS if floor in baselines
        }
        beaten = listed([f"{rival} ({other:.4f})" for rival, other in others.items() if own > other])
        unbeaten = listed([f"{rival} ({other:.4f})" for rival, other in others.items() if not own > other], "or")
        said = ", ".join(
            f"{verb} {rivals}" for verb, rivals in (("beats", beaten), ("does not beat", unbeaten)) if rivals
        )
        if said:
            sentences.append(f"{name} ({metric}, {protocol}: {model.interval(protocol, metric)}) {said}.")
    return [sentence[0].upper() + sentence[1:] for sentence in sentences]


def telling(model: Scores, metric: str = "top_100") -> str:
    """The metric, or MRR where it was not measured or every candidate fits in the list."""
    return metric if model.all.get(metric, 1.0) < 1.0 else "mrr"


def listed(words: Sequence[str], word: str = "and") -> str:
    """Words as a sentence lists them.

    Example:
        >>> listed(["popularity", "EASE", "iALS"])
        'popularity, EASE and iALS'
    """
    return f" {word} ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
