"""`fingerprint`: a hash of events that does not depend on the order of their rows."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.data.lookup import IntArray, distinct_ids


class Tables(Protocol):
    """The query and candidate tables that events refer to."""

    @property
    def queries(self) -> pa.Table:
        """One row per query."""
        ...

    @property
    def candidates(self) -> pa.Table:
        """One row per candidate."""
        ...

    @property
    def query_id(self) -> str:
        """Name of the query id column."""
        ...

    @property
    def candidate_id(self) -> str:
        """Name of the candidate id column."""
        ...


class Events(Tables, Protocol):
    """Events as rows of the query and candidate tables, with times where the log has them."""

    @property
    def query_index(self) -> IntArray:
        """Row of each event's query, `[N]`."""
        ...

    @property
    def candidate_index(self) -> IntArray:
        """Row of each event's candidate, `[N]`."""
        ...

    @property
    def time(self) -> str | None:
        """Name of the time column; None if the events have no times."""
        ...

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Time of each event in seconds, `[N]`."""
        ...

    def __len__(self) -> int: ...


def fingerprint(*parts: Events) -> str:
    """Hash of the events (query id, candidate id, time) in each part: 12 hex digits, independent of row order."""
    digits = Fingerprint(parts[0])
    for part in parts:
        digits.add(len(part), digits.sums(part))
    return str(digits)


class Fingerprint:
    """Computes `fingerprint` for parts that are read piece by piece.

    Args:
        tables: The query and candidate tables of all parts.

    Example:
        >>> from twotower.data import simulated
        >>> data = simulated(20, 30, 100)
        >>> digits = Fingerprint(data)
        >>> digits.add(100, digits.sums(data.take(np.arange(60))) + digits.sums(data.take(np.arange(60, 100))))
        >>> str(digits) == fingerprint(data)
        True
    """

    def __init__(self, tables: Tables) -> None:
        self._digest = hashlib.sha256()
        sides = ((tables.queries, tables.query_id), (tables.candidates, tables.candidate_id))
        for table, column in sides:
            self._digest.update("\n".join(map(str, distinct_ids(table[column]).to_pylist())).encode())
        self._query_rank, self._candidate_rank = (_ranks(table[column].to_numpy()) for table, column in sides)

    def sums(self, events: Events) -> npt.NDArray[np.uint64]:
        """Two hash sums; those of a part are the sums over its pieces."""
        rows = mixed(self._query_rank[events.query_index], np.uint64(1))
        rows = mixed(rows + self._candidate_rank[events.candidate_index], np.uint64(2))
        if events.time is not None:
            rows = mixed(rows + events.times.view(np.uint64), np.uint64(3))
        # A sum does not depend on the row order, and counts every repetition of a row.
        return np.array([rows.sum(dtype=np.uint64), mixed(rows, np.uint64(4)).sum(dtype=np.uint64)])

    def add(self, events: int, sums: npt.NDArray[np.uint64]) -> None:
        """Adds a part to the hash, given its number of events and the total of its pieces' `sums`."""
        self._digest.update(f"{events}:{sums[0]}:{sums[1]}".encode())

    def __str__(self) -> str:
        return self._digest.hexdigest()[:12]


def _ranks(ids: npt.NDArray[np.generic]) -> npt.NDArray[np.uint64]:
    ranks = np.empty(len(ids), dtype=np.uint64)
    ranks[np.argsort(ids)] = np.arange(len(ids), dtype=np.uint64)
    return ranks


def mixed(values: npt.NDArray[np.uint64], salt: np.uint64) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): each input bit affects every output bit."""
    with np.errstate(over="ignore"):
        bits = (values + salt * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(bits ^ (bits >> np.uint64(31)), dtype=np.uint64)
