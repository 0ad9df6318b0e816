"""Features learn from a log: selects the events and columns that they read, fits them, and grows fitted ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.dataset import Dataset, IntArray
from twotower.data.log import Log, event_columns
from twotower.data.place import Place, cell_errors_in
from twotower.errors import ConfigError, DataError
from twotower.features import Feature
from twotower.features.grown_record import grown_record
from twotower.features.growth import FloatArray, Rows, SeenAt
from twotower.features.record import Record
from twotower.features.recorded import record_groups

SAMPLE = 1_000_000
"""Features learn from at most this many events of a streamed log."""

EVENTS, CANDIDATES = Place(table="training events"), Place(table="candidates")


@dataclass(frozen=True, eq=False)
class Growth:
    """What `TwoTower.grow` changed.

    Attributes:
        tables: Where the rows of each table that may have grown come from, by the parameter's name in the model.
        new: How many values were added, by column and how it is read, such as `user_id (labels)`.
        retired: How many values were removed, likewise.
    """

    tables: Mapping[str, Rows]
    new: Mapping[str, int]
    retired: Mapping[str, int]

    def __str__(self) -> str:
        """A one-line summary."""
        parts = [
            f"{word}: {', '.join(f'{count:,} of {name}' for name, count in counts.items())}"
            for word, counts in (("new", self.new), ("retired", self.retired))
            if counts
        ]
        return "; ".join(parts) or "nothing is new, and nothing was retired"


@dataclass(frozen=True, eq=False)
class Latest:
    """The time of the latest event of each query and candidate of a log, in seconds.

    Attributes:
        queries: The latest event of each query, `[queries]`; −∞ without one.
        candidates: The latest event of each candidate, `[candidates]`; −∞ without one.
        begin: The log's first event.
        end: The log's last event.
    """

    queries: FloatArray
    candidates: FloatArray
    begin: float
    end: float

    @classmethod
    def of(cls, log: Log) -> Latest | None:
        """Finds the latest events of a log; None if it has no times or no events."""
        if log.time is None or len(log) == 0:
            return None
        events = log.sorted_events()
        assert events.times is not None
        counts = np.diff(events.offsets)
        queries = np.full(log.queries.num_rows, -np.inf)
        queries[events.queries[counts > 0]] = events.times[events.offsets[1:][counts > 0] - 1]
        candidates = np.full(log.candidates.num_rows, -np.inf)
        np.maximum.at(candidates, events.candidates, events.times)
        return cls(queries, candidates, float(events.times.min()), float(events.times.max()))


def learn_features(query: Sequence[Feature], candidate: Sequence[Feature], train: Log, seed: int) -> None:
    """Fits the features of both towers on the training split; see `TwoTower.learn`.

    Args:
        query: The query tower's features.
        candidate: The candidate tower's features.
        train: The training split.
        seed: Seed of the sample of a streamed log's events; initial weights come from PyTorch's random state.
    """
    queries, candidates = (np.flatnonzero(counts) for counts in (train.query_counts(), train.candidate_counts()))
    events = events_to_learn(query, train, seed)
    for key, sharing in record_groups(query):
        with cell_errors_in(EVENTS):
            record = Record.of_log(train, key)
        for recorded in sharing:
            recorded.share_record(record)
    for feature in query:
        with _cell_errors_of_training(events, feature.learns_from, queries):
            feature.fit_columns(training_columns(events, feature.learns_from, queries))
    for feature in candidate:
        columns = {name: train.candidate_column(name).take(pa.array(candidates)) for name in feature.learns_from}
        with cell_errors_in(CANDIDATES, candidates):
            feature.fit_columns(columns)
    for feature in query:
        feature.learn_candidates(partial(rows_of, train))


def grow_features(
    query: Sequence[Feature], candidate: Sequence[Feature], log: Log, retire_after: float | None
) -> Growth:
    """Adds a log's new values to the features of both towers; see `TwoTower.grow`."""
    if retire_after is not None and not retire_after > 0:
        raise ConfigError(f"retire_after={retire_after}; expected seconds above 0, or None", field="retire_after")
    latest = None if log.in_memory is None and retire_after is None else Latest.of(log)  # sorts the log
    if retire_after is not None and latest is None:
        raise DataError(f"{log.name!r} has no times, which retire_after={retire_after} needs; name a column of times")
    limit = -math.inf if latest is None or retire_after is None else latest.end - retire_after

    def seen_at(feature: Feature, times: FloatArray | None) -> SeenAt | None:
        if latest is None or times is None:
            return None
        is_id = feature.column in (log.query_id, log.candidate_id)  # keep attributes: encoded items use them
        return SeenAt(times, latest.begin, limit if is_id else -math.inf)

    for _, sharing in record_groups(query):
        assert sharing[0].record is not None
        with cell_errors_in(EVENTS):
            record = grown_record(sharing[0].record, log, limit)
        for recorded in sharing:
            recorded.share_record(record)
    sizes = {feature: _rows_by_name(feature) for feature in (*query, *candidate)}
    events, grown = events_to_learn(query, log, seed=0), dict[Feature, dict[str, Rows]]()
    queries, candidates = (np.flatnonzero(counts) for counts in (log.query_counts(), log.candidate_counts()))
    for feature in query:
        columns = training_columns(events, feature.learns_from, queries)
        times = None if latest is None else _times_of(events, feature.learns_from, latest.queries[queries])
        with _cell_errors_of_training(events, feature.learns_from, queries):
            grown[feature] = feature.grow(columns, seen_at(feature, times))
    for feature in candidate:
        rows = {name: log.candidate_column(name).take(pa.array(candidates)) for name in feature.learns_from}
        times = None if latest is None else latest.candidates[candidates]
        with cell_errors_in(CANDIDATES, candidates):
            grown[feature] = feature.grow(rows, seen_at(feature, times))
    for feature in query:
        items = None if feature.shares_with is None else grown.get(feature.shares_with, {}).get("table")
        feature.grow_candidates(partial(rows_of, log), items)
    return _growth({"query": query, "candidate": candidate}, sizes, grown)


