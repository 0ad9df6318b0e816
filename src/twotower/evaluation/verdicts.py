"""Describes comparisons: sentences on which scorer beats which and by how much, and a table of all differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twotower.evaluation.baselines.names import NAMES
from twotower.evaluation.comparisons import Comparison, Verdict
from twotower.evaluation.grid import Grid
from twotower.evaluation.metrics import metric_label
from twotower.evaluation.outcomes import PROTOCOLS


def verdict_sentences(comparisons: Sequence[Comparison], better: str = "beats") -> list[str]:
    """One sentence for all rivals of a scorer with the same verdicts, with differences and their intervals.

    If there are several rivals, the sentence gives the difference to one of them: the closest if the verdicts are
    significant, the furthest if one of them is not. `differences_grid` has all of them.

    Args:
        comparisons: The result of `compare`.
        better: The verb for a difference above zero.

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
    """Sentences that explain the intervals; empty if no comparison has one."""
    known = [one for one in comparisons if one.half_width is not None]
    if not known:
        return []
    together = f", wide enough for all {len(comparisons)} comparisons at once" if len(comparisons) > 1 else ""
    notes = [f"Differences are paired by event; ± is their 95% interval over {known[0].queries:,} queries{together}."]
    counts = {one.protocol: one.events for one in known}
    repeats = counts.get("all", 0) - counts.get("unseen", counts.get("all", 0))
    if repeats:
        notes.append(
            f"Differences under unseen skip the {repeats:,} test events that repeat a choice of their query in train: "
            "memorising train would be enough to rank those first."
        )
    return notes


def differences_grid(comparisons: Sequence[Comparison]) -> Grid:
    """All differences with their intervals, one row per pair."""
    pairs = list(dict.fromkeys((one.name, one.rival) for one in comparisons))
    found = {(one.name, one.rival, one.protocol): one for one in comparisons}
    rows = []
    for name, rival in pairs:
        both = [found[name, rival, protocol] for protocol in PROTOCOLS]
        cells = [cell for one in both for cell in (_difference(one), one.verdict)]
        rows.append([name, NAMES.get(rival, rival), *cells])
    label = metric_label(comparisons[0].metric) if comparisons else ""
    headings = [cell for protocol in PROTOCOLS for cell in (f"{label}, {protocol}", "verdict")]
    return Grid(["", "compared with", *headings], rows, words=2)


def _difference(found: Comparison) -> str:
    return f"{found.difference:+.4f}" + ("" if found.half_width is None else f" ± {found.half_width:.4f}")


def _sentence(name: str, verdicts: tuple[Verdict, ...], same: Sequence[Mapping[str, Comparison]], better: str) -> str:
    """The sentence for a scorer and all rivals with the same verdicts, under both protocols."""
    names = [_label(found) for found in same]
    label = metric_label(same[0][PROTOCOLS[0]].metric)
    judged = {
        protocol: verdict for protocol, verdict in zip(PROTOCOLS, verdicts, strict=True) if verdict != "too few queries"
    }
    if not judged:
        queries = same[0][PROTOCOLS[0]].queries
        return (
            f"Test cannot tell whether {name} {better} {listed(names, 'or')} ({label}): its queries are too few, or "
            f"too unequal ({queries:,})."
        )
    shown = _shown(same, judged)
    figures = ", ".join(_figure(shown[protocol]) for protocol in judged)
    if len(names) == 1:
        figures = f": {figures}"
    else:
        which = "furthest" if "not significantly different" in judged.values() else "closest"
        figures = f"; {which} is {_label(shown)}: {figures}"
    unjudged = [protocol for protocol in PROTOCOLS if protocol not in judged]
    missing = "".join(f"; under {protocol}, too few queries are left to tell" for protocol in unjudged)
    return f"{name} {_judged(names, judged, better)} ({label}{figures}){missing}."


def _shown(same: Sequence[Mapping[str, Comparison]], judged: Mapping[str, Verdict]) -> Mapping[str, Comparison]:
    """The rival whose difference the sentence gives, of all with these verdicts."""
    order = max if "not significantly different" in judged.values() else min
    return order(same, key=lambda found: sum(abs(found[protocol].difference) for protocol in judged))


def _label(found: Mapping[str, Comparison]) -> str:
    rival = found[PROTOCOLS[0]].rival
    return NAMES.get(rival, rival)


def _judged(names: Sequence[str], judged: Mapping[str, Verdict], better: str) -> str:
    """Verbs and rivals, such as `beats popularity and EASE under both protocols`."""
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
        f"trainings {found.protocol}"
    )


def listed(words: Sequence[str], word: str = "and") -> str:
    """Joins words as in a sentence.

    Example:
        >>> listed(["popularity", "EASE", "iALS"])
        'popularity, EASE and iALS'
    """
    return f" {word} ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
