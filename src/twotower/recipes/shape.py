"""The shape of a log: what the tuned recipe reads of it to decide how to train."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twotower.data.log import Log
from twotower.data.splits import SplitRule

FEW_EVENTS = 20.0
"""Events a query, on average, below which an embedding of the query's own has little to learn from."""

OFTEN_REPEATED = 0.2
"""Share of events that repeat a pair of their log, from which on repeats are part of what is asked for."""


@dataclass(frozen=True)
class Shape:
    """What matters of a log's training events.

    Attributes:
        events: How many.
        candidates: Rows of the candidate table.
        events_per_query: Mean number of events of the queries that have any.
        repeated: Share of the events whose query chose the same candidate before.
        tells_past: Whether histories can be read, and only what came before an event.
    """

    events: int
    candidates: int
    events_per_query: float
    repeated: float
    tells_past: bool

    @classmethod
    def of(cls, train: Log, rule: SplitRule | None) -> Shape:
        """The shape of a log that is cut by this rule.

        Repeats of a log on disk are counted where histories can be read, for which it is sorted anyway.
        """
        counts = train.query_counts()
        around = rule is not None and rule.interpolates
        tells_past = train.time is not None and not around
        return cls(
            events=len(train),
            candidates=train.candidates.num_rows,
            events_per_query=len(train) / max(1, int((counts > 0).sum())),
            repeated=_repeated(train) if tells_past or train.in_memory is not None else 0.0,
            tells_past=tells_past,
        )

    @property
    def is_sparse(self) -> bool:
        """Whether queries are better known by what they chose than by an embedding of their own."""
        return self.tells_past and self.events_per_query < FEW_EVENTS

    @property
    def monitor(self) -> str:
        """The metric that says which epoch is best: without what the query has, unless it often wants that again.

        Where few events repeat, the new choices alone decide. Under `unseen`, a repeated choice is the only one left of
        what its query has, so that a model that recalls train would win.
        """
        if self.repeated >= OFTEN_REPEATED:
            return "all.ndcg_10"
        return "new.ndcg_10" if self.repeated > 0 else "unseen.ndcg_10"


def _repeated(train: Log) -> float:
    """Share of the events that repeat a pair of query and candidate."""
    if len(train) == 0:
        return 0.0
    events, distinct = train.sorted_events(), 0
    for piece in events.pieces():
        pairs = events.query_numbers(piece) * train.candidates.num_rows + events.candidates[piece.events]
        distinct += len(np.unique(pairs))
    return 1.0 - distinct / len(events)
