"""`Place`: where rows that are checked or encoded come from, for error messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from twotower.data.origin import Origin
from twotower.errors import CellError


@dataclass(frozen=True)
class Place:
    """Where the rows being checked come from, for error messages.

    Attributes:
        first_row: Row number of the first of them in the whole table.
        whole: Whether they are the whole table.
        origin: The files that the table was read from.
        table: The table.
    """

    first_row: int = 0
    whole: bool = True
    origin: Origin = field(default_factory=Origin)
    table: str = "interactions"

    def row(self, number: int) -> str:
        """How errors refer to a row, given its number among the rows being checked."""
        number += self.first_row
        return f"row {number}{self.origin.of(number)}"

    @property
    def where(self) -> str:
        """Suffix for a row count in an error; empty when the whole table was checked."""
        return "" if self.whole else " in this part of the log"


@contextmanager
def cell_errors_in(place: Place, rows: npt.NDArray[np.int64] | None = None) -> Iterator[None]:
    """Adds the table, and the line of the file if it is known, to errors about cells raised in the block.

    Args:
        place: Where the rows come from.
        rows: If the block sees only some rows of the table: the row number of each.

    Example:
        >>> with cell_errors_in(Place(table="candidates")):
        ...     raise CellError("price", 3, "'cheap' is string; expected a number")
        Traceback (most recent call last):
        twotower.errors.CellError: candidates, column 'price', row 3: 'cheap' is string; expected a number
    """
    try:
        yield
    except CellError as error:
        row = error.row if rows is None else int(rows[error.row])
        where = f"{place.table}, column {error.column!r}, {place.row(row)}"
        raise CellError(error.column, row, error.reason, where) from error


WHOLE = Place()
"""All rows of a table, checked at once."""
