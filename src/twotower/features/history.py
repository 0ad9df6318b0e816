"""`History`: the items that the query chose nearest to the event, before it or on both sides; all, without an order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from twotower.errors import CellError, ConfigError
from twotower.features.base import BoolArray, Columns, EncodedItems, Feature, RecordKey, require_fitted
from twotower.features.category import Category
from twotower.features.encoders import ENCODERS, Encoder, Window
from twotower.features.growth import Rows
from twotower.features.lookups import Table
from twotower.features.numeric import numbers_of
from twotower.features.record import FIRST, PADDING, UNKNOWN, FloatArray, IntArray, Places, Record
from twotower.features.recorded import Recorded
from twotower.features.shared import SharedItems, shared_items
from twotower.features.tables import cast_like, embedding_table, look_up
from twotower.randomness import uniform

GIVEN = "history"
"""The column in which a request may pass its own history: a list of item ids, latest last."""

GAPS = 24
"""Buckets of the time between the event and a choice; one more bucket stands for an unknown time."""

GAP_BUCKETS_PER_E_FOLD = 1.3
"""Buckets per factor of e in the gap: 24 buckets cover zero to three years."""

PREDICTION_READS = 8
"""Without a time, prediction reads this many times as many items as training."""

BLOCK = 1_310_720
"""Slots encoded at a time, to keep the intermediate arrays small."""


class History(Recorded):
    """The query's choices nearest to the event, from the training record.

    `before` reads the latest choices strictly before the event. `around` also reads as many from the event's
    instant on. Later choices exist only if the split holds out events from the middle of a query's life, as a
    random split does; when serving, use `before`. An event is never in its own history. A query that is not in
    the record has no history, unless the request passes one in a column `history`.

    Without a time, it reads the query's other choices. Training reads at most `length` of them, drawn for each event,
    so that the events of a query differ in what they read and the model cannot recognise the query by it. Prediction
    reads up to eight times as many, evenly from the most to the least frequent items.

    Encoders, by default `kernels`, or `totals` without a time:

    - `kernels`: several means, concatenated, each weighted by a learned function of the choice's place and of
      the time between it and the event;
    - `totals`: the mean, and the sum divided by the square root of the number of items, concatenated;
    - `summaries`: the mean weighted by learned recency, the last item and the mean of the last few, concatenated;
      cheap, and with dense layers on top as good as `gru` and `attention`;
    - `mean`: only the mean weighted by learned recency;
    - `gru`: the last state of a gated recurrent unit (Cho et al., EMNLP 2014; GRU4Rec, Hidasi et al., ICLR 2016);
    - `attention`: one block of causal self-attention over the items, read at the last one (SASRec, Kang
      and McAuley, ICDM 2018).

    Args:
        column: The id of the items in the log.
        by: The id of the queries.
        time: The time of the events; None for logs without times, as training then reads later choices too.
        length: How many items it reads before the event and, with `around`, how many after it; without a time, how
            many in training.
        dim: Dimension of an item's embedding.
        encoder: How the items are combined; `around` allows only `kernels`, no time only `totals`.
        reach: `before` or `around` the event; of no effect without a time.
        unknown_rate: Probability of treating an item as unknown during training.
        shared: Use the candidate tower's item embeddings: its `Category` of the same column and dim or, if the tower
            sums its features, the sum of all of them.

    Example:
        >>> log = {"who": ["a", "a", "b"], "what": ["x", "y", "x"], "at": [1, 2, 3]}
        >>> columns = {name: pa.chunked_array([values]) for name, values in log.items()}
        >>> latest = History("what", by="who", time="at", length=2, dim=4, encoder="mean")
        >>> latest.fit_columns(columns)
        >>> latest.encode_columns(columns)[:, 0]  # only the second event has an earlier choice: x, row 2
        tensor([[1, 1],
                [2, 1],
                [1, 1]], dtype=torch.int32)
    """

    kind = "history"

    def __init__(
        self,
        column: str,
        by: str,
        time: str | None = None,
        length: int = 20,
        dim: int = 32,
        encoder: Encoder | None = None,
        reach: Literal["before", "around"] = "before",
        unknown_rate: float = 0.02,
        shared: bool = False,
    ) -> None:
        super().__init__()
        if min(length, dim) < 1 or not 0 <= unknown_rate < 1:
            raise ConfigError(
                f"history {column!r}: length={length}, dim={dim}, unknown_rate={unknown_rate}; "
                f"expected each at least 1, and a rate in [0, 1)"
            )
        encoder = encoder or ("kernels" if time is not None else "totals")
        only = "totals" if time is None else "kernels" if reach == "around" else None
        if encoder not in ENCODERS or only not in (None, encoder):
            raise ConfigError(
                f"history {column!r}: encoder={encoder!r}, reach={reach!r}, time={time!r}; expected one of "
                f"{', '.join(ENCODERS)}, only kernels with reach='around' and only totals without a time"
            )
        self.column, self.by, self.time = column, by, time
        self.length, self.dim, self.encoder, self.reach = length, dim, encoder, reach
        self.unknown_rate, self.shared = unknown_rate, shared
        self.encode_window = ENCODERS[encoder](dim, length if time is None else self.slots, GAPS + 1)
        self.width = self.encode_window.width
        self.table: Table | None = None
        self._kept_rows: tuple[Record, pa.Array, IntArray] | None = None
        self._items: SharedItems | None = None
        self._are_candidates = False

    @property
    def slots(self) -> int:
        """How many items a window holds in prediction."""
        if self.time is None:
            return PREDICTION_READS * self.length
        return self.length if self.reach == "before" else 2 * self.length

    @property
    def read_as(self) -> str:
        """How it reads its column, as shown to users."""
        if self.time is None:
            return "other choices"
        return "earlier choices" if self.reach == "before" else "choices around the event"

    @property
    def record_key(self) -> RecordKey:
        """The query id, the time and the chosen item."""
        return RecordKey(self.by, self.time, self.column)

    @property
    def may_read(self) -> tuple[str, ...]:
        """The column of a history that the request passes."""
        return (GIVEN,)

    @property
    def look_ups(self) -> Sequence[tuple[Table, int]]:
        """The item embeddings, its own or the candidate tower's: one row per slot of a window in training."""
        slots = self.length if self.time is None else self.slots
        if self._items is not None:
            return self._items.look_ups(slots)
        return [] if self.table is None else [(self.table, slots)]

    def take_record(self, record: Record) -> None:
        """Stores the record, creates the table and reinitialises the encoder."""
        self.record = record
        if not self.shared:
            self.table = embedding_table(FIRST + len(record.vocabulary), self.dim)
        self.encode_window.reset_parameters()

    def grow_record(self, record: Record) -> dict[str, Rows]:
        """Stores the record; in its own table, new items start from the unknown item's embedding."""
        assert self.record is not None
        old, self.record = self.record, record
        if self.shared:
            return {}
        assert self.table is not None
        rows = Rows.between(old.vocabulary, record.vocabulary, FIRST, UNKNOWN)
        self.table = rows.weights(self.table)
        return {"table": rows}

    def share(self, items: SharedItems, *, are_candidates: bool = False) -> None:
        """Uses the item embeddings of the candidate tower.

        Args:
            items: The embeddings.
            are_candidates: Whether they are what the tower gives, without layers after them.

        Raises:
            ConfigError: Their dimension differs from `dim`.
        """
        if items.ids.dim != self.dim:
            raise ConfigError(
                f"{self}: shares embeddings of dimension {items.ids.dim}; expected dim={items.ids.dim} here"
            )
        self._items, self._are_candidates = items, are_candidates

    def learn_candidates(self, rows_of: Callable[[pa.Array], Columns]) -> None:
        """Encodes the items' attributes if the candidate tower's embeddings are shared."""
        if self._items is not None:
            self._items.take(rows_of(self.vocabulary))

    def grow_candidates(self, rows_of: Callable[[pa.Array], Columns], items: Rows | None) -> None:
        """Re-encodes the items' attributes; items no longer in the candidate table keep theirs."""
        if self._items is not None:
            self._items.grow(rows_of(self.vocabulary), items)

    @property
    def shares_with(self) -> Feature | None:
        """The candidate tower's feature whose embeddings it shares."""
        return None if self._items is None else self._items.ids

    @property
    def item_means(self) -> int:
        """The means of its encoder if it shares embeddings that the candidate tower gives as they are."""
        return self.encode_window.means if self._are_candidates else 0

    def learned(self) -> pa.Table:
        """The items' encoded attributes if the candidate tower's embeddings are shared."""
        return pa.table({}) if self._items is None else self._items.learned()

    def restore(self, state: pa.Table) -> None:
        """Restores the encoded attributes."""
        if self._items is not None:
            self._items.restore(state)

    @property
    def vocabulary(self) -> pa.Array:
        """The items with a row of the table, from `FIRST` on."""
        require_fitted(self, self.record)
        assert self.record is not None
        known = self.record.vocabulary if self._items is None else self._items.ids.vocabulary
        assert known is not None
        return known

    def encode_columns(self, columns: Columns) -> Tensor:
        """Rows of the table and buckets of the gaps in time, nearest first, int32 `[N, 2, slots]`."""
        return self._encoded(columns, None)

    def encode_training(self, columns: Columns) -> Tensor:
        """`encode_columns` for events of the record, each left out of its own history; `[N, 2, length]` if untimed."""
        return self._encoded(columns, columns[self.column])

    def as_unknown(self, encoded: Tensor, unknown: Tensor) -> Tensor:
        """Replaces these rows by an empty history."""
        where = unknown[:, None]
        return torch.stack([encoded[:, 0].masked_fill(where, PADDING), encoded[:, 1].masked_fill(where, GAPS)], dim=1)

    def items_of(self, encoded: Tensor) -> EncodedItems:
        """The items of one row `[1, 2, slots]`, and the row with each item's slot emptied in turn."""
        rows = encoded[0, 0]  # [slots]
        slots = (rows != PADDING).nonzero().squeeze(1)
        without = encoded.repeat(len(slots), 1, 1)
        without[torch.arange(len(slots)), 0, slots] = PADDING
        ids = [self.vocabulary[row - FIRST].as_py() if row >= FIRST else None for row in rows[slots].tolist()]
        return EncodedItems(self.column, ids, without)

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds `[n, 2, slots]` as `[n, width]`."""
        items, gaps = encoded[:, 0], encoded[:, 1]
        if self.training and self.unknown_rate > 0:
            dropped = uniform(items.shape, items.device) < self.unknown_rate
            items = items.masked_fill(dropped & (items != PADDING), UNKNOWN)
        present = items != PADDING
        if self._items is None:
            require_fitted(self, self.table)
            assert self.table is not None
            found: Tensor = self.encode_window(Window(items, gaps, present), self.table)
            return found
        table, places = self._items.embeddings(items)
        embedded: Tensor = self.encode_window(Window(places, gaps, present), table)
        return embedded

    def _encoded(self, columns: Columns, chosen: pa.ChunkedArray | None) -> Tensor:
        require_fitted(self, self.record)
        assert self.record is not None
        record = self.record
        ids = columns[self.by]
        times = np.zeros(len(ids)) if self.time is None else numbers_of(columns[self.time], self.time)
        places = record.places(ids, times)
        own = None
        if (self.time is None or self.reach == "around") and chosen is not None:
            own = record.own(places, chosen)
        slots = self.length if self.time is None and chosen is not None else self.slots
        encoded = np.empty((len(times), 2, slots), dtype=np.int32)
        step = max(1, BLOCK // slots)
        for start in range(0, len(times), step):
            block = slice(start, start + step)
            encoded[block] = self._window(record, places[block], times[block], None if own is None else own[block])
        if GIVEN in columns:
            self._take_given(encoded[:, 0], encoded[:, 1], columns[GIVEN])
        return torch.from_numpy(encoded)

    def _window(self, record: Record, places: Places, times: FloatArray, own: IntArray | None) -> IntArray:
        """Rows of the table and gap buckets of some events, `[n, 2, slots]`."""
        if self.time is None:
            place, there = all_of(places, self.slots) if own is None else drawn_others(places, own, self.length)
            items = np.where(there, self._rows(record, record.items[place]), PADDING)
            return np.stack([items, np.full_like(items, GAPS)], axis=1)
        steps = np.arange(self.length)
        before = places.instant[:, None] - 1 - steps  # [n, length]
        place, there = before, before >= places.begin[:, None]
        if self.reach == "around":
            ahead = places.instant[:, None] + steps
            if own is not None:
                ahead = ahead + ((own[:, None] >= 0) & (ahead >= own[:, None]))  # skip the event itself
            place = np.concatenate([before, ahead], axis=1)
            there = np.concatenate([there, ahead < places.end[:, None]], axis=1)
        place = np.clip(place, 0, len(record.items) - 1)
        items = np.where(there, self._rows(record, record.items[place]), PADDING)
        gaps = np.where(there, gap_buckets(record.times[place] - times[:, None]), GAPS)
        return np.stack([items, gaps], axis=1)

    def _rows(self, record: Record, items: npt.NDArray[np.int32]) -> IntArray:
        """Rows of the table for some of the record's items."""
        if self._items is None:
            return items.astype(np.int64)
        vocabulary, kept = self.vocabulary, self._kept_rows
        if kept is None or kept[0] is not record or kept[1] is not vocabulary:  # cached, as every request needs it
            found = look_up(record.vocabulary, vocabulary, first=FIRST, missing=UNKNOWN).numpy()
            kept = self._kept_rows = (record, vocabulary, np.concatenate([[UNKNOWN, PADDING], found]))
        return kept[2][items]

    def _take_given(self, items: npt.NDArray[np.int32], gaps: npt.NDArray[np.int32], given: pa.ChunkedArray) -> None:
        """Overwrites the recorded history with the one that a request passes."""
        for number, ids in enumerate(given.to_pylist()):
            if ids is None:
                continue
            most = items.shape[1] if self.time is None else self.length
            latest = pa.chunked_array([pa.array(ids[::-1][:most], given.type.value_type)])
            try:
                read = cast_like(latest, self.vocabulary.type, GIVEN)
            except CellError as error:
                raise CellError(GIVEN, number, error.reason) from error
            found = look_up(read, self.vocabulary, first=FIRST, missing=UNKNOWN).numpy()
            items[number], gaps[number] = PADDING, GAPS
            items[number, : len(found)] = found


