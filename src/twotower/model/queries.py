"""`QueryEncoder`: encodes the query side of events, all at once or part by part."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.place import Place, cell_errors_in
from twotower.features import Feature
from twotower.model.encoding import EncodedColumn, EncodedSide

EVENTS = Place(table="events")


class QueryEncoder:
    """Encodes events that share a query table; columns of that table are encoded once, with the first events.

    Args:
        features: The query tower's features.
        of_training: The events are those that the features learned from; each is excluded from its own query's
            history.
    """

    def __init__(self, features: Sequence[Feature], of_training: bool = False) -> None:
        self.features, self.of_training = features, of_training
        self._of_queries: dict[Feature, Tensor] = {}

    @property
    def reads(self) -> list[str]:
        """The columns it reads, without duplicates; those that only requests pass are not among them."""
        return list(dict.fromkeys(name for feature in self.features for name in self._needs(feature)))

    def encode(self, events: Dataset) -> EncodedSide:
        """The query side of each event.

        Raises:
            DataError: A column is missing or holds a value that cannot be encoded.
        """
        query_rows = torch.from_numpy(events.query_index)
        return EncodedSide([self._encoded(feature, events, query_rows) for feature in self.features], len(events))

    def _encoded(self, feature: Feature, events: Dataset, query_rows: Tensor) -> EncodedColumn:
        sources = {name: events.query_column(name) for name in self._needs(feature)}
        encode = feature.encode_training if self.of_training else feature.encode_columns
        if len(sources) > 1:
            by_event = {name: column.take(pa.array(rows)) for name, (column, rows) in sources.items()}
            with cell_errors_in(EVENTS):
                return EncodedColumn(encode(by_event))
        ((name, (column, rows)),) = sources.items()
        if rows is not events.query_index:
            with cell_errors_in(EVENTS):
                return EncodedColumn(encode({name: column}))
        if feature not in self._of_queries:
            with cell_errors_in(Place(table="queries")):
                self._of_queries[feature] = encode({name: column})
        return EncodedColumn(self._of_queries[feature], query_rows)

    def _needs(self, feature: Feature) -> tuple[str, ...]:
        return feature.learns_from if self.of_training else feature.reads
