"""`Outcomes`: the ranks of a scorer for every test event, kept so that two scorers can be compared event by event."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.arrow import read_table, table_bytes
from twotower.data.dataset import Dataset
from twotower.errors import DataError, SavedFolderError
from twotower.evaluation.metrics import FloatArray, IntArray, event_values
from twotower.files import write_file

PROTOCOLS = ("all", "unseen")
"""`all`: nothing is excluded; `unseen`: the candidates that the query has in train are excluded."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The ranks of one scorer, event by event.

    Attributes:
        ranks: Ranks of the true candidates under `all` and `unseen`, `[2, N]`.
        queries: Row of each event's query, `[N]`.
        repeats: Whether the event's query has its candidate in train, `[N]`.
        weights: Weight of each event, above 0, `[N]`; None for equal weights.
    """

    ranks: npt.NDArray[np.float32]
    queries: IntArray
    repeats: npt.NDArray[np.bool_]
    weights: FloatArray | None = None

    def values(self, protocol: str, metric: str) -> FloatArray:
        """Contribution of each event to the mean of a metric such as `top_100`, `[N]`."""
        return event_values(self.ranks[PROTOCOLS.index(protocol)].astype(np.float64), metric)

    def write(self, path: Path) -> None:
        """Writes the outcomes to an Arrow file."""
        columns = {name: pa.array(own) for name, own in zip(PROTOCOLS, self.ranks, strict=True)}
        columns |= {"query": pa.array(self.queries), "repeats": pa.array(self.repeats)}
        if self.weights is not None:
            columns["weight"] = pa.array(self.weights)
        write_file(path, table_bytes(pa.table(columns)))

    @classmethod
    def read(cls, path: Path) -> Outcomes:
        """Reads a file written by `write`.

        Raises:
            SavedFolderError: The file is missing, damaged or has other contents.
        """
        try:
            table = read_table(path)
            ranks = np.stack([table[name].to_numpy() for name in PROTOCOLS]).astype(np.float32)
            weights = table["weight"].to_numpy() if "weight" in table.column_names else None
            return cls(ranks, table["query"].to_numpy(), table["repeats"].to_numpy(), weights)
        except (OSError, ValueError, KeyError) as error:
            raise SavedFolderError(f"{path} does not contain ranks of test events: {error}") from error


def repeats_of(events: Dataset, train: Dataset) -> npt.NDArray[np.bool_]:
    """Whether each event's query has its candidate in train, `[N]`."""
    size = events.candidates.num_rows
    pairs, known = (data.query_index * size + data.candidate_index for data in (events, train))
    repeats: npt.NDArray[np.bool_] = np.isin(pairs, known)
    return repeats


def events_that_count(events: Dataset) -> Dataset:
    """The events with a weight above 0; all events if the log has no weights.

    Raises:
        DataError: Every weight is 0.
    """
    counting = events.weights > 0
    if counting.all():
        return events
    if not counting.any():
        raise DataError(f"interactions, column {events.weight!r}: every event to measure on has weight 0")
    return events.take(counting)


def event_weights(events: Dataset) -> FloatArray | None:
    """Weight of each event in metrics, `[N]`; None if the log has no weights."""
    return None if events.weight is None else events.weights.astype(np.float64)
