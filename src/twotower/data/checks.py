"""Checks of single columns; each error names the table, the column, the row, the value and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.arguments import refuse_nameless
from twotower.data.inference import NUMBERS, TIMES, first_stray, inferred, written_otherwise
from twotower.data.place import WHOLE, Place
from twotower.data.time_format import times_in
from twotower.errors import ConfigError, DataError

LATEST_TIME = 7_258_118_400.0
"""Seconds from 1970 to 2200-01-01; a later time is most likely in another unit."""

SMALLER_UNITS = (("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9))
"""Units of times besides seconds, each with its count per second."""

LARGEST_WEIGHT = 1e30
"""Largest weight accepted: weights are summed as float32, whose maximum is 3.4e38."""

EXACT_FLOATS = 2.0**53
"""float64 represents every whole number below this exactly, but not every one above."""

UnknownCandidates: TypeAlias = Literal["refuse", "drop"]
"""What to do with events whose candidate is not in the candidate table."""


def roles_of(
    query_id: str,
    candidate_id: str,
    time: str | None,
    weight: str | None,
    chosen: str | None = None,
    request: str | None = None,
) -> list[str]:
    """The interaction columns that are always read: ids first, then the others that are named.

    Raises:
        ConfigError: A column has two roles, or an empty name; or `chosen` and `request` are not used together with what
            they need.
    """
    roles = {"query_id": query_id, "candidate_id": candidate_id, "time": time, "weight": weight}
    roles |= {"chosen": chosen, "request": request}
    refuse_nameless("interactions", **roles)
    if request is not None and chosen is None:
        raise ConfigError(
            f"request={request!r} without chosen; expected chosen=…, the column that tells chosen rows from others",
            field="request",
        )
    if chosen is not None and time is None and request is None:
        raise ConfigError(
            f"chosen={chosen!r} without time and request; expected one of them, to tell which rows were shown together",
            field="chosen",
        )
    named = {role: column for role, column in roles.items() if column is not None}
    for column in named.values():
        same = [role for role, other in named.items() if other == column]
        if len(same) > 1:
            raise ConfigError(f"{' and '.join(same)} are both {column!r}; expected a separate column for each")
    return list(named.values())


def require_columns(table: pa.Table, wanted: Sequence[str], which: str) -> None:
    """Refuses a table in which a `wanted` column is missing or appears more than once."""
    for column in wanted:
        count = table.column_names.count(column)
        found = ", ".join(map(repr, table.column_names)) or "no columns"
        if count > 1:
            raise DataError(f"{which}: column {column!r} appears {count} times; expected it once, found {found}")
        if count == 0:
            near = difflib.get_close_matches(column, table.column_names, 1, cutoff=0.7)
            guess = f", did you mean {near[0]!r}?" if near else ";"
            raise DataError(f"{which}: column {column!r} is missing{guess} found {found}{_headless(table)}")


def _headless(table: pa.Table) -> str:
    """A hint if column names are numbers, as in a file whose first row is data."""
    number = next((name for name in table.column_names if name.replace(".", "", 1).isdigit()), None)
    return "" if number is None else f"; {number!r} is a number: if the file has no header, add one as its first line"


def check_data_name(name: str | None) -> None:
    """Refuses a name of a data set that is empty or blank: reports show it.

    Raises:
        ConfigError: It is.
    """
    if name is not None and not name.strip():
        raise ConfigError(f"data with name={name!r}; expected a name to show in reports", field="name")


def check_ids(column: pa.ChunkedArray, name: str, which: str, *, unique: bool = False, place: Place = WHOLE) -> None:
    """Refuses an id column that has nulls, is neither integers nor text or, where `unique`, repeats an id."""
    kind = column.type
    if column.null_count:
        row = int(pc.index(column.is_null(), True).as_py())
        raise DataError(
            f"{which}, column {name!r}, {place.row(row)}: null ({column.null_count}{place.where or ' in total'}); "
            f"expected an id in every row: fill in the missing ids or delete these rows"
        )
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind)):
        raise DataError(
            f"{which}, column {name!r}, {place.row(0)}: {_value(column, 0)} is {kind}; "
            f"expected ids that are integers or text{_id_hint(column)}"
        )
    if unique and pc.count_distinct(column).as_py() < len(column):
        first_seen: dict[object, int] = {}
        for row, value in enumerate(column.to_pylist()):
            if value in first_seen:
                raise DataError(
                    f"{which}, column {name!r}, {place.row(row)}: {value!r} is already in "
                    f"{place.row(first_seen[value])}; expected each id once"
                )
            first_seen[value] = row


def check_times(
    column: pa.ChunkedArray,
    name: str,
    place: Place = WHOLE,
    time_format: str | None = None,
    *,
    any_year: bool = False,
) -> pa.Array:
    """Times in seconds (int64 if all are whole, else float64).

    Numbers count seconds since 1970, or milli-, micro- or nanoseconds if all are too large for seconds.

    Args:
        column: The times: numbers, dates, timestamps or text.
        name: Name of the column.
        place: Where the rows come from, for errors.
        time_format: How text is written, such as `%d.%m.%Y %H:%M`; default: ISO 8601 or numbers.
        any_year: Allow dates before 1970 and after 2200, unless they are numbers.

    Raises:
        DataError: A time is null, not a number or date, not finite, before 1970 or after 2200; or numbers are dates
            such as 20240531.
    """
    expected = "a time in seconds since 1970, or a timestamp"
    if time_format is not None:
        column = _in_format(column, time_format, name, place)
    as_text = f"{expected} such as 2024-05-31T18:00:00, all rows with a zone or none"
    column = _from_text(column, name, as_text, (pa.float64(), *TIMES), place)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        _refuse_null(column, name, "a time", place)
        seconds = _seconds(column)
        if any_year:
            return pa.array(seconds)
    else:
        numbers = _numbers(column, name, expected, place)
        _refuse_calendar_numbers(numbers, column, name, place)
        seconds = numbers / per_second(float(numbers.min()), float(numbers.max())) if len(numbers) else numbers
    implausible = np.flatnonzero((seconds < 0) | (seconds > LATEST_TIME))
    if len(implausible):
        row = int(implausible[0])
        hint = _unit_hint(float(seconds[row]))
        raise DataError(
            f"{place.table}, column {name!r}, {place.row(row)}: {_value(column, row)} is not a plausible time "
            f"(rows affected: {len(implausible)}{place.where}); expected seconds between 1970 and 2200{hint}"
        )
    whole = seconds.astype(np.int64)
    return pa.array(whole if np.array_equal(whole, seconds) else seconds)


def check_weights(column: pa.ChunkedArray, name: str, place: Place = WHOLE) -> pa.Array:
    """Weights of the interactions as float64.

    Raises:
        DataError: A weight is null, not a number, not finite, negative, or above `LARGEST_WEIGHT`.
    """
    expected = "a non-negative weight"
    weights = _numbers(_from_text(column, name, expected, NUMBERS, place), name, expected, place)
    negative = np.flatnonzero(weights < 0)
    if len(negative):
        row = int(negative[0])
        raise DataError(
            f"{place.table}, column {name!r}, {place.row(row)}: {_value(column, row)}; expected a non-negative weight"
        )
    if len(weights) and weights.max() > LARGEST_WEIGHT:
        row = int(weights.argmax())
        raise DataError(
            f"{place.table}, column {name!r}, {place.row(row)}: {_value(column, row)}; "
            f"expected a weight of at most {LARGEST_WEIGHT:g}"
        )
    return pa.array(weights)


def check_chosen(column: pa.ChunkedArray, name: str, place: Place = WHOLE) -> npt.NDArray[np.bool_]:
    """Which rows were chosen, `[N]`.

    Raises:
        DataError: A value is null, or neither a boolean nor 0 or 1; or no row of a whole table was chosen.
    """
    expected = "true for a row that was chosen, else false (or 1 and 0)"
    if not (pa.types.is_boolean(column.type) or pa.types.is_integer(column.type)):
        raise DataError(
            f"interactions, column {name!r}, {place.row(0)}: {_value(column, 0)} is {column.type}; expected {expected}",
            column=name,
            row=0,
        )
    _refuse_null(column, name, expected, place)
    values = column.to_numpy()
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{place.table}, column {name!r}, {place.row(row)}: {_value(column, row)}; expected {expected}",
            column=name,
            row=row,
        )
    is_chosen: npt.NDArray[np.bool_] = values.astype(bool)
    if place.whole:
        refuse_none_chosen(int(is_chosen.sum()), len(values), name)
    return is_chosen


def refuse_none_chosen(chosen: int, rows: int, name: str) -> None:
    """Refuses interactions without a chosen row, given their numbers."""
    if chosen == 0:
        raise DataError(
            f"interactions, column {name!r}: none of the {rows:,} rows was chosen; expected at least one", column=name
        )


def refuse_no_weight(total: float, name: str) -> None:
    """Refuses interactions whose weights are all zero, given their sum."""
    if total == 0:
        raise DataError(f"interactions, column {name!r}: every weight is 0; expected at least one above 0")


def _from_text(
    column: pa.ChunkedArray, name: str, expected: str, kinds: Sequence[pa.DataType], place: Place
) -> pa.ChunkedArray:
    """Parses a text column as numbers or times; returns any other column unchanged.

    Raises:
        DataError: A value cannot be parsed; names the first such value.
    """
    if not pa.types.is_string(column.type):
        return column
    _refuse_null(column, name, expected, place)
    read = inferred(column)
    if not pa.types.is_string(read.type):
        _refuse_null(read, name, expected, place)
        return read
    row = first_stray(column, kinds) or 0
    hint = written_otherwise(column[row].as_py(), kinds)
    raise DataError(
        f"{place.table}, column {name!r}, {place.row(row)}: {_value(column, row)} is {column.type}; "
        f"expected {expected}{hint}"
    )


def _in_format(column: pa.ChunkedArray, time_format: str, name: str, place: Place) -> pa.ChunkedArray:
    """Text, or integers such as 20240531, as timestamps; any other column unchanged.

    Raises:
        DataError: A value has another format; names the first such value.
    """
    if not (pa.types.is_string(column.type) or pa.types.is_integer(column.type)):
        return column
    expected = f"a time in the format {time_format!r}"
    _refuse_null(column, name, expected, place)
    times = times_in(column.cast(pa.string()), time_format)
    if times.null_count:
        row = int(pc.index(times.is_null(), True).as_py())
        raise DataError(
            f"{place.table}, column {name!r}, {place.row(row)}: {_value(column, row)} (rows affected: "
            f"{times.null_count}{place.where}); expected {expected}"
        )
    return times


def per_second(lowest: float, highest: float) -> float:
    """The unit of times, as its count per second: 1 unless all numbers are plausible only in a smaller unit.

    Args:
        lowest: The lowest number.
        highest: The highest number.

    Example:
        >>> per_second(1714557000, 1714557000000), per_second(1714557000000, 1714557000000)
        (1.0, 1000.0)
    """
    units = (factor for _, factor in SMALLER_UNITS if lowest > LATEST_TIME * factor / 1e3)
    unit = max(units, default=1.0)
    return unit if highest <= LATEST_TIME * unit else 1.0


def _refuse_calendar_numbers(
    numbers: npt.NDArray[np.float64], column: pa.ChunkedArray, name: str, place: Place
) -> None:
    """Refuses dates written as 20240531, which would pass for seconds in 1970."""
    years, months, days = numbers // 1e4, numbers // 100 % 100, numbers % 100
    are_dates = (years >= 1970) & (years < 2200) & (months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)
    if len(numbers) and are_dates.all() and np.array_equal(numbers, np.floor(numbers)):
        raise DataError(
            f"{place.table}, column {name!r}, {place.row(0)}: {_value(column, 0)} looks like a date, as do all other "
            f'rows; expected seconds since 1970, or time_format = "%Y%m%d" to read it as a date'
        )


def _seconds(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Timestamps or dates as seconds since 1970; timestamps without a zone are taken as UTC."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    units = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
    counts: npt.NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return counts / units[column.type.unit]


def _id_hint(column: pa.ChunkedArray) -> str:
    """How to fix float ids, which libraries such as pandas make of integers when some are missing."""
    if not pa.types.is_floating(column.type) or not pc.all(pc.equal(column, pc.floor(column))).as_py():
        return ""
    if pc.max(pc.abs(column)).as_py() >= EXACT_FLOATS:
        return "; floats cannot hold integers this large exactly: write or cast the ids as text"
    return "; write whole numbers without a fraction, or cast them to int64"


def _numbers(column: pa.ChunkedArray, name: str, expected: str, place: Place) -> npt.NDArray[np.float64]:
    """A numeric interaction column as float64; every value must be a finite number."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)):
        raise DataError(
            f"{place.table}, column {name!r}, {place.row(0)}: {_value(column, 0)} is {column.type}; expected {expected}"
        )
    _refuse_null(column, name, expected, place)
    numbers: npt.NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()  # very large ones are rounded
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        row = int(bad[0])
        raise DataError(f"{place.table}, column {name!r}, {place.row(row)}: {_value(column, row)}; expected {expected}")
    return numbers


