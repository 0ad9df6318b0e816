"""`Recorded`: what features that read the record of training share, so that one model keeps it once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import pyarrow as pa
from torch import Tensor

from twotower.features.base import BoolArray, Columns, Feature, RecordKey, require_fitted
from twotower.features.growth import Rows, SeenAt
from twotower.features.record import Record
from twotower.features.tables import cast_like, places_of


class Recorded(Feature):
    """A feature that reads what its query did in training.

    Features of one model that read the same columns share one `Record`, which is saved beside what each `learned`. In
    training the event itself is in the record, and is taken out of what its own encoding says: elsewhere it would not
    be there.
    """

    record: Record | None = None
    _shared: Record | None = None

    @property
    @abstractmethod
    def record_key(self) -> RecordKey:
        """The columns of its record."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The id and the time; never what was chosen."""
        return (self.record_key.by, self.record_key.time)

    @property
    def learns_from(self) -> tuple[str, ...]:
        """The id, the time and, where it matters, what was chosen."""
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
        """Learns from the record that it shares, or else from one of its own."""
        record, self._shared = self._shared, None
        self.fit_record(Record.of(columns, self.record_key) if record is None else record, columns)

    def share_record(self, record: Record) -> None:
        """Takes the record that the next `fit_columns` or `grow` is to learn from."""
        self._shared = record

    def grow(self, columns: Columns, seen_at: SeenAt | None = None) -> dict[str, Rows]:
        """Goes on with the record that it shares; without one, as `replace_record` with one of these columns."""
        del seen_at
        require_fitted(self, self.record)
        assert self.record is not None
        record, self._shared = self._shared, None
        if record is None:
            record = Record.of(columns, self.record_key, self.record.vocabulary)
        return self.grow_record(record)

    def grow_record(self, record: Record) -> dict[str, Rows]:
        """Keeps a record that has grown, and gives new items their rows, as `grow` says; default: it has none."""
        self.replace_record(record)
        return {}

    @abstractmethod
    def take_record(self, record: Record) -> None:
        """Keeps the record and makes the parameters."""

    def replace_record(self, record: Record) -> None:
        """Keeps another record, of the same vocabulary; what was learned stays."""
        self.record = record

    def fit_record(self, record: Record, columns: Columns) -> None:
        """Keeps the record, makes the parameters, and learns what else is to learn from the training events."""
        del columns
        self.take_record(record)

    @abstractmethod
    def encode_training(self, columns: Columns) -> Tensor:
        """Encodes events of training, which are in the record, as if each were not there itself."""


def record_groups(features: Iterable[Feature]) -> list[tuple[RecordKey, list[Recorded]]]:
    """The records that features need, and who shares each: those without items join one that has them."""
    recorded = [feature for feature in features if isinstance(feature, Recorded)]
    groups: dict[RecordKey, list[Recorded]] = {}
    for feature in sorted(recorded, key=lambda feature: feature.record_key.item is None):
        wanted = feature.record_key
        joined = next((key for key in groups if (key.by, key.time) == (wanted.by, wanted.time)), wanted)
        groups.setdefault(joined if wanted.item is None else wanted, []).append(feature)
    return list(groups.items())
