"""A feature of your own: the hour of the day at which something happened."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower import Feature


class Hour(Feature):
    """An embedding of each hour; a missing time has one of its own."""

    kind = "hour"
    read_as = "hour of the day"

    def __init__(self, column: str, dim: int = 4) -> None:
        super().__init__()
        self.column, self.dim, self.width = column, dim, dim
        self.table = torch.nn.Embedding(25, dim)

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """Seconds since 1970 as hours, 24 where they are missing, `[N]`."""
        hours = np.floor(column.to_numpy().astype(np.float64) / 3600) % 24  # what is missing is NaN
        return torch.from_numpy(np.nan_to_num(hours, nan=24.0)).long()

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeddings `[n, dim]`."""
        embedded: Tensor = self.table(encoded)
        return embedded