def gap_buckets(seconds: FloatArray) -> IntArray:
    """Equal-width buckets of log(1 + |seconds|), from 0 to `GAPS` − 1; `GAPS` if unknown."""
    bucket = np.minimum(np.log1p(np.abs(seconds)) * GAP_BUCKETS_PER_E_FOLD, GAPS - 1)
    return np.where(np.isnan(bucket), GAPS, bucket).astype(np.int64)


def all_of(places: Places, slots: int) -> tuple[IntArray, BoolArray]:
    """Places of a query's events, evenly spread if there are more than `slots`, and which there are: `[n, slots]`."""
    events = places.end - places.begin
    steps = np.arange(slots)
    there = steps < events[:, None]
    place = places.begin[:, None] + steps * np.maximum(events, slots)[:, None] // slots
    return np.where(there, place, 0), there


def drawn_others(places: Places, own: IntArray, length: int) -> tuple[IntArray, BoolArray]:
    """Places of a query's other events, drawn if there are more than `length`, and which there are: `[n, length]`.

    One is drawn from each of `length` equal parts, from the most to the least frequent items, by a hash of the event's
    own place, so that every process and every order of events draws the same.
    """
    is_own = own >= 0
    others = places.end - places.begin - is_own
    steps = np.arange(length)
    there = steps < others[:, None]
    parts = np.maximum(others, length)[:, None]
    begin, end = steps * parts // length, (steps + 1) * parts // length
    seeds = np.where(is_own, own, places.begin)[:, None] * length + steps
    place = places.begin[:, None] + begin + hashed(seeds) % np.maximum(end - begin, 1)
    place = place + (is_own[:, None] & (place >= own[:, None]))
    return np.where(there, place, 0), there


def hashed(values: IntArray) -> IntArray:
    """Pseudo-random numbers from 0 to 2^31 − 1, one for each value (the mixing steps of SplitMix64)."""
    mixed = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed >> np.uint64(33)).astype(np.int64)


def share_embeddings(
    query: Sequence[Feature], candidate: Sequence[Feature], combine: str = "concat", *, are_candidates: bool = False
) -> None:
    """Gives the candidate tower's item embeddings to every history with `shared=True`.

    Args:
        query: The query tower's features.
        candidate: The candidate tower's features.
        combine: How the candidate tower combines them; histories share the whole of a `sum`.
        are_candidates: Whether the candidate tower gives them as they are, without layers.

    Raises:
        ConfigError: The candidate tower has no `Category` of that column, or one of another dimension.
    """
    for feature in query:
        if isinstance(feature, History) and feature.shared:
            items = shared_items(feature.column, candidate, combine)
            if items is None:
                names = ", ".join(one.column for one in candidate if isinstance(one, Category))
                raise ConfigError(
                    f"history {feature.column!r} shares embeddings with the candidate tower, which has no category "
                    f"feature of that column; expected one of {names or 'none'}"
                )
            feature.share(items, are_candidates=are_candidates)
