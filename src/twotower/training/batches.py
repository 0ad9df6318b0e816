"""Sources of training batches: a data set that is encoded once, or a streamed log that is encoded part by part."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from twotower.data.dataset import Dataset, IntArray
from twotower.data.grouped import GroupedEvents, Grouping
from twotower.data.log import Log, event_columns
from twotower.data.parquet import ROW
from twotower.errors import ConfigError, DataError
from twotower.model.encoding import EncodedSide
from twotower.model.two_tower import TwoTower
from twotower.progress import opened
from twotower.ranks import ALONE, Ranks
from twotower.tasks.base import Task
from twotower.tasks.shown import tells_choices
from twotower.tasks.targets import target_columns
from twotower.training.prefetch import one_ahead


@dataclass(frozen=True)
class Read:
    """What tasks read of the events besides queries, candidates, times and weights.

    Attributes:
        columns: Columns of the interactions, as numbers.
        groupings: How events are grouped.
    """

    columns: tuple[str, ...] = ()
    groupings: tuple[Grouping, ...] = ()

    @classmethod
    def by(cls, tasks: Iterable[Task], train: Log) -> Read:
        """What these tasks read of a log; its events have no column any more that told chosen rows from others."""
        tasks = list(tasks)
        wanted = (task.column for task in tasks if not tells_choices(train, task.column))
        columns = dict.fromkeys(column for column in wanted if column is not None)
        groupings = dict.fromkeys(task.grouping for task in tasks if task.grouping is not None)
        return cls(tuple(columns), tuple(groupings))

    @property
    def names(self) -> list[str]:
        """All columns of the interactions."""
        return list(dict.fromkeys([*self.columns, *(one.column for one in self.groupings if one.column is not None)]))


NOTHING = Read()


@dataclass(frozen=True)
class Part:
    """Encoded events.

    Attributes:
        queries: The query side of each event, `[N]` rows.
        query_rows: Row of each event's query, `[N]`.
        candidate_rows: Row of each event's candidate, `[N]`.
        weights: Weight of each event, `[N]`; None if all have equal weight.
        columns: Columns that tasks read, `[N]` each, NaN for missing values.
        is_whole: Whether these are all events of the log, in its order.
        numbers: Number of each event in the log, `[N]`, for parts of a log that says what was shown with its events.
        times: Time of each event in seconds, `[N]`; None if the log does not say when candidates are available.
        groups: Group of each event, `[N]`, by the groupings that tasks use; negative for events without one.
    """

    queries: EncodedSide
    query_rows: Tensor
    candidate_rows: Tensor
    weights: Tensor | None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    is_whole: bool = False
    numbers: Tensor | None = None
    times: Tensor | None = None
    groups: Mapping[Grouping, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Dataset, queries: EncodedSide, read: Read = NOTHING, is_whole: bool = False) -> Part:
        """Builds a part from events, their encoded query side and what tasks read."""
        weights = None if events.weight is None else torch.from_numpy(events.weights)
        rows = torch.from_numpy(events.query_index), torch.from_numpy(events.candidate_index)
        times = None if events.limits is None else torch.from_numpy(events.times)
        groups = {one: torch.from_numpy(one.numbers(events)) for one in read.groupings}
        columns, numbers = target_columns(events, read.columns), None
        if ROW in events.interactions.column_names:
            numbers = torch.from_numpy(np.array(events.interactions[ROW].to_numpy()))
        return cls(queries, *rows, weights, columns, is_whole, numbers, times, groups)

    def __len__(self) -> int:
        return len(self.candidate_rows)

    def numbers_of(self, rows: Tensor) -> Tensor | None:
        """Numbers in the log of the events in these rows; None if they are not known."""
        if self.is_whole:
            return rows
        return None if self.numbers is None else self.numbers.index_select(0, rows)

    def to(self, device: torch.device) -> Part:
        """Copies the part to a device."""
        return Part(
            self.queries.to(device),
            self.query_rows.to(device),
            self.candidate_rows.to(device),
            None if self.weights is None else self.weights.to(device),
            {name: column.to(device) for name, column in self.columns.items()},
            self.is_whole,
            None if self.numbers is None else self.numbers.to(device),
            None if self.times is None else self.times.to(device),
            {grouping: groups.to(device) for grouping, groups in self.groups.items()},
        )


class Source(Protocol):
    """Provides training events, one epoch at a time."""

    @property
    def waited(self) -> float:
        """Seconds that training waited for events in the latest epoch."""
        ...

    def epoch(self, number: int) -> AbstractContextManager[Iterator[tuple[Part, Tensor]]]:
        """Iterates over the epoch's events in parts, each with the rows to train on in order, at most `[N]`.

        Every part but the last has a whole number of batches of them.
        """
        ...


def source_of(
    model: TwoTower, train: Log, batch_size: int, seed: int, read: Read = NOTHING, ranks: Ranks = ALONE
) -> Source:
    """Creates the source of batches for a fitted model.

    Args:
        model: The model, fitted on these events.
        train: The events.
        batch_size: Events per step.
        seed: Shuffles a streamed log.
        read: What tasks read of the events.
        ranks: The ranks that train together; with a streamed log, each encodes its part of every batch.

    Raises:
        ConfigError: Tasks group a streamed log in more than one way.
    """
    events = train.in_memory
    if events is None:
        return _Streamed(model, train, batch_size, seed, read, ranks)
    return _InMemory(model, events, read)


class _InMemory:
    """The whole data set as one part, shuffled with torch's random numbers."""

    waited = 0.0

    def __init__(self, model: TwoTower, train: Dataset, read: Read) -> None:
        queries = model.encode_queries(train, of_training=True)
        self.part = Part.of(train, queries, read, is_whole=True).to(model.device)
        self.device = model.device

    def epoch(self, number: int) -> AbstractContextManager[Iterator[tuple[Part, Tensor]]]:
        del number
        order = torch.randperm(len(self.part)).to(self.device)
        return nullcontext(iter([(self.part, order)]))


