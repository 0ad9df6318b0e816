"""`Cyclic`: the time of day, the day of the week or the season of the year, as sine and cosine."""

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
    """A time as the sine and cosine of its position in the day, week or year (UTC), so that the period wraps around.

    Args:
        column: The column to read: timestamps, or seconds since 1970.
        period: The period that repeats.
        harmonics: Number of frequencies: 1 tells morning from evening, more resolve shorter spans.

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
        """The encoded rows unchanged, `[n, 2 · harmonics]`."""
        return encoded
