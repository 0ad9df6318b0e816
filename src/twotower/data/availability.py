"""`Limits`, `Availability`: when each candidate could be chosen; at other times it does not rival what was chosen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.data.checks import check_times, require_columns
from twotower.data.origin import Origin
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
    """

    since: FloatArray
    until: FloatArray

    def lacks(self, candidates: IntArray, times: FloatArray) -> BoolArray:
        """Whether candidates, given by their rows, are not available at times in seconds; both are broadcast.

        Example:
            >>> films = Availability(np.array([-np.inf, 50.0]), np.array([20.0, np.inf]))
            >>> films.lacks(np.array([0, 1]), np.array([[10.0], [30.0]])).tolist()
            [[False, True], [True, True]]
        """
        missing: BoolArray = (times < self.since[candidates]) | (times > self.until[candidates])
        return missing

    def digest(self) -> str:
        """Sixteen hex digits of a hash of all limits, in order."""
        return hashlib.sha256(self.since.tobytes() + self.until.tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Limits:
    """The columns of a candidate table that say when its candidates are available.

    Attributes:
        available_from: From when; null without a limit. None if there is no such column.
        available_until: Until when, in the same way.
        time_format: How text is written, such as `%d.%m.%Y`; None: ISO 8601 or numbers.
    """

    available_from: str | None = None
    available_until: str | None = None
    time_format: str | None = None

    @property
    def columns(self) -> dict[str, str]:
        """The columns that there are, by role."""
        roles = {"available_from": self.available_from, "available_until": self.available_until}
        return {role: column for role, column in roles.items() if column is not None}

    def of(self, candidates: pa.Table, origin: Origin | None = None) -> Availability:
        """The availability of each candidate of a table.

        Args:
            candidates: The table.
            origin: The files that it was read from, for errors.

        Raises:
            DataError: A column is missing, a limit is not a time, or a candidate ends before it begins.
        """
        origin = Origin() if origin is None else origin
        since = self._seconds(candidates, self.available_from, -np.inf, origin)
        until = self._seconds(candidates, self.available_until, np.inf, origin)
        wrong = np.flatnonzero(since > until)
        if wrong.size:
            row = int(wrong[0])
            begins, ends = (candidates[name][row].as_py() for name in (self.available_from, self.available_until))
            raise DataError(
                f"candidates, column {self.available_until!r}, {Place(origin=origin).row(row)}: {ends!r}, but "
                f"{self.available_from!r} is {begins!r} (rows affected: {len(wrong)}); expected an end that "
                f"is not before it",
                column=self.available_until,
                row=row,
            )
        return Availability(since, until)

    def _seconds(self, candidates: pa.Table, column: str | None, missing: float, origin: Origin) -> FloatArray:
        """A column of limits in seconds, `[C]`; `missing` where there is none."""
        seconds = np.full(candidates.num_rows, missing)
        if column is None:
            return seconds
        require_columns(candidates, [column], "candidates")
        rows = np.flatnonzero(candidates[column].is_valid().to_numpy())
        if rows.size:
            place = _Rows(table="candidates", origin=origin, numbers=rows)
            given = candidates[column].drop_null()
            seconds[rows] = check_times(given, column, place, self.time_format, any_year=True).to_numpy()
        return seconds


def limits_in(candidates: pa.Table, time: str | None, limits: Limits, origin: Origin) -> Limits | None:
    """The limits of a log's candidates; None if no column is named.

    Args:
        candidates: The candidate table.
        time: The time column of the log.
        limits: The columns.
        origin: The files that the table was read from, for errors.

    Raises:
        ConfigError: The log has no times.
        DataError: As `Limits.of`.
    """
    for role, column in limits.columns.items():
        if time is None:
            raise ConfigError(
                f"{role}={column!r} without time; expected time=…, the column of the events' times", field=role
            )
    limits.of(candidates, origin)
    return limits if limits.columns else None


@dataclass(frozen=True)
class _Rows(Place):
    """Some rows of a table, given their numbers."""

    numbers: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def row(self, number: int) -> str:
        return super().row(int(self.numbers[number]))
