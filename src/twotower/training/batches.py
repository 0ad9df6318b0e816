"""Where the batches of an epoch come from: a data set encoded once, or a streamed log encoded part by part."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.log import Log, event_columns
from twotower.errors import DataError
from twotower.model.encoding import EncodedSide
from twotower.model.two_tower import TwoTower
from twotower.training.prefetch import one_ahead


@dataclass(frozen=True)
class Part:
    """Events on the training's device, encoded.

    Attributes:
        queries: The query side of each, `[N]` rows.
        query_rows: Row of each event's query, `[N]`.
        candidate_rows: Row of each event's candidate, `[N]`.
        weights: Weight of each event, `[N]`; None where all count the same.
    """

    queries: EncodedSide
    query_rows: Tensor
    candidate_rows: Tensor
    weights: Tensor | None

    @classmethod
    def of(cls, events: Dataset, queries: EncodedSide) -> Part:
        """The part of these events, given their encoded query side."""
        weights = None if events.weight is None else torch.from_numpy(events.weights)
        return cls(queries, torch.from_numpy(events.query_index), torch.from_numpy(events.candidate_index), weights)

    def __len__(self) -> int:
        return len(self.candidate_rows)

    def to(self, device: torch.device) -> Part:
        """The same on a device."""
        return Part(
            self.queries.to(device),
            self.query_rows.to(device),
            self.candidate_rows.to(device),
            None if self.weights is None else self.weights.to(device),
        )


class Source(Protocol):
    """The events of a training, an epoch at a time."""

    @property
    def waited(self) -> float:
        """Seconds of the latest epoch in which training waited for events."""
        ...

    def epoch(self, number: int) -> AbstractContextManager[Iterator[tuple[Part, Tensor]]]:
        """The epoch's events in parts, each with the order in which its events come, `[N]`.

        Every part but the last is made of whole batches.
        """
        ...


def source_of(model: TwoTower, train: Log, batch_size: int, seed: int) -> Source:
    """The source of batches for a model that has learned from these events."""
    events = train.in_memory
    return _Streamed(model, train, batch_size, seed) if events is None else _InMemory(model, events)


class _InMemory:
    """One part, in an order drawn by torch's random numbers."""

    waited = 0.0

    def __init__(self, model: TwoTower, train: Dataset) -> None:
        self.part = Part.of(train, model.encode_queries(train, of_training=True)).to(model.device)
        self.device = model.device

    def epoch(self, number: int) -> AbstractContextManager[Iterator[tuple[Part, Tensor]]]:
        del number
        order = torch.randperm(len(self.part)).to(self.device)
        return nullcontext(iter([(self.part, order)]))


class _Streamed:
    """Parts that a background thread reads, shuffles and encodes while the one before is trained on."""

    def __init__(self, model: TwoTower, train: Log, batch_size: int, seed: int) -> None:
        self.device, self.log, self.batch_size, self.seed = model.device, train, batch_size, seed
        self.encoder = model.query_encoder(of_training=True)
        self.columns = event_columns(train, self.encoder.reads)
        self.waited = 0.0

    @contextmanager
    def epoch(self, number: int) -> Iterator[Iterator[tuple[Part, Tensor]]]:
        self.waited = 0.0
        with one_ahead(self._encoded(number)) as parts:
            yield self._moved(parts)

    def _encoded(self, number: int) -> Generator[Part]:
        for events in self.log.shuffled(self.seed, number, self.batch_size, self.columns):
            try:
                queries = self.encoder.encode(events)
            except DataError as error:
                raise DataError(f"{error}; rows are counted in a shuffled part of the streamed log") from error
            yield Part.of(events, queries)

    def _moved(self, parts: Iterator[Part]) -> Iterator[tuple[Part, Tensor]]:
        started = time.perf_counter()
        for part in parts:
            self.waited += time.perf_counter() - started
            yield part.to(self.device), torch.arange(len(part), device=self.device)
            started = time.perf_counter()
