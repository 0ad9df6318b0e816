"""The distribution of a training's inputs, and its drift since the last training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.dataset import Dataset
from twotower.errors import DataError
from twotower.features.numeric import numbers_of

BINS = 10
"""Number of equally frequent bins for a numeric column."""

TOP_VALUES = 20
"""The most frequent values of a column of labels are counted one by one; the rest are counted together."""

MAX_LABEL_VALUES = 1_000
"""A text column with more distinct values, such as a title, is not a label: only its missing values are compared."""

MIN_SHARE = 1e-4
"""Replaces a share of 0, whose logarithm would be infinite."""


class ColumnSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The distribution of a column's values over events.

    Attributes:
        missing: Share of the events without a value.
        edges: Inner edges of the bins of a numeric column.
        values: The most frequent values of a column of labels, as text.
        shares: Share of the other events in each bin, or with each value and then with any other value.
    """

    missing: float
    edges: list[float] = []
    values: list[str] = []
    shares: list[float] = []


class InputSummary(msgspec.Struct, frozen=True):
    """The distribution of a training's inputs.

    Attributes:
        events: Number of events in train and test.
        columns: Columns of the events, and those of both tables joined to them; without ids and time.
    """

    events: int
    columns: dict[str, ColumnSummary]


def input_summary(events: Dataset, like: InputSummary | None = None) -> InputSummary:
    """The distributions of the columns of events.

    Args:
        events: The events.
        like: An earlier summary whose bins and values are used.

    Example:
        >>> from twotower.data import simulated
        >>> log = simulated(20, 30, 200)
        >>> summary = input_summary(log)
        >>> summary.columns["query gender"].values
        ['M', 'F']
        >>> max(drift(summary, input_summary(log, like=summary)).values())
        0.0
    """
    left_out = {events.query_id, events.candidate_id, events.time}
    sources = {name: events.interactions[name] for name in events.columns if name not in left_out}
    for side, table, rows in (
        ("query", events.queries, events.query_index),
        ("candidate", events.candidates, events.candidate_index),
    ):
        names = [name for name in table.column_names if name not in left_out]
        sources |= {f"{side} {name}": table[name].take(pa.array(rows)) for name in names}
    found = {
        name: _summary(column, name, None if like is None else like.columns.get(name))
        for name, column in sources.items()
    }
    return InputSummary(len(events), {name: summary for name, summary in found.items() if summary is not None})


def drift(before: InputSummary, after: InputSummary) -> dict[str, float]:
    """The population stability index of each column in both summaries: Σ (q − p) log(q / p) over bins or values.

    Below 0.1 a distribution counts as stable, above 0.25 as changed (Siddiqi, *Credit risk scorecards*, 2006).
    Missing values form one more bin.

    Args:
        before: The earlier summary.
        after: The later summary, counted in the bins of the earlier one.
    """
    return {
        name: _stability_index(before.columns[name], own)
        for name, own in after.columns.items()
        if name in before.columns
    }


def _summary(column: pa.ChunkedArray, name: str, like: ColumnSummary | None) -> ColumnSummary | None:
    """The summary of a column with one row per event; None if its numbers cannot be read."""
    missing = column.null_count / max(1, len(column))
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_boolean(kind):
        return _label_summary(column, missing, like)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return ColumnSummary(missing=missing)
    try:
        numbers = numbers_of(column, name)
    except DataError:
        return None  # training refuses such a column if it reads it
    present = numbers[~np.isnan(numbers)]
    if like is None:
        edges = np.unique(np.quantile(present, np.linspace(0, 1, BINS + 1)[1:-1])).tolist() if len(present) else []
    else:
        edges = like.edges
    counts = np.bincount(np.searchsorted(edges, present, side="left"), minlength=len(edges) + 1)
    return ColumnSummary(missing=missing, edges=edges, shares=_shares(counts.tolist()))


def _label_summary(column: pa.ChunkedArray, missing: float, like: ColumnSummary | None) -> ColumnSummary:
    counted = pc.value_counts(column.drop_null().cast(pa.string()))
    counts: Mapping[str, int] = dict(
        zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    )
    if like is None:
        if len(counts) > MAX_LABEL_VALUES:
            return ColumnSummary(missing=missing)
        values = sorted(counts, key=lambda value: (-counts[value], value))[:TOP_VALUES]
    else:
        values = like.values
    if not values:
        return ColumnSummary(missing=missing)
    known = [counts.get(value, 0) for value in values]
    return ColumnSummary(missing=missing, values=values, shares=_shares([*known, sum(counts.values()) - sum(known)]))


def _shares(counts: list[int]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def _stability_index(before: ColumnSummary, after: ColumnSummary) -> float:
    pairs = [(before.missing, after.missing)]
    if len(before.shares) == len(after.shares):
        own = zip(before.shares, after.shares, strict=True)
        pairs += [(p * (1 - before.missing), q * (1 - after.missing)) for p, q in own]
    return sum(_term(p, q) for p, q in pairs)


def _term(before: float, after: float) -> float:
    p, q = max(before, MIN_SHARE), max(after, MIN_SHARE)
    return (q - p) * math.log(q / p)
