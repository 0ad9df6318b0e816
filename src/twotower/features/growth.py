"""How vocabularies grow: which values get a row, which lose theirs, and where each row of the new table comes from."""

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
    """When values were last seen, by which those that were not for long are retired.

    Attributes:
        times: Seconds of the latest event of each row that a feature is given, `[N]`.
        begin: Seconds of the first of these events; a value that no row names was last seen before.
        limit: Values last seen before this moment, in seconds, are retired; −∞: none.
    """

    times: FloatArray
    begin: float
    limit: float = -math.inf


@dataclass(frozen=True, eq=False)
class Rows:
    """Where the rows of a table that has grown come from.

    Attributes:
        sources: The row of the old table that each row continues, or starts from, int64 `[rows]`.
        is_new: Whether it starts from it: its weights are a copy, and optimisers know nothing of it, bool `[rows]`.

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
        """The rows of a table whose vocabulary was `old` and is `new`.

        Args:
            old: The old vocabulary.
            new: The new one.
            first: Row of the first value of either; the rows before it stay.
            start: The row that new values start from.
        """
        places = torch.from_numpy(places_of(new, old))
        front = torch.arange(first)
        is_new = torch.cat([torch.zeros(first, dtype=torch.bool), places < 0])
        return cls(torch.cat([front, torch.where(places < 0, start, places + first)]), is_new)

    def weights(self, table: Tensor) -> Table:
        """The new table, of an old one `[rows, dim]`."""
        return Table(table.detach().index_select(0, self.sources.to(table.device)))

    def moments(self, moments: Tensor, initial: float) -> Tensor:
        """What an optimiser knows of the new table's rows, of what it knew of the old one's `[rows, …]`.

        Args:
            moments: Of the old table.
            initial: What it starts with for new rows.
        """
        taken = moments.index_select(0, self.sources.to(moments.device))
        taken[self.is_new.to(moments.device)] = initial
        return taken


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Values that have a row each, and when each was last seen.

    Attributes:
        values: The values.
        last_seen: Seconds, `[values]`; None where nobody has kept it.
    """

    values: pa.Array
    last_seen: FloatArray | None = None

    def grown(
        self, column: pa.ChunkedArray | pa.Array, seen_at: SeenAt | None = None, size: int | None = None
    ) -> Vocabulary:
        """The vocabulary after a column of the same type: what it keeps in its order, then new values.

        New values are in order of their frequency, equally frequent ones ascending.

        Args:
            column: The values seen.
            seen_at: When each row of the column was last seen; None where nobody knows, and nothing is retired.
            size: Values to have, at most: those that it has already are not given up for new ones.

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
