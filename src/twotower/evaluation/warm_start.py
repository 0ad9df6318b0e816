"""`WarmStartEvaluation`: a model beside the bundle that its training went on from, on known and on new ids."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from rich.table import Table

from twotower.data.dataset import Dataset
from twotower.evaluation.comparisons import Comparison, Pair, compare
from twotower.evaluation.grid import Grid
from twotower.evaluation.intervals import weighted_mean
from twotower.evaluation.measure import Measurement
from twotower.evaluation.metrics import metric_label
from twotower.evaluation.outcomes import PROTOCOLS, Outcomes, events_that_count
from twotower.evaluation.verdicts import interval_note, verdict_sentences

BoolArray = npt.NDArray[np.bool_]

BEFORE = "the bundle before"
COVERAGE = "coverage_10"


class SliceChange(msgspec.Struct, frozen=True, kw_only=True):
    """The score of both models on some of the test events.

    Attributes:
        name: Which events.
        events: How many.
        before: The earlier bundle's score, by protocol.
        after: The new model's.
    """

    name: str
    events: int
    before: dict[str, float]
    after: dict[str, float]


class WarmStartEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What has changed since the bundle that training began with, or is judged by, on the same test events.

    Attributes:
        version: Version of the bundle that it began with.
        growth: Which vocabularies have grown, and what was retired, in words; empty where training began anew.
        metric: What the two are compared by.
        slices: All test events, those of queries and candidates that the bundle knew, and those of new ones.
        comparisons: How much more the new model has in each slice, event by event.
        notes: What the figures say, in sentences.
        coverage: Share of the catalogue that the lists of ten have, `before` and `after`.
    """

    version: str
    growth: str
    metric: str
    slices: list[SliceChange]
    comparisons: list[Comparison]
    notes: list[str]
    coverage: dict[str, float]

    def table(self) -> Table:
        """Both models in every slice, for the terminal."""
        return self.grid().rich()

    def grid(self) -> Grid:
        """Both models in every slice, under both protocols."""
        found = {(one.name, one.protocol): one for one in self.comparisons}
        rows = []
        for part in self.slices:
            cells = [part.name, f"{part.events:,}"]
            for protocol in PROTOCOLS:
                width = found[named(part.name), protocol].half_width
                change = f"{found[named(part.name), protocol].difference:+.4f}"
                cells += [f"{part.before[protocol]:.4f}", f"{part.after[protocol]:.4f}"]
                cells += [change if width is None else f"{change} ± {width:.4f}"]
            rows.append(cells)
        label = metric_label(self.metric)
        headings = [cell for protocol in PROTOCOLS for cell in (f"{label} before, {protocol}", "after", "change")]
        return Grid(["warm start", "events", *headings], rows, strong=frozenset({0}))

    def figures(self) -> list[dict[str, Any]]:
        """Each score before and after, as a row of `Evaluation.to_table`."""
        return [
            {
                "scorer": f"warm start, {part.name}: {when}",
                "protocol": protocol,
                "metric": self.metric,
                "value": values[protocol],
                "half_width": None,
            }
            for part in self.slices
            for when, values in (("before", part.before), ("after", part.after))
            for protocol in PROTOCOLS
        ]


def compare_warm_start(
    after: Measurement,
    before: Measurement,
    test: Dataset,
    known_queries: BoolArray,
    known_candidates: BoolArray,
    metric: str,
    *,
    version: str,
    growth: str,
) -> WarmStartEvaluation:
    """Compares a model with the bundle that its training began with, event by event.

    Args:
        after: What measuring the new model gave.
        before: What measuring the bundle gave.
        test: The events, as both were measured on.
        known_queries: Which queries the bundle had events of, `[queries]`.
        known_candidates: Which candidates it had events of, `[candidates]`.
        metric: What to compare by.
        version: The bundle's version.
        growth: What has grown, in words.
    """
    counting = events_that_count(test)
    query, candidate = known_queries[counting.query_index], known_candidates[counting.candidate_index]
    parts = {
        "all events": np.ones(len(counting), dtype=np.bool_),
        "known queries": query,
        "new queries": ~query,
        "known candidates": candidate,
        "new candidates": ~candidate,
    }
    parts = {name: part for name, part in parts.items() if part.any()}
    pairs = [
        Pair(named(name), [_only(after.outcomes, part)], BEFORE, [_only(before.outcomes, part)])
        for name, part in parts.items()
    ]
    comparisons = compare(pairs, metric)
    slices = [
        SliceChange(
            name=name,
            events=int(part.sum()),
            before=_means(_only(before.outcomes, part), metric),
            after=_means(_only(after.outcomes, part), metric),
        )
        for name, part in parts.items()
    ]
    notes = [
        *([f"{growth[0].upper()}{growth[1:]}."] if growth else []),
        *verdict_sentences(comparisons),
        *interval_note(comparisons)[:1],
    ]
    return WarmStartEvaluation(
        version=version,
        growth=growth,
        metric=metric,
        slices=slices,
        comparisons=comparisons,
        notes=notes,
        coverage={"before": before.scores.unseen[COVERAGE], "after": after.scores.unseen[COVERAGE]},
    )


def named(part: str) -> str:
    """What comparisons call the new model on a slice."""
    return f"on {part}, the model"


def _only(outcomes: Outcomes, part: BoolArray) -> Outcomes:
    weights = None if outcomes.weights is None else outcomes.weights[part]
    return Outcomes(outcomes.ranks[:, part], outcomes.queries[part], outcomes.repeats[part], weights)


def _means(outcomes: Outcomes, metric: str) -> dict[str, float]:
    return {protocol: weighted_mean(outcomes.values(protocol, metric), outcomes.weights) for protocol in PROTOCOLS}
