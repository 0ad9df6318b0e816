"""`Log`: the interface of an interaction log, in memory (`Dataset`) or on disk (`ParquetLog`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.data.availability import Availability
from twotower.data.dataset import Dataset, IntArray
from twotower.data.exposures import Exposures
from twotower.data.fingerprints import Tables
from twotower.data.ordered import SortedEvents
from twotower.errors import ConfigError


@runtime_checkable
class Log(Tables, Protocol):
    """Who chose what, and when. Anything that learns from events takes any log, in memory or on disk.

    Example:
        >>> from twotower.data import simulated
        >>> log: Log = simulated(20, 30, 100)
        >>> len(log), int(log.candidate_counts().sum()), sum(len(part) for part in log.shuffled(0, 1, 32))
        (100, 100, 100)
    """

    @property
    def name(self) -> str:
        """Name in reports."""
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
        """Number of events dropped because their candidate is unknown."""
        ...

    @property
    def columns(self) -> list[str]:
        """Names of the columns with one value per event."""
        ...

    @property
    def availability(self) -> Availability | None:
        """When each candidate is available; None if all always are."""
        ...

    @property
    def exposures(self) -> Exposures | None:
        """What was shown with the events and not chosen; None if the log does not say."""
        ...

    @property
    def in_memory(self) -> Dataset | None:
        """All events with all their columns; None if they stay on disk."""
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
        """Sum of the weights of each candidate's events, or their number if the log has no weights, `[candidates]`."""
        ...

    def candidate_column(self, column: str) -> pa.ChunkedArray:
        """A column of the candidate table, `[candidates]` rows.

        Raises:
            DataError: The candidate table has no such column.
        """
        ...

    def sorted_events(self) -> SortedEvents:
        """All events sorted by query, time and position in the log; memory-mapped if the log is on disk."""
        ...

    def identity(self) -> list[str]:
        """The fingerprint of the events, and whatever else determines their order in training."""
        ...

    def read(self, queries: npt.NDArray[np.bool_] | None = None) -> Dataset:
        """Reads events into memory, in log order, with at least their times and weights.

        Args:
            queries: Mask of the queries to read, `[queries]`; default: all.
        """
        ...

    def events_of(self, part: Dataset) -> Dataset:
        """The events of the log that evaluating `part` needs: at least those of the queries in it."""
        ...

    def events_to_learn(self, most: int, columns: Iterable[str], seed: int) -> Dataset:
        """Events for features to learn from: all of a log in memory, or a uniform sample of a log on disk.

        Args:
            most: Largest sample of a log on disk.
            columns: Columns to read besides time and weight.
            seed: Seed of the sample.
        """
        ...

    def shuffled(self, seed: int, epoch: int, batch_size: int, columns: Iterable[str] = ()) -> Iterator[Dataset]:
        """All events once, in an order determined by (seed, epoch), in parts of whole batches except for the last.

        Args:
            seed: Seed of the order.
            epoch: Number of the epoch; each epoch has its own order.
            batch_size: The size of every part but the last is a multiple of this.
            columns: Columns to read besides time and weight.
        """
        ...


def event_columns(log: Log, names: Iterable[str]) -> list[str]:
    """The columns that have one value per event, rather than per query or candidate; see `Dataset.query_column`."""
    per_query = {log.query_id, *(set(log.queries.column_names) - set(log.columns))}
    return [name for name in dict.fromkeys(names) if name in log.columns and name not in per_query]


def require_in_memory(log: Log, what: str, instead: str) -> Dataset:
    """All events of a log, for code that does not support logs on disk.

    Args:
        log: The log.
        what: What needs the events, for the message.
        instead: What to do instead, for the message.

    Raises:
        ConfigError: The log is on disk.
    """
    if (events := log.in_memory) is None:
        raise ConfigError(f"{what} needs the whole log in memory, but {log.name!r} is streamed; expected {instead}")
    return events