def _refuse_null(column: pa.ChunkedArray, name: str, expected: str, place: Place) -> None:
    if column.null_count:
        row = int(pc.index(column.is_null(), True).as_py())
        raise DataError(f"{place.table}, column {name!r}, {place.row(row)}: null; expected {expected}")


def _value(column: pa.ChunkedArray, row: int) -> str:
    if len(column) <= row:
        return "nothing"
    try:
        return repr(column[row].as_py())
    except (OverflowError, ValueError):  # a time that Python's datetime cannot represent
        return f"{column[row].value} {column.type.unit}"


def check_moment(seconds: float, name: str, value: object) -> None:
    """Refuses a query time that `check_times` would refuse in a log.

    Args:
        seconds: The time, in seconds since 1970.
        name: Its column.
        value: The value as given, for the message.

    Raises:
        DataError: The time is not finite, before 1970 or after 2200.
    """
    if not 0 <= seconds <= LATEST_TIME:
        raise DataError(
            f"column {name!r} of the query: {value!r} is not a plausible time; "
            f"expected seconds since 1970, before the year 2200"
        )


def _unit_hint(seconds: float) -> str:
    """A hint at the unit in which an implausible number of seconds would be a plausible time; empty without one."""
    for unit, factor in SMALLER_UNITS:
        if 0 < seconds / factor <= LATEST_TIME:
            return f" (it looks like {unit}, but other rows do not: use one unit in all rows)"
    return ""
