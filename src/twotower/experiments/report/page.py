"""Renders the report templates, and defines the elements they show: bars, tables, pictures."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from twotower.evaluation.comparisons import Comparison
from twotower.evaluation.intervals import Interval
from twotower.evaluation.verdicts import differences_grid
from twotower.experiments.results import Cut


@dataclass(frozen=True)
class Theme:
    """Colours of one picture."""

    paper: str
    ink: str
    faint: str
    baseline: str


LIGHT = Theme(paper="#ffffff", ink="#1c1c1c", faint="#dddddd", baseline="#666666")
DARK = Theme(paper="#1c1f25", ink="#e9eaee", faint="#343943", baseline="#a4abb8")

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's colour-blind-safe palette."""


@dataclass(frozen=True)
class Bar:
    """One bar; `width` is in percent of the longest bar."""

    kind: str
    name: str
    text: str
    width: float


@dataclass(frozen=True)
class Bars:
    """Bars under a title."""

    title: str
    bars: list[Bar]

    @classmethod
    def of(cls, title: str, rows: Sequence[tuple[str, str, float]], form: str) -> Bars:
        """Bars from (class, name, value) rows, scaled to the longest; `form` is the format of the values."""
        longest = max((value for _, _, value in rows), default=0.0) or 1.0
        return cls(title, [Bar(kind, name, f"{value:{form}}", 100 * value / longest) for kind, name, value in rows])


@dataclass(frozen=True)
class Cell:
    """One cell of a table; `more` is shown smaller after the text."""

    text: str
    strong: bool = False
    more: str = ""

    @classmethod
    def of(cls, figure: Interval, strong: bool = False) -> Cell:
        """A figure with its interval."""
        return cls(f"{figure.mean:.4f}", strong, "" if figure.half_width is None else f"± {figure.half_width:.4f}")


@dataclass(frozen=True)
class Table:
    """A table: each row is its name and then cells (`Cell`); columns listed in `words` hold text, not numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    words: Sequence[str] = ()


def differences(comparisons: Sequence[Comparison]) -> Table | None:
    """A table of all comparisons with their intervals; None without comparisons."""
    if not comparisons:
        return None
    grid = differences_grid(comparisons)
    rows = [[name, *map(Cell, cells)] for name, *cells in grid.rows]
    return Table(
        "", grid.headings, rows, [heading for heading in grid.headings if heading.startswith(("comp", "verd"))]
    )


@dataclass(frozen=True)
class Picture:
    """A picture for light and dark pages, as SVG elements."""

    light: str
    dark: str

    @classmethod
    def of(cls, draw: Callable[[Theme], Figure], salt: str) -> Picture:
        """The picture that a function draws in each theme."""
        return cls(*(inline(svg(draw(theme), f"{salt} {theme.paper}")) for theme in (LIGHT, DARK)))


def svg(figure: Figure, salt: str) -> str:
    """A figure as SVG; the same figure always gives the same text.

    Args:
        figure: The figure.
        salt: Seed of its element ids, which must differ between the pictures of one page.
    """
    picture = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": f"twotower {salt}", "svg.fonttype": "none"}):
        canvas = FigureCanvasSVG(figure)
        canvas.print_svg(picture, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return picture.getvalue().decode()


def inline(svg: str) -> str:
    """An SVG element for use inside HTML, without a fixed size so that it fills its container."""
    element = svg[svg.index("<svg") :]
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"|height="[\d.]+pt" width="[\d.]+pt"', "", element, count=1)


def rendered(template: str, **values: Any) -> str:
    """Renders a page from a template and values, which are escaped."""
    environment = Environment(
        loader=PackageLoader("twotower.experiments.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)


def lead_of(cut: Cut) -> str:
    """A line with the size of the data."""
    dropped = f" · {cut.dropped:,} events with unknown candidates dropped" if cut.dropped else ""
    return f"{cut.interactions:,} interactions · {cut.queries:,} queries · {cut.candidates:,} candidates{dropped}"


def how_cut(cut: Cut) -> str:
    """A line that describes the split."""
    validation = f", {cut.validation:,} of train for validation" if cut.validation else ""
    parts = f"{cut.train:,} events in train, {cut.test:,} in test{validation}"
    return f"Split {cut.split}: {parts} · fingerprint {cut.fingerprint}"
