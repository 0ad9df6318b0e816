"""Describing a data set: sizes, popularity, activity, time span, columns."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.console import Group
from rich.table import Table

from twotower.arguments import checks_arguments
from twotower.data.dataset import Dataset


class Column(msgspec.Struct, frozen=True):
    """A column, its type and its number of missing values."""

    table: str
    name: str
    type: str
    missing: int


class Spread(msgspec.Struct, frozen=True):
    """Distribution of events over queries or candidates: quantiles of events per row; `without` counts empty rows."""

    least: int
    median: float
    mean: float
    ninety_percent: float
    most: int
    without: int


class Description(msgspec.Struct, frozen=True):
    """Summary statistics of a data set.

    Attributes:
        name: Name of the data set.
        interactions: Number of events.
        queries: Rows of the query table.
        candidates: Rows of the candidate table.
        density: Distinct (query, candidate) pairs over all possible pairs.
        repeated: Events whose (query, candidate) pair occurs earlier in the log.
        begins: Time of the first event, ISO 8601; None when the log has no times.
        ends: Time of the last event.
        per_query: Events per query.
        per_candidate: Events per candidate.
        share_of_top: Share of the events that go to the most popular 1% and 10% of the candidates.
        gini: Gini coefficient of candidate popularity: 0 when all are equally popular, near 1 when one has all events.
        columns: All columns of the three tables.
        dropped: Events dropped because their candidate is unknown.
        terms: Terms of use of the data.
        exposures: Candidates shown with events and not chosen, counted once per list; None if the log does not say.
    """

    name: str
    interactions: int
    queries: int
    candidates: int
    density: float
    repeated: int
    begins: str | None
    ends: str | None
    per_query: Spread
    per_candidate: Spread
    share_of_top: dict[str, float]
    gini: float
    columns: list[Column]
    dropped: int
    terms: str
    exposures: int | None = None


@checks_arguments
def describe(data: Dataset) -> Description:
    """Computes summary statistics of a data set."""
    counts = data.candidate_counts()
    width = data.candidates.num_rows
    pairs = len(np.unique(data.query_index * width + data.candidate_index))
    span = None if data.time is None else (data.times.min(), data.times.max())
    falling = np.sort(counts)[::-1]
    return Description(
        name=data.name,
        interactions=len(data),
        queries=data.queries.num_rows,
        candidates=width,
        density=pairs / (data.queries.num_rows * width),
        repeated=len(data) - pairs,
        begins=None if span is None else _iso(span[0]),
        ends=None if span is None else _iso(span[1]),
        per_query=_spread(np.bincount(data.query_index, minlength=data.queries.num_rows)),
        per_candidate=_spread(counts),
        share_of_top={
            f"{percent}%": float(falling[: max(1, round(width * percent / 100))].sum() / len(data))
            for percent in (1, 10)
        },
        gini=_gini(counts),
        columns=[
            Column(which, field.name, str(field.type), table[field.name].null_count)
            for which, table in _tables(data)
            for field in table.schema
        ],
        dropped=data.dropped,
        terms=data.terms,
        exposures=None if data.exposures is None else len(data.exposures),
    )


def describe_table(description: Description) -> Group:
    """The description as tables for a terminal."""
    figures = Table(show_header=False, show_edge=False, pad_edge=False, title=description.name, title_justify="left")
    figures.add_row("interactions", f"{description.interactions:,}")
    figures.add_row("queries", f"{description.queries:,}: {_spread_text(description.per_query)}")
    figures.add_row("candidates", f"{description.candidates:,}: {_spread_text(description.per_candidate)}")
    figures.add_row("density", f"{description.density:.3%}, {description.repeated:,} events repeat a pair")
    if description.begins is not None:
        figures.add_row("time", f"{description.begins} to {description.ends}")
    shares = ", ".join(f"{share:.0%} on the top {top}" for top, share in description.share_of_top.items())
    figures.add_row("popularity", f"{shares}; Gini {description.gini:.2f}")
    for which in ("interactions", "queries", "candidates"):
        own = [column for column in description.columns if column.table == which]
        names = (f"{c.name} ({c.type}{f', {c.missing:,} missing' if c.missing else ''})" for c in own)
        figures.add_row(f"columns of {which}", ", ".join(names))
    if description.exposures is not None:
        figures.add_row("shown and not chosen", f"{description.exposures:,} beside the events")
    if description.dropped:
        figures.add_row("dropped", f"{description.dropped:,} events with unknown candidates")
    if description.terms:
        figures.add_row("terms", description.terms)
    return Group(figures, "")


def _tables(data: Dataset) -> list[tuple[str, pa.Table]]:
    return [("interactions", data.interactions), ("queries", data.queries), ("candidates", data.candidates)]


def _spread(counts: npt.NDArray[np.int64]) -> Spread:
    return Spread(
        least=int(counts.min()),
        median=float(np.median(counts)),
        mean=float(counts.mean()),
        ninety_percent=float(np.quantile(counts, 0.9)),
        most=int(counts.max()),
        without=int((counts == 0).sum()),
    )


def _gini(counts: npt.NDArray[np.int64]) -> float:
    rising = np.sort(counts).astype(np.float64)
    places = np.arange(1, len(rising) + 1)
    return float((2 * places - len(rising) - 1) @ rising / (len(rising) * rising.sum()))


def _spread_text(spread: Spread) -> str:
    without = f", {spread.without:,} with none" if spread.without else ""
    return f"{spread.least:,} to {spread.most:,} events each, median {spread.median:,.0f}{without}"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
