"""Default features of a model whose config names none: which columns are read, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.log import Log
from twotower.features import (
    Activity,
    Bucketized,
    Categories,
    Category,
    Elapsed,
    Feature,
    History,
    Normalized,
    Text,
)
from twotower.features.activity import Counted
from twotower.features.elapsed import Since
from twotower.features.history import GIVEN

Inputs = Literal["all", "log", "tutorial"]
"""`all` columns of the data; only the `log` of ids, times and texts, without histories; or those of the `tutorial`."""

Reach = Literal["before", "around"]
"""Whether query features read only events `before` this one, or events `around` it, on both sides."""

MIN_WORDS_PER_TEXT = 1.5
"""Read a column of strings as text, not labels, from this many words per row on average."""

MIN_ROWS_PER_LABEL = 2.0
"""Read a column of labels only if each label occurs in at least this many rows on average; else it is like an id."""

LABEL_DIM, LIST_DIM, NUMBER_BUCKETS = 8, 16, 20
RECORD_BUCKETS = 128
FINE_TIME_BUCKETS = 1000
"""Time buckets when queries fall between training events, as in the tutorial."""

COARSE_TIME_BUCKETS = 20
"""Time buckets when queries come after all training events: they all fall into the last bucket, which therefore needs
many training events."""


NUMBER = r"^[^\w\s]?\s*[-+]?\d[\d.,' ]*\s*(%|[^\w\s]|[A-Z]{3})?$"
DATE = r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?$"
"""Patterns of texts that hold a number, perhaps with a currency, or a date."""


@dataclass(frozen=True)
class ColumnUse:
    """How one column is used.

    Attributes:
        column: Its name.
        features: The features that read it; none if it is left out.
        why_not: Why it is left out; empty if it is read.
        hint: A hint for the user.
    """

    column: str
    features: tuple[Feature, ...] = ()
    why_not: str = ""
    hint: str = ""


def features_of(uses: Iterable[ColumnUse]) -> list[Feature]:
    """All features of the columns, in order."""
    return [feature for use in uses for feature in use.features]


@dataclass(frozen=True)
class InputPlan:
    """The default inputs of the towers.

    Attributes:
        inputs: Which columns to read.
        reach: Whether query features read only events before this one, or events on both sides.
        dim: Embedding dimension.
        unknown_rate: Share of ids treated as unknown during training.
        share_items: Whether histories share the candidate tower's embeddings, the sum of its features, all of
            dimension `dim`.
        read_id: Whether the query tower reads the query's id.
        length: How many items histories read.
    """

    inputs: Inputs
    reach: Reach
    dim: int
    unknown_rate: float
    share_items: bool = False
    read_id: bool = True
    length: int = 20


_UNREADABLE = ColumnUse(GIVEN, why_not=f"requests pass a history as {GIVEN!r}: rename the column to read it")


def query_columns(data: Log, plan: InputPlan) -> list[ColumnUse]:
    """The query id, the time, features of the query's events before or around it, and the query table's columns."""
    dim, inputs, reach = plan.dim, plan.inputs, plan.reach
    own_id = ColumnUse(data.query_id, (Category(data.query_id, dim, plan.unknown_rate),))
    uses = [own_id if plan.read_id else ColumnUse(data.query_id, why_not="the history tells more than the id")]
    if data.time is not None:
        buckets = COARSE_TIME_BUCKETS if reach == "before" and inputs != "tutorial" else FINE_TIME_BUCKETS
        moments: list[Feature] = [Bucketized(data.time, buckets, dim), Normalized(data.time)]
        if inputs != "tutorial":
            moments += _record_features(data.time, data.query_id, dim, reach)
        uses.append(ColumnUse(data.time, tuple(moments)))
        if inputs == "all":
            history = History(
                data.candidate_id,
                by=data.query_id,
                time=data.time,
                dim=dim,
                reach=reach,
                shared=plan.share_items,
                length=plan.length,
            )
            uses.append(ColumnUse(data.candidate_id, (history,)))
    elif inputs == "all":
        history = History(data.candidate_id, by=data.query_id, length=plan.length, dim=dim, shared=plan.share_items)
        uses.append(ColumnUse(data.candidate_id, (history,)))
    if inputs == "all":
        attributes = _attributes(data.queries, data.query_id, Widths(dim))
        return uses + [_UNREADABLE if one.column == GIVEN else one for one in attributes]
    others = (name for name in data.queries.column_names if name != data.query_id)
    return uses + [ColumnUse(name, why_not=f'inputs = "{inputs}" reads no attributes of queries') for name in others]


def candidate_columns(data: Log, plan: InputPlan) -> list[ColumnUse]:
    """The candidate id, the words of every text column, and the other columns of the candidate table."""
    table, own_id, dim = data.candidates, data.candidate_id, plan.dim
    uses = [ColumnUse(own_id, (Category(own_id, dim, plan.unknown_rate),))]
    if plan.inputs == "all":
        return uses + _attributes(table, own_id, Widths.equal(dim) if plan.share_items else Widths(dim))
    for name in table.column_names:
        if is_text(table[name]):
            uses.append(ColumnUse(name, (Text(name, dim),)))
        elif name != own_id:
            uses.append(ColumnUse(name, why_not=f'inputs = "{plan.inputs}" reads only the words of candidates'))
    return uses


def is_text(column: pa.ChunkedArray) -> bool:
    """Whether a column holds words rather than labels, numbers or dates."""
    if not pa.types.is_string(column.type) or column.null_count == len(column):
        return False
    words = pc.mean(pc.list_value_length(pc.utf8_split_whitespace(column))).as_py()
    return bool(words >= MIN_WORDS_PER_TEXT)


def _record_features(time: str, by: str, dim: int, reach: Reach) -> list[Feature]:
    sinces: list[Since] = ["first", "previous"]
    counts: list[Counted] = ["before"]
    if reach == "around":
        sinces += ["next", "last"]
        counts += ["all", "instant", "after"]
    return [
        *(Elapsed(time, by, since, RECORD_BUCKETS, dim) for since in sinces),
        *(Activity(time, by, events, RECORD_BUCKETS, dim) for events in counts),
    ]


@dataclass(frozen=True)
class Widths:
    """Embedding dimensions by kind of column.

    Attributes:
        words: For words.
        labels: For labels.
        lists: For lists of labels.
        numbers: For buckets of a number.
    """

    words: int
    labels: int = LABEL_DIM
    lists: int = LIST_DIM
    numbers: int = LABEL_DIM

    @classmethod
    def equal(cls, dim: int) -> Widths:
        """The same dimension for all kinds, so that they can be summed."""
        return cls(dim, dim, dim, dim)


def _attributes(table: pa.Table, own_id: str, widths: Widths) -> list[ColumnUse]:
    """How every column but the id is used."""
    return [_attribute(name, table[name], widths) for name in table.column_names if name != own_id]


def _attribute(name: str, column: pa.ChunkedArray, widths: Widths) -> ColumnUse:
    """A feature for a column, unless nothing can be learned from it."""
    present = len(column) - column.null_count
    if present == 0:
        return ColumnUse(name, why_not="every row is null")
    if pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type):
        return ColumnUse(name, (Categories(name, widths.lists),))
    if is_text(column):
        return ColumnUse(name, (Text(name, widths.words),), hint=_cast_hint(column))
    if pa.types.is_string(column.type) or pa.types.is_boolean(column.type):
        return _label(name, column, present, widths.labels)
    if _is_number(column.type):
        return ColumnUse(name, (Bucketized(name, NUMBER_BUCKETS, widths.numbers),))
    return ColumnUse(name, why_not=f"{column.type} is not read by default; cast it, or name a feature for it")


def _label(name: str, column: pa.ChunkedArray, present: int, dim: int) -> ColumnUse:
    """A feature for a column of labels, unless most rows have a unique label."""
    distinct = pc.count_distinct(column).as_py()
    if present >= MIN_ROWS_PER_LABEL * distinct:
        return ColumnUse(name, (Category(name, dim),), hint=_cast_hint(column))
    if looks := _looks_like(column):
        example = column.drop_null()[0].as_py()
        return ColumnUse(name, why_not=f"text that looks like {looks}, such as {example!r}: cast the column to read it")
    return ColumnUse(name, why_not=f"too few rows share a label: {distinct:,} labels in {present:,} rows")


def _cast_hint(column: pa.ChunkedArray) -> str:
    looks = _looks_like(column)
    return f"looks like {looks}: cast the column to read it as {looks}" if looks else ""


def _looks_like(column: pa.ChunkedArray) -> str:
    """`numbers` or `dates` if every text in the column is one, else an empty string."""
    if not pa.types.is_string(column.type):
        return ""
    texts = pc.utf8_trim_whitespace(column.drop_null())
    for kind, pattern in (("dates", DATE), ("numbers", NUMBER)):
        if pc.all(pc.match_substring_regex(texts, pattern)).as_py():
            return kind
    return ""


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_date(kind) or types.is_timestamp(kind))