class _Streamed:
    """Parts that a background thread reads, shuffles and encodes while the model trains on the previous part."""

    def __init__(self, model: TwoTower, train: Log, batch_size: int, seed: int, read: Read, ranks: Ranks) -> None:
        if len(read.groupings) > 1:
            ways = " and ".join("by query" if one.column is None else f"by {one.column!r}" for one in read.groupings)
            raise ConfigError(f"tasks group the events of a streamed log {ways}; expected one way, or a log in memory")
        self.ranks, self.read = ranks, read
        self.device, self.log, self.batch_size, self.seed = model.device, train, batch_size, seed
        self.encoder = model.query_encoder(of_training=True)
        numbers = [] if train.exposures is None else [ROW]
        self.columns = list(dict.fromkeys([*event_columns(train, self.encoder.reads), *read.names, *numbers]))
        self.grouped = self._gathered()
        self.waited = 0.0

    @contextmanager
    def epoch(self, number: int) -> Iterator[Iterator[tuple[Part, Tensor]]]:
        self.waited = 0.0
        with one_ahead(self._encoded(number)) as parts:
            yield self._moved(parts)

    def _gathered(self) -> GroupedEvents | None:
        """The events by groups; None if no task groups them."""
        if not self.read.groupings:
            return None
        with opened(self.ranks.is_first) as display:
            report = display.reporter(f"preparing {self.log.name}")
            return GroupedEvents(self.log, self.read.groupings[0], self.batch_size, self.columns, report)

    def _events(self, number: int) -> Iterator[tuple[Dataset, IntArray]]:
        """The epoch's events in parts, each with the rows to train on in order."""
        if self.grouped is not None:
            yield from self.grouped.epoch(self.seed, number)
            return
        for events in self.log.shuffled(self.seed, number, self.batch_size, self.columns):
            yield events, np.arange(len(events))

    def _encoded(self, number: int) -> Generator[tuple[Part, IntArray]]:
        for events, order in self._events(number):
            try:
                part = Part.of(events, self._queries(events), self.read)
            except DataError as error:
                raise DataError(f"{error}; the row is in a shuffled part of the streamed log") from error
            yield part, order

    def _queries(self, events: Dataset) -> EncodedSide:
        """Encodes the query side of the events.

        With several ranks, only of the events that this rank embeds; members of lists may be embedded by any rank.
        """
        if self.ranks.size == 1 or self.grouped is not None:
            return self.encoder.encode(events)
        parts = []
        for begin in range(0, len(events), self.batch_size):
            part = self.ranks.part(min(self.batch_size, len(events) - begin))
            parts.append(np.arange(begin + part.start, begin + part.stop))
        own = np.concatenate(parts)
        return self.encoder.encode(events.take(own)).spread(torch.from_numpy(own), len(events))

    def _moved(self, parts: Iterator[tuple[Part, IntArray]]) -> Iterator[tuple[Part, Tensor]]:
        started = time.perf_counter()
        for part, order in parts:
            self.waited += time.perf_counter() - started
            yield part.to(self.device), torch.from_numpy(order).to(self.device)
            started = time.perf_counter()
