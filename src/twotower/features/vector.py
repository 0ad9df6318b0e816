"""`Vector`: an embedding from another model, for example of a text or an image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from twotower.errors import CellError, ConfigError
from twotower.features.base import Columns, Feature, require_fitted
from twotower.features.growth import Rows, SeenAt
from twotower.features.lookups import Table, embed
from twotower.features.tables import wrong_kind

FloatArray = npt.NDArray[np.float32]

UNKNOWN, FIRST = 0, 1


class Vector(Feature):
    """A column of vectors, used as they are, trained further, or passed through a linear map; zeros if missing.

    Args:
        column: The column to read: lists of numbers, all of the same length.
        size: Length of each vector.
        dim: Output size of a trained linear map; None passes the vector through unchanged.
        trained: Learn a correction for each distinct vector of the training split, starting at zero, that is added to
            it; a vector that training did not see is not corrected.

    Example:
        >>> image = Vector("image", size=2)
        >>> image.fit(pa.chunked_array([[[3.0, 4.0], [0.0, 5.0]]]))
        >>> image(image.encode(pa.chunked_array([[[3.0, 4.0], None]]))).tolist()
        [[3.0, 4.0], [0.0, 0.0]]
    """

    kind = "vector"

    def __init__(self, column: str, size: int, dim: int | None = None, trained: bool = False) -> None:
        super().__init__()
        if size < 1 or (dim is not None and dim < 1):
            raise ConfigError(f"vector {column!r}: size={size}, dim={dim}; expected both at least 1")
        self.column, self.size, self.dim, self.trained, self.width = column, size, dim, trained, dim or size
        self.map = None if dim is None else nn.Linear(size, dim, bias=False)
        self.known: FloatArray | None = None
        self.table: Table | None = None

    def fit(self, column: pa.ChunkedArray) -> None:
        """Checks the vectors, stores the distinct ones if they are trained, and reinitialises the map."""
        self._vectors(column)
        if self.trained:
            self._take(np.unique(self._vectors(column.drop_null()), axis=0))
        if self.map is not None:
            self.map.reset_parameters()

    def grow(self, columns: Columns, seen_at: SeenAt | None = None) -> dict[str, Rows]:
        """Adds new vectors, each with a zero correction, if they are trained; none is dropped."""
        del seen_at
        if not self.trained:
            return {}
        require_fitted(self, self.known)
        assert self.known is not None
        assert self.table is not None
        old = {vector.tobytes() for vector in self.known}
        seen = np.unique(self._vectors(columns[self.column].drop_null()), axis=0)
        new = [vector for vector in seen if vector.tobytes() not in old]
        count = FIRST + len(self.known)
        sources = torch.cat([torch.arange(count), torch.full((len(new),), UNKNOWN)])
        rows = Rows(sources, torch.arange(len(sources)) >= count)
        self.known = np.stack([*self.known, *new])
        self.table = rows.weights(self.table)
        return {"table": rows}

    def learned(self) -> pa.Table:
        """The distinct vectors, if they are trained: one row per vector, one column per number."""
        known = np.empty((0, self.size), dtype=np.float32) if self.known is None else self.known
        return pa.table({str(place): known[:, place] for place in range(self.size)})

    def restore(self, state: pa.Table) -> None:
        """Restores the distinct vectors."""
        if self.trained:
            self._take(np.stack([state[name].to_numpy() for name in state.column_names], axis=1))

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """The vectors, float32 `[N, size]`; if trained, each preceded by its row in the table, `[N, 1 + size]`.

        Raises:
            DataError: A vector has the wrong length or holds a number that is not finite.
        """
        vectors = self._vectors(column)
        if not self.trained:
            return torch.from_numpy(vectors)
        require_fitted(self, self.known)
        assert self.known is not None
        place = {vector.tobytes(): FIRST + row for row, vector in enumerate(self.known)}
        rows = np.array([place.get(vector.tobytes(), UNKNOWN) for vector in vectors], dtype=np.float32)
        return torch.from_numpy(np.column_stack([rows, vectors]))

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded vectors as `[n, width]`."""
        vectors = encoded
        if self.trained:
            require_fitted(self, self.table)
            assert self.table is not None
            vectors = encoded[:, 1:] + embed(encoded[:, 0].long(), self.table, UNKNOWN)
        mapped: Tensor = vectors if self.map is None else self.map(vectors)
        return mapped

    def _vectors(self, column: pa.ChunkedArray) -> FloatArray:
        """The vectors, `[N, size]`; zeros if missing."""
        vectors: FloatArray = np.zeros((len(column), self.size), dtype=np.float32)
        if pa.types.is_null(column.type):
            return vectors
        if not any(
            check(column.type) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        ):
            raise wrong_kind(column, self.column, "a list")
        present = np.asarray(pc.is_valid(column).to_numpy())
        lengths = pc.list_value_length(column).to_numpy()
        wrong = np.flatnonzero(present & (lengths != self.size))
        if len(wrong):
            row = int(wrong[0])
            raise CellError(self.column, row, f"a vector of {int(lengths[row])} numbers; expected {self.size}")
        flat = np.asarray(pc.list_flatten(column.drop_null()).cast(pa.float64()).to_numpy(), dtype=np.float32)
        vectors[present] = flat.reshape(-1, self.size)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise CellError(self.column, int(bad[0]), "not finite; expected finite numbers")
        return vectors + 0.0  # no negative zeros, so that equal vectors have equal bytes

    def _take(self, known: FloatArray) -> None:
        self.known = np.ascontiguousarray(known, dtype=np.float32)
        self.table = Table(torch.zeros(FIRST + len(known), self.size))
