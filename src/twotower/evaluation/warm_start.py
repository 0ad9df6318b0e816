"""`WarmStartEvaluation`: compares a model with the bundle that its training started from, on known and new ids."""

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
    """Scores of both models on a slice of the test events.

    Attributes:
        name: Name of the slice.
        events: Number of events.
        before: Score of the earlier bundle, by protocol.
        after: Score of the new model, by protocol.
    """

    name: str
    events: int
    before: dict[str, float]
    after: dict[str, float]


class WarmStartEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What has changed since the bundle that training started from or is judged by, on the same test events.

    Attributes:
        version: Version of that bundle.
        growth: A phrase on which vocabularies have grown and what was retired; empty if training started from scratch.
        metric: The metric that the two are compared by.
        slices: Scores on all test events, on known queries and candidates, and on new ones.
        comparisons: Difference between the models in each slice, paired by event.
        notes: The results in sentences.
        coverage: Share of the catalogue in the top-10 lists, `before` and `after`.
    """

    version: str
    growth: str
    metric: str
    slices: list[SliceChange]
    comparisons: list[Comparison]
    notes: list[str]
    coverage: dict[str, float]

    def table(self) -> Table:
        """Both models in every slice, as a table for the terminal."""
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
        """All scores before and after, as rows of `Evaluation.to_table`."""
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
    """Compares a model with the bundle that its training started from, paired by event.

    Args:
        after: Measurement of the new model.
        before: Measurement of the bundle.
        test: The events that both were measured on.
        known_queries: Mask of the queries that the bundle had events of, `[queries]`.
        known_candidates: Mask of the candidates that it had events of, `[candidates]`.
        metric: The metric to compare by.
        version: Version of the bundle.
        growth: A phrase on what has grown, for the notes.
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
    """Name of the new model on a slice, in comparisons."""
    return f"on {part}, the model"


def _only(outcomes: Outcomes, part: BoolArray) -> Outcomes:
    weights = None if outcomes.weights is None else outcomes.weights[part]
    return Outcomes(outcomes.ranks[:, part], outcomes.queries[part], outcomes.repeats[part], weights)


def _means(outcomes: Outcomes, metric: str) -> dict[str, float]:
    return {protocol: weighted_mean(outcomes.values(protocol, metric), outcomes.weights) for protocol in PROTOCOLS}
