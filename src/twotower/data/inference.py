"""Infers column types from text: numbers, dates and times if every value is one; finds the first value that is not."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

NULL_WORDS = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "NULL", "null", "None")
"""Treated as missing among numbers, dates and times; in text only an empty cell is."""

NUMBERS: tuple[pa.DataType, ...] = (pa.int64(), pa.uint64(), pa.float64())
TIMES: tuple[pa.DataType, ...] = (
    pa.date32(),
    *(pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("s", "us", "ns")),
)

CODE = "^[+-]?0[0-9]"
"""A number with a leading zero is a code, such as a postcode, and stays text."""

WHOLE_NUMBER = "^[+-]?[0-9]+$"

POINT_NUMBER = r"^[+-]?[0-9]*[.][0-9]*(?:[eE][+-]?[0-9]+)?$"
COMMA_NUMBER = re.compile(r"[+-]?[0-9]*,[0-9]+")

OTHER_DATE = re.compile("[0-9]{1,2}([./-])[0-9]{1,2}[./-][0-9]{4}")
"""A date that begins with the day or the month."""

SAMPLE = 1000
"""Rows tried before the whole column."""


def inferred(texts: pa.ChunkedArray, decimal: str = ".") -> pa.ChunkedArray:
    """Converts a text column to integers, floats, booleans, dates or times if all its values are; else leaves it.

    Numbers with leading zeros are codes and stay text. So do integers of more than 64 bits, which a float would
    round. Times with a zone are converted to UTC; either all values have a zone or none has. In converted columns,
    `NULL_WORDS` become null.

    Args:
        texts: The column.
        decimal: The decimal mark of floats: `.` or `,`.

    Example:
        >>> inferred(pa.chunked_array([["7", "NA", "12"]])).to_pylist()
        [7, None, 12]
        >>> inferred(pa.chunked_array([["007", "012"]])).to_pylist()
        ['007', '012']
        >>> inferred(pa.chunked_array([["4,50", "12"]]), decimal=",").to_pylist()
        [4.5, 12.0]
    """
    if texts.null_count == len(texts):
        return pa.chunked_array([pa.nulls(len(texts))])
    beginning = _with_point(without_null_words(texts.slice(0, SAMPLE)), decimal).drop_null()
    kinds = [kind for kind in (*NUMBERS, *TIMES, pa.bool_()) if _all_are(beginning, kind)]
    if not kinds:
        return texts
    values = _with_point(without_null_words(texts), decimal)
    present = values.drop_null()
    kind = next((kind for kind in kinds if len(present) and _all_are(present, kind)), None)
    return texts if kind is None else values.cast(kind)


def first_stray(texts: pa.ChunkedArray, kinds: Sequence[pa.DataType], decimal: str = ".") -> int | None:
    """Row of the first value at which every type has failed; None if one type fits all values.

    Args:
        texts: The column.
        kinds: The types.
        decimal: The decimal mark of floats.

    Example:
        >>> first_stray(pa.chunked_array([["2024-01-01", "soon", "2024-01-03"]]), TIMES)
        1
    """
    values = _with_point(without_null_words(texts), decimal).combine_chunks()
    strays = [_stray(values, kind) for kind in kinds]
    return None if None in strays else max(stray for stray in strays if stray is not None)


def without_null_words(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """The texts with surrounding whitespace removed, and null for those in `NULL_WORDS`."""
    trimmed = pc.utf8_trim_whitespace(texts)
    missing = pc.is_in(trimmed, pa.array(NULL_WORDS))
    return pc.if_else(missing, pa.scalar(None, pa.string()), trimmed)


def written_otherwise(value: str, kinds: Sequence[pa.DataType]) -> str:
    """How to read a value that is none of these types, if it is a number or date in another notation; else nothing.

    Example:
        >>> written_otherwise("31.05.2024", TIMES)
        '; or set time_format, such as "%d.%m.%Y" for 31.05.2024'
        >>> written_otherwise("4,50", NUMBERS)
        '; or set decimal = ","'
    """
    if pa.date32() in kinds and (date := OTHER_DATE.match(value.strip())) is not None:
        mark = date[1]
        return f'; or set time_format, such as "%d{mark}%m{mark}%Y" for 31{mark}05{mark}2024'
    if COMMA_NUMBER.fullmatch(value.strip()) is not None:
        return '; or set decimal = ","'
    return ""


def _with_point(texts: pa.ChunkedArray, decimal: str) -> pa.ChunkedArray:
    """The texts with a point as the decimal mark, and numbers that have a point already made unreadable as such."""
    if decimal == ".":
        return texts
    swapped = pc.replace_substring_regex(texts, r"^([+-]?[0-9]*),([0-9]+(?:[eE][+-]?[0-9]+)?)$", r"\1.\2")
    had_point = pc.match_substring_regex(texts, POINT_NUMBER)
    return pc.if_else(had_point, pc.binary_join_element_wise(texts, " ", ""), swapped)


def _all_are(present: pa.ChunkedArray, kind: pa.DataType) -> bool:
    """Whether a type represents all of the non-null values exactly."""
    if pa.types.is_boolean(kind):
        return bool(pc.all(pc.is_in(pc.utf8_lower(present), pa.array(["true", "false"]))).as_py() in (True, None))
    if not _casts(present, kind):
        return False
    if kind in NUMBERS and pc.any(pc.match_substring_regex(present, CODE)).as_py():
        return False
    # Integers that did not fit in 64 bits: floats would round them.
    return not pa.types.is_floating(kind) or not _has_only(present, WHOLE_NUMBER)


def _has_only(present: pa.ChunkedArray, pattern: str) -> bool:
    """Whether there are values and all match a pattern."""
    return len(present) > 0 and bool(pc.all(pc.match_substring_regex(present, pattern)).as_py())


def _stray(values: pa.Array, kind: pa.DataType) -> int | None:
    """Row of the first value that cannot be cast, by binary search; None if all can."""
    if _casts(values, kind):
        return None
    low, high = 0, len(values)  # all values before `low` can be cast, but not all before `high`
    while high - low > 1:
        middle = (low + high) // 2
        if _casts(values.slice(low, middle - low), kind):
            low = middle
        else:
            high = middle
    return low


def _casts(values: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> bool:
    try:
        values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True
