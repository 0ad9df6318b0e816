"""Reading text as numbers, dates and times where every value of a column is one, and finding the first that is not."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

NULL_WORDS = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "NULL", "null", "None")
"""What stands for a missing value among numbers, dates and times; in text only an empty cell does."""

NUMBERS: tuple[pa.DataType, ...] = (pa.int64(), pa.uint64(), pa.float64())
TIMES: tuple[pa.DataType, ...] = (
    pa.date32(),
    *(pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("s", "us", "ns")),
)

CODE = "^[+-]?0[0-9]"
"""A number that begins with a zero is a code, such as that of a place, and stays text."""

WHOLE_NUMBER = "^[+-]?[0-9]+$"

SAMPLE = 1000
"""Rows that are tried before a whole column is."""


def inferred(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text as what all of its values are: integers, floats, booleans, dates or times; else as it is.

    Numbers with leading zeros are codes and stay text, and so do integers of more than 64 bits, which a float would
    round. Times are in UTC where they name their zone, as all or none must; among all but text, the words of
    `NULL_WORDS` are null.

    Example:
        >>> inferred(pa.chunked_array([["7", "NA", "12"]])).to_pylist()
        [7, None, 12]
        >>> inferred(pa.chunked_array([["007", "012"]])).to_pylist()
        ['007', '012']
    """
    if texts.null_count == len(texts):
        return pa.chunked_array([pa.nulls(len(texts))])
    beginning = without_null_words(texts.slice(0, SAMPLE)).drop_null()
    kinds = [kind for kind in (*NUMBERS, *TIMES, pa.bool_()) if _all_are(beginning, kind)]
    if not kinds:
        return texts
    values = without_null_words(texts)
    present = values.drop_null()
    kind = next((kind for kind in kinds if len(present) and _all_are(present, kind)), None)
    return texts if kind is None else values.cast(kind)


def first_stray(texts: pa.ChunkedArray, kinds: Sequence[pa.DataType]) -> int | None:
    """Row of the first value that none of the types can hold with all before it; None where one holds all.

    Example:
        >>> first_stray(pa.chunked_array([["2024-01-01", "soon", "2024-01-03"]]), TIMES)
        1
    """
    values = without_null_words(texts).combine_chunks()
    strays = [_stray(values, kind) for kind in kinds]
    return None if None in strays else max(stray for stray in strays if stray is not None)


def without_null_words(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """The texts without spaces around them, null where they are among `NULL_WORDS`."""
    trimmed = pc.utf8_trim_whitespace(texts)
    missing = pc.is_in(trimmed, pa.array(NULL_WORDS))
    return pc.if_else(missing, pa.scalar(None, pa.string()), trimmed)


def _all_are(present: pa.ChunkedArray, kind: pa.DataType) -> bool:
    """Whether a type holds all of the values, none null, without a change."""
    if pa.types.is_boolean(kind):
        return bool(pc.all(pc.is_in(pc.utf8_lower(present), pa.array(["true", "false"]))).as_py() in (True, None))
    if not _casts(present, kind):
        return False
    if kind in NUMBERS and pc.any(pc.match_substring_regex(present, CODE)).as_py():
        return False
    # What 64 bits did not hold: floats would round it.
    return not pa.types.is_floating(kind) or not _has_only(present, WHOLE_NUMBER)


def _has_only(present: pa.ChunkedArray, pattern: str) -> bool:
    """Whether there are values, and all match a pattern."""
    return len(present) > 0 and bool(pc.all(pc.match_substring_regex(present, pattern)).as_py())


def _stray(values: pa.Array, kind: pa.DataType) -> int | None:
    """Row of the first value that cannot be cast, found by halving."""
    if _casts(values, kind):
        return None
    low, high = 0, len(values)  # all before `low` can be cast, and not all before `high`
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
