"""`Step`: the events of one training step. What several tasks read is embedded only once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from twotower.data.grouped import Grouping
from twotower.model.encoding import EncodedSide
from twotower.model.heads import HeadModule, Side
from twotower.model.losses import Batch
from twotower.model.sides import candidate_side, query_side
from twotower.model.two_tower import TwoTower
from twotower.ranks import shared_rows


class Events(Protocol):
    """Encoded events from which steps are taken."""

    @property
    def queries(self) -> EncodedSide:
        """Query side of each event."""
        ...

    @property
    def query_rows(self) -> Tensor:
        """Row of each event's query, `[N]`."""
        ...

    @property
    def candidate_rows(self) -> Tensor:
        """Row of each event's candidate, `[N]`."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether these are all events of the log, in its order."""
        ...

    def numbers_of(self, rows: Tensor) -> Tensor | None:
        """Numbers in the log of the events in these rows; None if they are not known."""
        ...

    @property
    def weights(self) -> Tensor | None:
        """Weight of each event, `[N]`; None if all count the same."""
        ...

    @property
    def times(self) -> Tensor | None:
        """Time of each event in seconds, `[N]`; None if the log does not say when candidates are available."""
        ...

    @property
    def columns(self) -> Mapping[str, Tensor]:
        """Columns that tasks read, `[N]` each, NaN where a value is missing."""
        ...

    @property
    def groups(self) -> Mapping[Grouping, Tensor]:
        """Group of each event, `[N]` for each grouping that tasks use; negative for events without one."""
        ...


class Step:
    """The events of one training step, from which tasks compute their losses.

    Args:
        model: The model.
        events: All encoded events, or the part of them that is in memory.
        rows: Rows of the step's events, `[B]`.
        candidates: The encoded candidate table.
        vectors: Whether any task reads the towers' embeddings.
        embedding: Makes the context in which towers embed, such as one of lower precision.
        ranks: Receives the ranks of some events from retrieval losses; None discards them.
    """

    def __init__(
        self,
        model: TwoTower,
        events: Events,
        rows: Tensor,
        candidates: EncodedSide,
        vectors: bool,
        embedding: Callable[[], AbstractContextManager[object]],
        ranks: Tensor | None = None,
    ) -> None:
        self.model, self.events, self.rows, self.encoded = model, events, rows, candidates
        self._vectors, self._embedding = vectors, embedding
        weights = None if events.weights is None else events.weights.index_select(0, rows)
        queries, own = (of.index_select(0, rows) for of in (events.query_rows, events.candidate_rows))
        times = None if events.times is None else events.times.index_select(0, rows)
        self.batch = Batch(queries, own, weights, ranks, events.numbers_of(rows), times)

    @cached_property
    def queries(self) -> Side:
        """The query side of the step's events, `[B]`."""
        return self.queries_of(self.rows)

    def queries_of(self, rows: Tensor) -> Side:
        """The query side of the events at `rows`, counted over all events in memory."""
        with self._embedding():
            return _shared(lambda own: query_side(self.model, self.events.queries.gather(own), self._vectors), rows)

    def candidates_of(self, rows: Tensor) -> Side:
        """The candidates at `rows` of the candidate table."""
        with self._embedding():
            return _shared(lambda own: candidate_side(self.model, self.encoded.gather(own), self._vectors), rows)

    def embed_candidates(self, rows: Tensor) -> Tensor:
        """Embeddings of the candidates at `rows`, ready for a dot product, for retrieval losses."""
        with self._embedding():
            return shared_rows(lambda own: [self.model.candidate_vectors(self.encoded.gather(own))], rows)[0]

    def column(self, name: str) -> Tensor:
        """A column of the step's events, `[B]`, NaN where a value is missing."""
        return self.events.columns[name].index_select(0, self.rows)

    def logits(self, head: str, queries: Side, candidates: Tensor) -> Tensor:
        """A head's outputs before its link for query-candidate pairs, `[n]`; each candidate is embedded once.

        Args:
            head: Name of the head.
            queries: Query side of each pair.
            candidates: Row of each pair's candidate, `[n]`.
        """
        distinct, place = torch.unique(candidates, return_inverse=True)
        module: HeadModule = self.model.heads[head]
        side = self.candidates_of(distinct).take(place)
        with self._embedding():
            return module.logits(queries, side)


def _shared(make: Callable[[Tensor], Side], rows: Tensor) -> Side:
    """The side at `rows`; ranks that train together each compute a part of it."""

    def tensors(own: Tensor) -> list[Tensor]:
        side = make(own)
        return [side.features, side.vectors]

    return Side(*shared_rows(tensors, rows))
