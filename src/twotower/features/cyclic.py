"""`Cyclic`: the hour of the day, the day of the week, the season of the year."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.features.base import Feature
from twotower.features.numeric import numbers_of

SECONDS = {"day": 86_400.0, "week": 7 * 86_400.0, "year": 365.2425 * 86_400.0}


class Cyclic(Feature):
    """A time as sine and cosine of its place in the day, the week or the year (UTC), so that ends meet.

    Args:
        column: The column to read: timestamps, or seconds since 1970.
        period: What comes round.
        harmonics: How many waves: 1 tells morning from evening, more tell shorter spans apart.

    Example:
        >>> noon = Cyclic("at", period="day")
        >>> noon(noon.encode(pa.chunked_array([[43200]]))).round().tolist()[0][:2]
        [0.0, -1.0]
    """

    kind = "cyclic"

    def __init__(self, column: str, period: Literal["day", "week", "year"] = "day", harmonics: int = 3) -> None:
        super().__init__()
        if harmonics < 1:
            raise ConfigError(f"cyclic {column!r}: harmonics={harmonics}; expected at least 1")
        self.column, self.period, self.harmonics, self.width = column, period, harmonics, 2 * harmonics

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """Sines and cosines, float32 `[N, 2 · harmonics]`, zeros where missing."""
        share = numbers_of(column, self.column) / SECONDS[self.period] % 1.0
        angle = 2 * np.pi * share[:, None] * np.arange(1, self.harmonics + 1)
        waves = np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(len(share), -1)
        return torch.from_numpy(np.nan_to_num(waves).astype(np.float32))

    def forward(self, encoded: Tensor) -> Tensor:
        """What was encoded, `[n, 2 · harmonics]`."""
        return encoded
