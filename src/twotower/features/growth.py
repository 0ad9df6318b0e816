"""How vocabularies grow: which values gain a row, which lose theirs, and where each row of the new table comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from twotower.features.lookups import Table
from twotower.features.tables import places_of, vocabulary_of

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SeenAt:
    """When values were last seen; values not seen since `limit` are retired.

    Attributes:
        times: Seconds of the latest event of each row given to a feature, `[N]`.
        begin: Seconds of the first of these events; a value that is in no row was last seen before that.
        limit: Retire values last seen before this time, in seconds; −∞ retires none.
    """

    times: FloatArray
    begin: float
    limit: float = -math.inf


@dataclass(frozen=True, eq=False)
class Rows:
    """Where the rows of a grown table come from.

    Attributes:
        sources: The old table's row that each row continues or is initialised from, int64 `[rows]`.
        is_new: Whether a row is new: its weights are a copy of the source's and it has no optimiser state, bool
            `[rows]`.

    Example:
        >>> rows = Rows(torch.tensor([0, 2, 0]), torch.tensor([False, False, True]))  # row 1 is retired, one is new
        >>> rows.weights(torch.tensor([[0.0], [0.1], [0.2]])).flatten().tolist()
        [0.0, 0.20000000298023224, 0.0]
        >>> rows.moments(torch.tensor([[5.0], [6.0], [7.0]]), initial=0.5).flatten().tolist()
        [5.0, 7.0, 0.5]
    """

    sources: Tensor
    is_new: Tensor

    @classmethod
    def between(cls, old: pa.Array, new: pa.Array, first: int, start: int) -> Rows:
        """The rows of a table whose vocabulary changes from `old` to `new`.

        Args:
            old: The old vocabulary.
            new: The new vocabulary.
            first: Row of the first value in both tables; the rows before it stay.
            start: The row that new values are initialised from.
        """
        places = torch.from_numpy(places_of(new, old))
        front = torch.arange(first)
        is_new = torch.cat([torch.zeros(first, dtype=torch.bool), places < 0])
        return cls(torch.cat([front, torch.where(places < 0, start, places + first)]), is_new)

    def weights(self, table: Tensor) -> Table:
        """The new table, from an old one `[rows, dim]`."""
        return Table(table.detach().index_select(0, self.sources.to(table.device)))

    def moments(self, moments: Tensor, initial: float) -> Tensor:
        """The optimiser state of the new table's rows, from that of the old table `[rows, …]`.

        Args:
            moments: The old table's state.
            initial: Value for new rows.
        """
        taken = moments.index_select(0, self.sources.to(moments.device))
        taken[self.is_new.to(moments.device)] = initial
        return taken


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Values with a row each, and when each was last seen.

    Attributes:
        values: The values.
        last_seen: Seconds, `[values]`; None if not recorded.
    """

    values: pa.Array
    last_seen: FloatArray | None = None

    def grown(
        self, column: pa.ChunkedArray | pa.Array, seen_at: SeenAt | None = None, size: int | None = None
    ) -> Vocabulary:
        """The vocabulary extended by a column of the same type: the values it keeps, in order, then the new ones.

        New values are sorted by descending frequency, ties in ascending order.

        Args:
            column: The values seen.
            seen_at: When each row of the column was last seen; None if unknown, and nothing is retired.
            size: Maximum size; existing values are never dropped to make room for new ones.

        Example:
            >>> seen_at = SeenAt(np.array([100.0, 120.0]), begin=90.0, limit=50.0)
            >>> grown = Vocabulary(pa.array(["a", "b"]), np.array([10.0, 60.0])).grown(pa.array(["c", "c"]), seen_at)
            >>> grown.values.to_pylist(), grown.last_seen.tolist()
            (['b', 'c'], [60.0, 120.0])
        """
        new = vocabulary_of(column.filter(pc.invert(pc.is_in(column, value_set=self.values))))
        new = new if size is None else new[: max(0, size - len(self.values))]
        values = pa.concat_arrays([self.values, new])
        if seen_at is None:
            return Vocabulary(values)
        last = np.full(len(values), seen_at.begin)
        if self.last_seen is not None:
            last[: len(self.values)] = self.last_seen
        places = places_of(column, values)
        known = places >= 0
        np.maximum.at(last, places[known], seen_at.times[known])
        kept = last >= seen_at.limit
        return Vocabulary(values.filter(pa.array(kept)), last[kept])
