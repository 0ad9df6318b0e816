"""Recommendations as a table that fits the terminal: the main columns first, then as many others as fit."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table

from twotower.retrieval import Recommendation

COLUMN_GAP = 3
"""Width in cells between two columns."""

MIN_TITLE_WIDTH = 8
"""Minimum width of the title column in cells; on narrower terminals lines wrap."""

Column = tuple[str, list[str]]


def listing(found: Sequence[Recommendation], candidate_id: str, title: str, width: int) -> tuple[Table, list[str]]:
    """The table, and the names of the columns that do not fit.

    Position, id, title and scores are always shown; other columns follow in the catalogue's order if they fit.

    Args:
        found: The recommendations.
        candidate_id: The id column.
        title: The column with candidates' names for people.
        width: Width of the terminal in cells.
    """
    columns: dict[str, Column] = {
        name: (name, [_shown(one.candidate[name]) for one in found])
        for name in (found[0].candidate if found else (candidate_id, title))
    }
    places = ("", [str(place) for place in range(1, len(found) + 1)])
    scores = ("score", [f"{one.score:.3f}" for one in found])
    names = [columns.pop(name) for name in dict.fromkeys((candidate_id, title))]
    fixed = [places, *names, scores]
    if any(one.rerank_score is not None for one in found):
        answers = ["" if one.rerank_score is None else f"{one.rerank_score:.3f}" for one in found]
        fixed.append(("rerank score", answers))
    room = width - sum(_width(column) + COLUMN_GAP for column in fixed) + COLUMN_GAP
    shortened = max(_width(names[-1]) + min(room, 0), MIN_TITLE_WIDTH)
    fitting, left_out = [], []
    for name, column in columns.items():
        if room >= (needed := _width(column) + COLUMN_GAP):
            fitting.append(column)
            room -= needed
        else:
            left_out.append(name)
    return _table([*fixed, *fitting], {names[-1][0]: shortened}), left_out


def _table(columns: Sequence[Column], widths: dict[str, int]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for name, values in columns:
        width = widths.get(name, _width((name, values)))
        table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=width, max_width=width)
    for row in zip(*(values for _, values in columns), strict=True):
        table.add_row(*row)
    return table


def _width(column: Column) -> int:
    name, values = column
    return max(map(cell_len, (name, *values)))


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
