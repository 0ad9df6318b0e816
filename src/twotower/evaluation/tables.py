"""Renders a training history as an HTML table for notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence

EDGE_ROWS = 10
"""Rows shown at each end of a long table; the rows between are skipped, except for the best one."""


def history_html(names: Sequence[str], rows: Sequence[tuple[Sequence[str], bool]]) -> str:
    """A table with one row per epoch, the best one in bold.

    Args:
        names: Column names.
        rows: The cells of each row, and whether it is the best epoch.
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
