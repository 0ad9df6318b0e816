"""`Place`: where rows that are checked come from, for error messages."""

from __future__ import annotations

from dataclasses import dataclass, field

from twotower.data.origin import Origin


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


WHOLE = Place()
"""All rows of a table, checked at once."""
