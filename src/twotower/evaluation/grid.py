"""`Grid`: a table of texts, for terminals and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from rich.table import Table
from rich.text import Text

STYLE = "text-align:{side};padding:2px 10px 2px 0;font-variant-numeric:tabular-nums;white-space:nowrap"


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    Attributes:
        headings: One per column.
        rows: The cells of each row.
        words: Number of leading text columns, which are left-aligned; the others are right-aligned.
        strong: Indices of the rows in bold.
        lines: Indices of the rows with a line below.

    Example:
        >>> Grid(["", "MRR"], [["model", "0.1234"]]).html().count("<td")
        2
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    strong: frozenset[int] = field(default_factory=frozenset)
    lines: frozenset[int] = field(default_factory=frozenset)

    def rich(self) -> Table:
        """The table for a terminal."""
        table = Table(show_edge=False, pad_edge=False)
        for number, heading in enumerate(self.headings):
            table.add_column(Text(heading), justify="left" if number < self.words else "right")
        for number, row in enumerate(self.rows):
            style = "bold" if number in self.strong else None
            table.add_row(*map(Text, row), style=style, end_section=number in self.lines)
        return table

    def html(self, caption: str = "") -> str:
        """The table for a notebook.

        Args:
            caption: Caption above the table.
        """
        head = "".join(self._cell("th", number, text) for number, text in enumerate(self.headings))
        body = "".join(self._row(number, row) for number, row in enumerate(self.rows))
        above = f'<caption style="text-align:left;white-space:nowrap">{escape(caption)}</caption>' if caption else ""
        return f'<table style="margin-bottom:1em">{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'

    def _row(self, number: int, row: Sequence[str]) -> str:
        cells = "".join(self._cell("td", column, text, number in self.strong) for column, text in enumerate(row))
        border = ' style="border-bottom:1px solid"' if number in self.lines else ""
        return f"<tr{border}>{cells}</tr>"

    def _cell(self, tag: str, column: int, text: str, strong: bool = False) -> str:
        style = STYLE.format(side="left" if column < self.words else "right")
        shown = f"<strong>{escape(text)}</strong>" if strong else escape(text)
        return f'<{tag} style="{style}">{shown}</{tag}>'


def notes_html(notes: Sequence[str]) -> str:
    """An HTML list of sentences for a notebook; empty if there are none."""
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""
