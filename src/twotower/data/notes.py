"""Warnings of what is left out of data, or is probably not as its owner meant it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from twotower.data.lookalike import lookalike
from twotower.data.sources import Source
from twotower.errors import DataWarning, warn

EXAMPLES = 3
"""Values that a warning shows."""


def warn_of_dropped(dropped: int, events: int, candidate_id: str, examples: Sequence[object]) -> None:
    """Says how many events were dropped because the candidate table lacks their candidate, if any were.

    Args:
        dropped: How many.
        events: Of how many.
        candidate_id: The column of their candidates.
        examples: Some of these candidates.
    """
    if dropped:
        shown = ", ".join(map(repr, examples[:EXAMPLES]))
        warn(
            f"{dropped:,} of {events:,} events ({dropped / events:.1%}) are left out: the candidate table lacks their "
            f"{candidate_id!r}, such as {shown}",
            DataWarning,
        )


def warn_of_mistakes(source: Source, which: str, checked: Collection[str]) -> None:
    """Names the columns that are text because a few of their values are no numbers or times.

    Args:
        source: The table.
        which: What the warning calls it.
        checked: Columns that are checked elsewhere, or ids.
    """
    for name in source.table.column_names:
        found = None if name in checked else lookalike(source.table[name])
        if found is not None and (found.strays or found.kind == "amount"):
            where = source.origin.of(found.row)
            warn(f"{which}, column {name!r}, row {found.row}{where}: {found.reason}", DataWarning)
