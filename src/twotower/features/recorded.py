"""`Recorded`: base class of features that read the training record, so that a model stores it once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace

import pyarrow as pa
from torch import Tensor

from twotower.features.base import BoolArray, Columns, Feature, RecordKey, require_fitted
from twotower.features.growth import Rows, SeenAt
from twotower.features.record import Record
from twotower.features.tables import cast_like, places_of


class Recorded(Feature):
    """A feature that reads the query's training events.

    Features of one model that read the same columns share one `Record`, which is saved next to each feature's `learned`
    state. During training the record contains the event itself, so the event is excluded from its own encoding, as it
    would be absent when serving.
    """

    record: Record | None = None
    _shared: Record | None = None

    @property
    @abstractmethod
    def record_key(self) -> RecordKey:
        """The columns of its record."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The query id and the time, never the chosen item."""
        return replace(self.record_key, item=None).columns

    @property
    def learns_from(self) -> tuple[str, ...]:
        """The query id and, if the record has them, the time and the chosen item."""
        return self.record_key.columns

    def knows(self, column: str, values: pa.ChunkedArray) -> BoolArray | None:
        """Which queries have events in the record."""
        if column != self.record_key.by:
            return None
        require_fitted(self, self.record)
        assert self.record is not None
        known: BoolArray = places_of(cast_like(values, self.record.ids.type, column), self.record.ids) >= 0
        return known

    def fit_columns(self, columns: Columns) -> None:
        """Learns from the shared record, or from its own if none is shared."""
        record, self._shared = self._shared, None
        self.fit_record(Record.of(columns, self.record_key) if record is None else record, columns)

    def share_record(self, record: Record) -> None:
        """Sets the record that the next `fit_columns` or `grow` learns from."""
        self._shared = record

    def grow(self, columns: Columns, seen_at: SeenAt | None = None) -> dict[str, Rows]:
        """Continues with the shared record; without one, builds a record of these columns."""
        del seen_at
        require_fitted(self, self.record)
        assert self.record is not None
        record, self._shared = self._shared, None
        if record is None:
            record = Record.of(columns, self.record_key, self.record.vocabulary)
        return self.grow_record(record)

    def grow_record(self, record: Record) -> dict[str, Rows]:
        """Stores a grown record and adds rows for new items, as in `grow`; default: no item rows."""
        self.replace_record(record)
        return {}

    @abstractmethod
    def take_record(self, record: Record) -> None:
        """Stores the record and creates the parameters."""

    def replace_record(self, record: Record) -> None:
        """Stores another record with the same vocabulary; the learned state stays."""
        self.record = record

    def fit_record(self, record: Record, columns: Columns) -> None:
        """Stores the record, creates the parameters and learns anything else from the training events."""
        del columns
        self.take_record(record)

    @abstractmethod
    def encode_training(self, columns: Columns) -> Tensor:
        """Encodes training events, which are in the record, as if each event itself were absent."""


def record_groups(features: Iterable[Feature]) -> list[tuple[RecordKey, list[Recorded]]]:
    """The records that features need, each with the features that share it.

    A feature that needs no items joins a record that has them.
    """
    recorded = [feature for feature in features if isinstance(feature, Recorded)]
    groups: dict[RecordKey, list[Recorded]] = {}
    for feature in sorted(recorded, key=lambda feature: feature.record_key.item is None):
        wanted = feature.record_key
        joined = next((key for key in groups if (key.by, key.time) == (wanted.by, wanted.time)), wanted)
        groups.setdefault(joined if wanted.item is None else wanted, []).append(feature)
    return list(groups.items())