def _rows_by_name(feature: Feature) -> dict[str, int]:
    return {name: len(tensor) for name, tensor in feature.named_parameters() if tensor.dim()}


def _growth(
    sides: Mapping[str, Sequence[Feature]],
    sizes: Mapping[Feature, Mapping[str, int]],
    grown: Mapping[Feature, Mapping[str, Rows]],
) -> Growth:
    """Summarises the changes, given the number of rows of each feature's parameters before."""
    tables, new, retired = dict[str, Rows](), dict[str, int](), dict[str, int]()
    for side, features in sides.items():
        for place, feature in enumerate(features):
            for name, rows in grown[feature].items():
                tables[f"{side}.features.{place}.{name}"] = rows
                label, added = f"{feature.column} ({feature.read_as})", int(rows.is_new.sum())
                new |= {label: added} if added else {}
                lost = sizes[feature][name] - (len(rows.sources) - added)
                retired |= {label: lost} if lost else {}
    return Growth(tables, new, retired)


def events_to_learn(features: Sequence[Feature], log: Log, seed: int) -> Dataset:
    """The events to learn from; none of a log on disk if features only read the query table."""
    columns = event_columns(log, (name for feature in features for name in feature.learns_from))
    needed = bool(columns) or any(len(feature.learns_from) > 1 for feature in features)
    return log.events_to_learn(SAMPLE if needed else 0, columns, seed)


def rows_of(log: Log, ids: pa.Array) -> dict[str, pa.ChunkedArray]:
    """The columns of the candidate table for these ids; nulls for an id that it lacks."""
    rows = pc.index_in(ids, value_set=log.candidates[log.candidate_id].combine_chunks())
    found = log.candidates.take(rows)
    return {name: found[name] for name in found.column_names}


def training_columns(events: Dataset, names: tuple[str, ...], seen_queries: IntArray) -> dict[str, pa.ChunkedArray]:
    """Columns to learn from: one row per distinct query for a single query column, else one row per event."""
    sources = {name: events.query_column(name) for name in names}
    if len(sources) == 1:
        ((name, (column, rows)),) = sources.items()
        return {name: column.take(pa.array(seen_queries)) if rows is events.query_index else column}
    return {name: column.take(pa.array(rows)) for name, (column, rows) in sources.items()}


def _times_of(events: Dataset, names: tuple[str, ...], of_queries: FloatArray) -> FloatArray:
    """When each row of `training_columns` was last seen."""
    return of_queries if _is_per_query(events, names) else events.times


def _cell_errors_of_training(
    events: Dataset, names: tuple[str, ...], queries: IntArray
) -> AbstractContextManager[None]:
    """Names the table that `training_columns` come from in errors about cells."""
    return cell_errors_in(Place(table="queries"), queries) if _is_per_query(events, names) else cell_errors_in(EVENTS)


def _is_per_query(events: Dataset, names: tuple[str, ...]) -> bool:
    """Whether `training_columns` have one row per query."""
    return len(names) == 1 and events.query_column(names[0])[1] is events.query_index
