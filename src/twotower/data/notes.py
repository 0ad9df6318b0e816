"""Warnings about dropped events and about columns that probably contain mistakes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from twotower.data.lookalike import lookalike
from twotower.data.sources import Source
from twotower.errors import DataWarning, warn

EXAMPLES = 3
"""Values shown in a warning."""


def warn_of_dropped(dropped: int, events: int, candidate_id: str, examples: Sequence[object]) -> None:
    """Warns if events were dropped because the candidate table lacks their candidate.

    Args:
        dropped: Number of dropped events.
        events: Number of all events.
        candidate_id: The candidate id column.
        examples: Some of the missing candidates.
    """
    if dropped:
        shown = ", ".join(map(repr, examples[:EXAMPLES]))
        warn(
            f"dropped {dropped:,} of {events:,} events ({dropped / events:.1%}): their {candidate_id!r} is not in the "
            f"candidate table, such as {shown}",
            DataWarning,
        )


def warn_of_unavailable(wrong: int, events: int, examples: Sequence[object]) -> None:
    """Warns if events chose candidates at a time at which the candidate table says they were not available.

    Args:
        wrong: Number of such events.
        events: Number of all events.
        examples: Candidates of some of these events.
    """
    if wrong:
        warn(
            f"{wrong:,} of {events:,} events chose a candidate when it was not available, such as {examples[0]!r}; "
            f"it counts as available to them",
            DataWarning,
        )


def warn_of_mistakes(source: Source, which: str, checked: Collection[str]) -> None:
    """Warns about columns read as text because a few of their values are not numbers or times.

    Args:
        source: The table.
        which: Name of the table in the warning.
        checked: Columns to skip: ids, and those checked elsewhere.
    """
    for name in source.table.column_names:
        found = None if name in checked else lookalike(source.table[name])
        if found is not None and (found.strays or found.kind == "amount"):
            where = source.origin.of(found.row)
            warn(f"{which}, column {name!r}, row {found.row}{where}: {found.reason}", DataWarning)
