"""The shape of a log: the statistics by which the tuned recipe chooses its settings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twotower.data.log import Log
from twotower.data.splits import SplitRule

SPARSE_BELOW = 20.0
"""With fewer events per query than this on average, an embedding of the query's id has too little to learn from."""

LARGE_FROM = 300_000
"""With this many events, tables of their own for histories and candidates, and wider layers, may have enough to learn
from."""

FREQUENT_REPEATS_FROM = 0.2
"""From this share of repeated (query, candidate) pairs on, repeats are part of the task."""


@dataclass(frozen=True)
class Shape:
    """Statistics of a log's training events.

    Attributes:
        events: Number of events.
        candidates: Rows of the candidate table.
        ordered: Whether events have times.
        events_per_query: Mean number of events of the queries that have any.
        repeated: Share of the events whose query chose the same candidate before.
        reads_choices: Whether features read what else a query chose: only before the event, or in a log without times.
    """

    events: int
    candidates: int
    ordered: bool
    events_per_query: float
    repeated: float
    reads_choices: bool

    @classmethod
    def of(cls, train: Log, rule: SplitRule | None) -> Shape:
        """The shape of a log that is split by this rule.

        Repeats in a log on disk are counted only if histories are read, for which the log is sorted anyway.
        """
        counts = train.query_counts()
        around = rule is not None and rule.interpolates
        reads_choices = train.time is None or not around
        return cls(
            events=len(train),
            candidates=train.candidates.num_rows,
            ordered=train.time is not None,
            events_per_query=len(train) / max(1, int((counts > 0).sum())),
            repeated=_repeated(train) if reads_choices or train.in_memory is not None else 0.0,
            reads_choices=reads_choices,
        )

    @property
    def is_sparse(self) -> bool:
        """Whether a query's choices tell more than an embedding of its id."""
        return self.reads_choices and self.events_per_query < SPARSE_BELOW

    @property
    def is_large(self) -> bool:
        """Whether there are enough events for larger models."""
        return self.events >= LARGE_FROM

    @property
    def monitor(self) -> str:
        """The metric that selects the best epoch: excludes the query's earlier choices unless repeats are frequent.

        With few repeats, only new choices count. Under `unseen`, a repeated choice would be the only earlier choice
        left in its list, which would favour a model that memorises train.
        """
        if self.repeated >= FREQUENT_REPEATS_FROM:
            return "all.ndcg_10"
        return "new.ndcg_10" if self.repeated > 0 else "unseen.ndcg_10"


def _repeated(train: Log) -> float:
    """Share of the events that repeat a (query, candidate) pair."""
    if len(train) == 0:
        return 0.0
    events, distinct = train.sorted_events(), 0
    for piece in events.pieces():
        pairs = events.query_numbers(piece) * train.candidates.num_rows + events.candidates[piece.events]
        distinct += len(np.unique(pairs))
    return 1.0 - distinct / len(events)
