"""How a training's history looks as a table in notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence

EDGE_ROWS = 10
"""Rows at either end of a table; of longer ones the middle is left out, but for the best."""


def history_html(names: Sequence[str], rows: Sequence[tuple[Sequence[str], bool]]) -> str:
    """A table with a line an epoch, the best one bold.

    Args:
        names: Of the columns.
        rows: The cells of each, and whether it is the best.
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines, skipped = [], False
    for number, (cells, is_best) in enumerate(rows):
        if EDGE_ROWS <= number < len(rows) - EDGE_ROWS and not is_best:
            skipped = True
            continue
        if skipped:
            lines.append(f'<tr><td colspan="{len(names)}" style="text-align: center">⋮</td></tr>')
            skipped = False
        style = ' style="font-weight: bold"' if is_best else ""
        lines.append(f"<tr{style}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
