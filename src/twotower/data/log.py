"""`Log`: what a log of events can do, in memory (`Dataset`) or on disk (`ParquetLog`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.data.dataset import Dataset, IntArray
from twotower.data.fingerprints import Tables
from twotower.data.ordered import SortedEvents
from twotower.errors import ConfigError


@runtime_checkable
class Log(Tables, Protocol):
    """Who chose what, and when: what learns from events takes any log, wherever its events are.

    Example:
        >>> from twotower.data import simulated
        >>> log: Log = simulated(20, 30, 100)
        >>> len(log), int(log.candidate_counts().sum()), sum(len(part) for part in log.shuffled(0, 1, 32))
        (100, 100, 100)
    """

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def time(self) -> str | None:
        """Name of the time column."""
        ...

    @property
    def weight(self) -> str | None:
        """Name of the weight column."""
        ...

    @property
    def dropped(self) -> int:
        """Events left out because their candidate is unknown."""
        ...

    @property
    def columns(self) -> list[str]:
        """Names of the columns that have a value an event."""
        ...

    @property
    def in_memory(self) -> Dataset | None:
        """All events with all their columns; None where they stay on disk."""
        ...

    def __len__(self) -> int:
        """Number of events."""
        ...

    def query_counts(self) -> IntArray:
        """How many events each query has, `[queries]`."""
        ...

    def candidate_counts(self) -> IntArray:
        """How many events each candidate has, `[candidates]`."""
        ...

    def candidate_weights(self) -> npt.NDArray[np.float64]:
        """Sum of the weights of each candidate's events, or their number where the log has none, `[candidates]`."""
        ...

    def candidate_column(self, column: str) -> pa.ChunkedArray:
        """A column of the candidate table, `[candidates]` rows.

        Raises:
            DataError: The candidate table does not have the column.
        """
        ...

    def sorted_events(self) -> SortedEvents:
        """All events by query, time and place in the log: mapped from disk where they stay there."""
        ...

    def identity(self) -> list[str]:
        """Digits of the events and of what else decides their order in training."""
        ...

    def read(self, queries: npt.NDArray[np.bool_] | None = None) -> Dataset:
        """Events in memory, with their times and weights at least, in the order of the log.

        Args:
            queries: Of which queries, `[queries]`; default: of all.
        """
        ...

    def events_of(self, part: Dataset) -> Dataset:
        """At least the events of the queries that a part names: what its evaluation has to know of the log."""
        ...

    def events_to_learn(self, most: int, columns: Iterable[str], seed: int) -> Dataset:
        """Events for features to learn from: all in memory; else at most so many, drawn uniformly.

        Args:
            most: How many at most, where they are read from disk.
            columns: Columns to read beside time and weight.
            seed: Seed of the draw.
        """
        ...

    def shuffled(self, seed: int, epoch: int, batch_size: int, columns: Iterable[str] = ()) -> Iterator[Dataset]:
        """All events once, in an order that (seed, epoch) determine, in parts of whole batches but for the last.

        Args:
            seed: Seed of the order.
            epoch: Number of the epoch, each of which has an order of its own.
            batch_size: Every part but the last has a multiple of so many events.
            columns: Columns to read beside time and weight.
        """
        ...


def event_columns(log: Log, names: Iterable[str]) -> list[str]:
    """Those of the columns that are read event by event, as `Dataset.query_column` would; the others are not."""
    per_query = {log.query_id, *(set(log.queries.column_names) - set(log.columns))}
    return [name for name in dict.fromkeys(names) if name in log.columns and name not in per_query]


def require_in_memory(log: Log, what: str, instead: str) -> Dataset:
    """All events of a log, for what cannot do with a log on disk.

    Args:
        log: The log.
        what: What needs them.
        instead: What to do about it.

    Raises:
        ConfigError: They stay on disk.
    """
    if (events := log.in_memory) is None:
        raise ConfigError(f"{what} needs the whole log in memory, and {log.name!r} is streamed; expected {instead}")
    return events
