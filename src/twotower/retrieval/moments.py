"""Times in requests: numbers as in a log, `datetime` and `date` objects, or ISO 8601 text."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from numbers import Real

import numpy as np
import pyarrow as pa

from twotower.data.checks import check_moment, per_second
from twotower.errors import DataError

ISO_DATE = re.compile(r"\d{4}-\d\d")
"""How an ISO 8601 time begins; other text is rejected rather than guessed at."""


def seconds_of(value: object, column: str) -> int | float:
    """A time in seconds since 1970, as an `int` if it is a whole number.

    Args:
        value: A number of seconds, or of milli-, micro- or nanoseconds if it is too large for seconds, as in a log; a
            `datetime` or `date`; or ISO 8601 text, which is UTC without a time zone.
        column: Name of its column, for errors.

    Raises:
        DataError: It is none of these, or not between 1970 and 2200.

    Example:
        >>> seconds_of("1997-11-09T04:45:27+01:00", "at"), seconds_of(date(1970, 1, 2), "at")
        (879047127, 86400)
        >>> seconds_of(879047127_000, "at")
        879047127
    """
    seconds = _timestamp(value, column)
    check_moment(seconds, column, value)
    return int(seconds) if seconds.is_integer() else seconds


def utc_text(seconds: float) -> str:
    """A time as readable text, in UTC.

    Example:
        >>> utc_text(879047127)
        '1997-11-09 03:45:27 UTC'
    """
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def is_date(kind: pa.DataType) -> bool:
    """Whether a column holds dates or timestamps."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def date_of(value: object, column: str, kind: pa.DataType) -> object:
    """A request's value converted to the type of its date or timestamp column.

    Raises:
        DataError: It is not a date or time.
    """
    seconds = seconds_of(value, column) if isinstance(value, Real) else _timestamp(value, column)
    return pa.scalar(int(seconds * 1_000_000), pa.timestamp("us")).cast(kind, safe=False).as_py()


def _timestamp(value: object, column: str) -> float:
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    if isinstance(value, str) and ISO_DATE.match(value):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise DataError(f"column {column!r} of the query: {value!r} is not an ISO 8601 time: {error}") from error
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, Real | Decimal) and not isinstance(value, bool):
        with suppress(OverflowError):
            number = float(value)
            return number / per_second(number, number)
    raise DataError(
        f"column {column!r} of the query: {value!r} is {type(value).__name__}; expected seconds since 1970 as a "
        f"number, or a date or time in ISO 8601, such as 2026-01-05T10:00:00Z"
    )
