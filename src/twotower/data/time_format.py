"""Times written in a format of their own, such as `%d.%m.%Y %H:%M`."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from twotower.errors import ConfigError

EXAMPLE = datetime(2024, 5, 31, 18, 30, tzinfo=UTC)


def check_time_format(time_format: str | None) -> None:
    """Refuses a format that cannot be read, or that does not give the year.

    Raises:
        ConfigError: It is one.
    """
    if time_format is None:
        return
    with suppress(ValueError):
        if datetime.strptime(EXAMPLE.strftime(time_format), time_format).year == EXAMPLE.year:
            return
    raise ConfigError(
        f"time_format={time_format!r}; expected a format as in Python's strptime, such as '%d.%m.%Y %H:%M'",
        field="time_format",
    )


def times_in(texts: pa.ChunkedArray, time_format: str) -> pa.ChunkedArray:
    """Text as timestamps, UTC without a zone; null where a text is not in the format.

    Example:
        >>> times_in(pa.chunked_array([["31.05.2024", "31.06.2024"]]), "%d.%m.%Y").to_pylist()[1] is None
        True
    """
    codes = pc.utf8_trim_whitespace(texts).combine_chunks().dictionary_encode()
    times = pa.array([_time(text, time_format) for text in codes.dictionary.to_pylist()], pa.timestamp("us"))
    return pa.chunked_array([times.take(codes.indices)])


def _time(text: str, time_format: str) -> datetime | None:
    try:
        time = datetime.strptime(text, time_format)
    except ValueError:
        return None
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)
