"""`Vector`: an embedding that another model made, such as of a text or an image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from twotower.errors import ConfigError, DataError
from twotower.features.base import Feature


class Vector(Feature):
    """A column of vectors, as they are or through a trained linear map; zeros where missing.

    Args:
        column: The column to read: lists of numbers, all of the same length.
        size: Numbers in each vector.
        dim: Numbers that a trained linear map makes of it; None passes the vector on as it is.

    Example:
        >>> image = Vector("image", size=2)
        >>> image.fit(pa.chunked_array([[[3.0, 4.0], [0.0, 5.0]]]))
        >>> image(image.encode(pa.chunked_array([[[3.0, 4.0], None]]))).tolist()
        [[3.0, 4.0], [0.0, 0.0]]
    """

    kind = "vector"

    def __init__(self, column: str, size: int, dim: int | None = None) -> None:
        super().__init__()
        if size < 1 or (dim is not None and dim < 1):
            raise ConfigError(f"vector {column!r}: size={size}, dim={dim}; expected both at least 1")
        self.column, self.size, self.dim, self.width = column, size, dim, dim or size
        self.map = None if dim is None else nn.Linear(size, dim, bias=False)

    def fit(self, column: pa.ChunkedArray) -> None:
        """Checks the vectors, and starts the map anew."""
        self.encode(column)
        if self.map is not None:
            self.map.reset_parameters()

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """The vectors, float32 `[N, size]`.

        Raises:
            DataError: A vector is of another length or holds what is no finite number.
        """
        present = pc.is_valid(column).to_numpy()
        if pa.types.is_null(column.type):
            return torch.zeros(len(column), self.size)
        if not any(
            check(column.type) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        ):
            raise DataError(f"column {self.column!r}, row 0: {column[0].as_py()!r} is {column.type}; expected a list")
        lengths = pc.list_value_length(column).to_numpy()
        wrong = np.flatnonzero(present & (lengths != self.size))
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"column {self.column!r}, row {row}: a vector of {int(lengths[row])} numbers; expected {self.size}"
            )
        flat = np.asarray(pc.list_flatten(column.drop_null()).cast(pa.float64()).to_numpy(), dtype=np.float32)
        vectors: npt.NDArray[np.float32] = np.zeros((len(column), self.size), dtype=np.float32)
        vectors[np.asarray(present)] = flat.reshape(-1, self.size)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise DataError(f"column {self.column!r}, row {int(bad[0])}: not finite; expected finite numbers")
        return torch.from_numpy(vectors)

    def forward(self, encoded: Tensor) -> Tensor:
        """Vectors `[n, size]` as `[n, width]`."""
        mapped: Tensor = encoded if self.map is None else self.map(encoded)
        return mapped
