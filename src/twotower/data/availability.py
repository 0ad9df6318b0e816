"""`Availability`: when each candidate could be chosen; at other times it is no rival of what was chosen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.data.checks import check_times, require_columns
from twotower.data.place import Place
from twotower.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Availability:
    """From when until when each candidate is available, both included.

    Attributes:
        since: In seconds, −∞ without a limit, `[C]`.
        until: In seconds, ∞ without a limit, `[C]`.

    Example:
        >>> films = Availability(np.array([-np.inf, 50.0]), np.array([20.0, np.inf]))
        >>> films.lacks(np.array([10.0, 30.0])).tolist()
        [[False, True], [True, True]]
    """

    since: FloatArray
    until: FloatArray

    def lacks(self, times: FloatArray) -> BoolArray:
        """Which candidates are not available at each of some times in seconds, `[n]` to `[n, C]`."""
        at = times[:, np.newaxis]
        missing: BoolArray = (at < self.since) | (at > self.until)
        return missing

    def digest(self) -> str:
        """Sixteen hex digits of a hash of all limits, in order."""
        return hashlib.sha256(self.since.tobytes() + self.until.tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class _Rows(Place):
    """Some rows of a table, given their numbers."""

    numbers: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def row(self, number: int) -> str:
        return super().row(int(self.numbers[number]))


def with_limits(candidates: pa.Table, since: str | None, until: str | None, time: str | None) -> pa.Table:
    """A candidate table whose columns of limits are in seconds; null where a candidate has none.

    Args:
        candidates: The table.
        since: The column that says from when a candidate is available; None if there is none.
        until: The column that says until when; None if there is none.
        time: The column of the times of events.

    Raises:
        ConfigError: The log has no times.
        DataError: A column is missing, a limit is not a time, or a candidate ends before it begins.
    """
    names = {"available_from": since, "available_until": until}
    columns = {role: column for role, column in names.items() if column is not None}
    if columns and time is None:
        role, column = next(iter(columns.items()))
        raise ConfigError(
            f"{role}={column!r} without time; expected time=…, the column of the events' times", field=role
        )
    require_columns(candidates, list(columns.values()), "candidates")
    for column in columns.values():
        given, limits = candidates[column], np.full(candidates.num_rows, np.nan)
        rows = np.flatnonzero(given.is_valid().to_numpy())
        if rows.size:
            limits[rows] = check_times(given.drop_null(), column, _Rows(table="candidates", numbers=rows)).to_numpy()
        place = candidates.column_names.index(column)
        candidates = candidates.set_column(place, column, pa.array(limits, from_pandas=True))
    known = availability_of(candidates, since, until)
    if known is not None and (wrong := np.flatnonzero(known.since > known.until)).size:
        row = int(wrong[0])
        raise DataError(
            f"candidates, column {until!r}, row {row}: available from {known.since[row]:.0f} until "
            f"{known.until[row]:.0f} (rows affected: {len(wrong)}); expected an end that is not before its beginning",
            column=until,
            row=row,
        )
    return candidates


def availability_of(candidates: pa.Table, since: str | None, until: str | None) -> Availability | None:
    """The limits in a table from `with_limits`; None if it has no such columns."""
    if since is None and until is None:
        return None

    def limits(column: str | None, missing: float) -> FloatArray:
        if column is None:
            return np.full(candidates.num_rows, missing)
        values = candidates[column].cast(pa.float64()).to_numpy()
        return np.where(np.isnan(values), missing, values)

    return Availability(limits(since, -np.inf), limits(until, np.inf))
