"""`History`: what the query chose last, strictly before the event."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twotower.errors import ConfigError
from twotower.features.base import Columns, Feature, require_fitted
from twotower.features.numeric import numbers_of
from twotower.features.record import Record
from twotower.features.tables import cast_like, embedding_table, look_up, vocabulary_of

PADDING, UNKNOWN, FIRST = 0, 1, 2
GIVEN = "history"
"""The column in which a request may bring its own history: a list of item ids, the latest last."""

Encoder = Literal["summaries", "mean", "gru", "attention"]


class History(Feature):
    """The query's latest choices strictly before the event, from the record of training.

    An event is never in its own history, nor is any other event of the same instant. A query that is not
    in the record has no history, unless the request brings one in a column `history`.

    Encoders:

    - `summaries`: side by side the mean weighted by learned recency, the last item, and the mean of the
      last `recent` ones; cheap, and with dense layers above it a match for the others;
    - `mean`: the mean weighted by learned recency alone;
    - `gru`: the last state of a gated recurrent unit (Cho et al., EMNLP 2014; GRU4Rec, Hidasi et al., ICLR 2016);
    - `attention`: one block of causal self-attention over the items, read at the last one (SASRec, Kang
      and McAuley, ICDM 2018).

    Args:
        column: The id of the items in the log.
        by: The id of the queries.
        time: The time of the events.
        length: How many items back it reads.
        dim: Numbers in an item's embedding.
        encoder: What it makes of them.
        recent: How many items `summaries` takes for the last ones.
        unknown_rate: Share of the items taken for unknown in training.

    Example:
        >>> log = {"who": ["a", "a", "b"], "what": ["x", "y", "x"], "at": [1, 2, 3]}
        >>> columns = {name: pa.chunked_array([values]) for name, values in log.items()}
        >>> latest = History("what", by="who", time="at", length=2, dim=4)
        >>> latest.fit_columns(columns)
        >>> latest.encode_columns(columns)  # only the second event has one before it: x, row 2
        tensor([[0, 0],
                [2, 0],
                [0, 0]], dtype=torch.int32)
    """

    kind = "history"

    def __init__(
        self,
        column: str,
        by: str,
        time: str,
        length: int = 20,
        dim: int = 32,
        encoder: Encoder = "summaries",
        recent: int = 3,
        unknown_rate: float = 0.02,
    ) -> None:
        super().__init__()
        if min(length, dim, recent) < 1 or not 0 <= unknown_rate < 1:
            raise ConfigError(
                f"history {column!r}: length={length}, dim={dim}, recent={recent}, unknown_rate={unknown_rate}; "
                f"expected each at least 1, and a rate in [0, 1)"
            )
        self.column, self.by, self.time = column, by, time
        self.length, self.dim, self.encoder, self.recent = length, dim, encoder, recent
        self.unknown_rate = unknown_rate
        self.width = 3 * dim if encoder == "summaries" else dim
        self.record: Record | None = None
        self.vocabulary: pa.Array | None = None
        self.table: nn.Parameter | None = None
        self.recency = nn.Parameter(torch.zeros(length))
        self.gru = nn.GRU(dim, dim, batch_first=True) if encoder == "gru" else None
        self.attention = _SelfAttention(dim, length) if encoder == "attention" else None

    @property
    def reads(self) -> tuple[str, ...]:
        """The id and the time; not what was chosen."""
        return (self.by, self.time)

    @property
    def learns_from(self) -> tuple[str, ...]:
        """The id, the time and what was chosen."""
        return (self.by, self.time, self.column)

    def fit_columns(self, columns: Columns) -> None:
        """Learns the vocabulary of items and the record of the queries."""
        vocabulary = vocabulary_of(columns[self.column])
        items = look_up(columns[self.column], vocabulary, first=FIRST, missing=PADDING).numpy().astype(np.int64)
        self._take(vocabulary, Record.of(columns[self.by], columns[self.time], items, self.time))
        with torch.no_grad():
            self.recency.copy_(-0.1 * torch.arange(self.length))

    def learned(self) -> pa.Table:
        """The record, one row an event, its items by their ids."""
        assert self.record is not None
        assert self.vocabulary is not None
        table = self.record.table()
        ids = self.vocabulary.take(pa.array(self.record.items - FIRST))
        return table.set_column(2, "item", ids)

    def restore(self, state: pa.Table) -> None:
        """Takes the record back."""
        vocabulary = vocabulary_of(state["item"])
        items = look_up(state["item"], vocabulary, first=FIRST, missing=PADDING).numpy().astype(np.int64)
        self._take(vocabulary, Record.of(state["id"], state["time"], items, "time"))

    def encode_columns(self, columns: Columns) -> Tensor:
        """Rows of the table, the latest item first, padded with 0: int32 `[N, length]`."""
        require_fitted(self, self.record)
        assert self.record is not None
        times = numbers_of(columns[self.time], self.time)
        begin, end = self.record.before(columns[self.by], times, self.by)
        place = end[:, None] - 1 - np.arange(self.length)  # [N, length]
        rows = np.where(place >= begin[:, None], self.record.items[np.maximum(place, 0)], PADDING)
        if GIVEN in columns:
            self._take_given(rows, columns[GIVEN])
        return torch.from_numpy(rows.astype(np.int32))

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds `[n, length]` rows as `[n, width]`."""
        require_fitted(self, self.table)
        assert self.table is not None
        if self.training and self.unknown_rate > 0:
            dropped = torch.rand(encoded.shape, device=encoded.device) < self.unknown_rate
            encoded = encoded.masked_fill(dropped & (encoded != PADDING), UNKNOWN)
        if self.gru is not None:
            return self._last_state(encoded, self.table, self.gru)
        if self.attention is not None:
            embedded: Tensor = self.attention(F.embedding(encoded, self.table), encoded != PADDING)
            return embedded
        weighted = self._weighted_mean(encoded, self.table)
        if self.encoder == "mean":
            return weighted
        last = F.embedding(encoded[:, 0], self.table, padding_idx=PADDING)
        recent = F.embedding_bag(encoded[:, : self.recent], self.table, mode="mean", padding_idx=PADDING)
        return torch.cat([weighted, last, recent], dim=1)

    def _weighted_mean(self, encoded: Tensor, table: Tensor) -> Tensor:
        weights = self.recency.exp() * (encoded != PADDING)  # [n, length]
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-9)
        return F.embedding_bag(encoded, table, mode="sum", per_sample_weights=weights, padding_idx=PADDING)

    def _last_state(self, encoded: Tensor, table: Tensor, gru: nn.GRU) -> Tensor:
        lengths = (encoded != PADDING).sum(dim=1)
        places = (lengths[:, None] - 1 - torch.arange(self.length, device=encoded.device)).clamp_min(0)
        states, _ = gru(F.embedding(encoded.gather(1, places), table))  # the earliest first
        last = states[torch.arange(len(encoded), device=encoded.device), (lengths - 1).clamp_min(0)]
        masked: Tensor = last * (lengths > 0).unsqueeze(1)
        return masked

    def _take_given(self, rows: np.ndarray, given: pa.ChunkedArray) -> None:
        """Replaces the record by what a request brings."""
        assert self.vocabulary is not None
        for number, ids in enumerate(given.to_pylist()):
            if ids is None:
                continue
            latest = pa.chunked_array([pa.array(ids[::-1][: self.length], given.type.value_type)])
            found = look_up(
                cast_like(latest, self.vocabulary.type, GIVEN), self.vocabulary, first=FIRST, missing=PADDING
            ).numpy()
            rows[number] = PADDING
            rows[number, : len(found)] = np.where(found == 0, UNKNOWN, found)

    def _take(self, vocabulary: pa.Array, record: Record) -> None:
        self.vocabulary, self.record = vocabulary, record
        self.table = embedding_table(FIRST + len(vocabulary), self.dim)
        with torch.no_grad():
            self.table[PADDING] = 0.0


class _SelfAttention(nn.Module):
    """One block of self-attention, read at the latest item: what precedes it is all it can see."""

    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.zeros(length, dim))
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.norm, self.feed = nn.LayerNorm(dim), nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, items: Tensor, present: Tensor) -> Tensor:
        """Items `[n, length, dim]`, the latest first, and which are there, as `[n, dim]`."""
        items = self.norm(items + self.places)
        logits = (self.key(items) @ self.query(items[:, 0]).unsqueeze(2)).squeeze(2) / items.shape[2] ** 0.5
        logits = logits.masked_fill(~present, torch.finfo(logits.dtype).min)
        mixed = (logits.softmax(dim=1).unsqueeze(1) @ self.value(items)).squeeze(1) + items[:, 0]
        fed: Tensor = (mixed + self.feed(mixed)) * present[:, :1]
        return fed
