"""`Lookalike`: a text column whose values look like numbers or times, and why it was read as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from twotower.arguments import checks_arguments
from twotower.data.inference import CODE, COMMA_NUMBER, without_null_words

NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?$"
AMOUNT = r"^\p{Sc}?\s*[+-]?([0-9]+|[0-9]{1,3}([,.' ][0-9]{3})+)([.,][0-9]+)?\s*(\p{Sc}|%)?$"
"""A number, optionally with thousands separators, a decimal comma, a currency sign or a percent sign."""

Kind = Literal["number", "time", "amount"]
PATTERNS: dict[Kind, str] = {"number": NUMBER, "time": TIME, "amount": AMOUNT}

MIN_SHARE = 0.9
"""If at least this share of the values are numbers or times, the others are treated as mistakes."""

SAMPLE = 1000
"""Rows checked first."""

MIN_SAMPLE_SHARE = 0.5
"""All rows are checked if at least this share of the sample matches."""


@dataclass(frozen=True)
class Lookalike:
    """A text column that looks like numbers or times.

    Attributes:
        kind: What the values look like; an `amount` is a number with separators or a currency.
        present: Number of non-missing values.
        strays: How many of them do not match the kind.
        row: Row of the first stray value or, if there is none, of an example.
        value: The value in that row.
    """

    kind: Kind
    present: int
    strays: int
    row: int
    value: str

    @property
    def reason(self) -> str:
        """Why the column is read as text, and what to do."""
        what = "times" if self.kind == "time" else "numbers"
        if self.strays:
            return (
                f"{self.present - self.strays:,} of {self.present:,} values are {what}, but the others, such as "
                f"{self.value!r}, are not, so the column is read as text; correct these cells or leave them empty"
            )
        if self.kind == "amount":
            point = "write numbers as digits with a decimal point, 1299.5"
            comma = '; in CSV, decimal = "," reads decimal commas' if COMMA_NUMBER.fullmatch(self.value) else ""
            return f"values such as {self.value!r} are text; {point}{comma}"
        return f"all {self.present:,} values are {what} held as text, such as {self.value!r}; cast the column to {what}"


@checks_arguments
def lookalike(column: pa.ChunkedArray | pa.Array) -> Lookalike | None:
    """What a text column looks like; None if it is not text, or does not look like numbers or times.

    Numbers with leading zeros are codes, so they count as text.

    Example:
        >>> lookalike(pa.chunked_array([["12.50", "9.99"]])).reason
        "all 2 values are numbers held as text, such as '12.50'; cast the column to numbers"
        >>> lookalike(pa.chunked_array([["1,299.00", "9.99"]])).reason
        "values such as '1,299.00' are text; write numbers as digits with a decimal point, 1299.5"
        >>> lookalike(pa.chunked_array([["rum", "tea"]])) is None
        True
    """
    if not pa.types.is_string(column.type):
        return None
    beginning = without_null_words(column.slice(0, SAMPLE)).drop_null()
    for kind, pattern in PATTERNS.items():
        if (pc.mean(pc.match_substring_regex(beginning, pattern)).as_py() or 0) >= MIN_SAMPLE_SHARE:
            values = without_null_words(column)
            fits = pc.match_substring_regex(values, pattern)
            if pc.mean(fits).as_py() >= MIN_SHARE and not pc.any(pc.match_substring_regex(values, CODE)).as_py():
                return _found(kind, values, fits)
    return None


def _found(kind: Kind, values: pa.ChunkedArray, fits: pa.ChunkedArray) -> Lookalike:
    present = len(values) - values.null_count
    strays = present - int(pc.sum(fits).as_py())
    if strays:
        row = pc.index(fits, False).as_py()
    elif kind == "amount":
        row = pc.index(pc.match_substring_regex(values, NUMBER), False).as_py()
    else:
        row = pc.index(fits, True).as_py()
    return Lookalike(kind, present, strays, int(row), values[row].as_py())
