"""Reads a column of numbers; values may be missing but not infinite or NaN."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.data.inference import NUMBERS, first_stray
from twotower.data.lookalike import lookalike
from twotower.errors import CellError, DataError
from twotower.features.tables import wrong_kind


def numbers_of(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.float64]:
    """The column as float64 `[N]`, NaN only for missing values; timestamps as seconds since 1970.

    Raises:
        DataError: A value is not a number, infinite or NaN; names column, row and value.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        seconds = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).cast(pa.float64(), safe=False)
        return np.asarray(seconds.to_numpy(), dtype=np.float64) / 1e6
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        if (found := lookalike(column)) is not None:
            raise CellError(name, found.row, f"{found.reason}; expected numbers")
        stray = first_stray(column, NUMBERS) if pa.types.is_string(kind) else None
        raise wrong_kind(column, name, "a number", stray)
    values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    bad = ~np.isfinite(values) & ~np.asarray(column.is_null().to_numpy(), dtype=bool)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise CellError(name, row, f"{values[row]}; expected a finite number, or null where it is missing")
    return values


def require_values(values: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
    """The values that are not missing.

    Raises:
        DataError: All are missing.
    """
    present: npt.NDArray[np.float64] = values[~np.isnan(values)]
    if len(present) == 0:
        raise DataError(f"column {name!r}: every value in train is missing; expected at least one number")
    return present
