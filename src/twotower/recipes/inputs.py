"""Which features a model gets when a config names none: what the columns of the data offer, and why not the others."""

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

Inputs = Literal["all", "log", "tutorial"]
"""`all` the data offers; what the `log` of ids, times and texts gives, without histories; the `tutorial`'s."""

Reach = Literal["before", "around"]
"""Whether what is said of a query stops `before` the event or reads what lies `around` it."""

WORDS_OF_A_TEXT = 1.5
"""Words a row, on average, from which a column of strings counts as text rather than as labels."""

ROWS_A_LABEL = 2.0
"""Rows that share a label, on average, from which a column of strings says more than the id does."""

LABEL_DIM, LIST_DIM, NUMBER_BUCKETS = 8, 16, 20
RECORD_BUCKETS = 128
MOMENTS = 1000
"""Buckets of the time where what is asked lies between what was learned, as in the tutorial."""

PERIODS = 20
"""Buckets of the time where what is asked comes after all that was learned: it is in the last one for good, which
therefore has to be one of which much is known."""


NUMBER = r"^[^\w\s]?\s*[-+]?\d[\d.,' ]*\s*(%|[^\w\s]|[A-Z]{3})?$"
DATE = r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?$"
"""What a text looks like that holds a number, with a currency perhaps, or a date."""


@dataclass(frozen=True)
class ColumnUse:
    """What becomes of one column.

    Attributes:
        column: Its name.
        features: Those that read it; none where it is left out.
        why_not: Why it is left out; empty where it is read.
        hint: What else to know of it.
    """

    column: str
    features: tuple[Feature, ...] = ()
    why_not: str = ""
    hint: str = ""


def features_of(uses: Iterable[ColumnUse]) -> list[Feature]:
    """All features of the columns, in their order."""
    return [feature for use in uses for feature in use.features]


@dataclass(frozen=True)
class InputPlan:
    """What the towers are to read.

    Attributes:
        inputs: Which columns.
        reach: Whether what is said of a query stops before the event.
        dim: Numbers in an embedding.
        unknown_rate: Share of ids taken for unknown in training.
        share_items: Histories take the candidate tower's embeddings, the sum of its features, all of `dim` numbers.
        read_id: The query tower reads the query's id.
    """

    inputs: Inputs
    reach: Reach
    dim: int
    unknown_rate: float
    share_items: bool = False
    read_id: bool = True


def query_columns(data: Log, plan: InputPlan) -> list[ColumnUse]:
    """The query id; the time, and what came before it or lies around it; the columns of the query table."""
    dim, inputs, reach = plan.dim, plan.inputs, plan.reach
    own_id = ColumnUse(data.query_id, (Category(data.query_id, dim, plan.unknown_rate),))
    uses = [own_id if plan.read_id else ColumnUse(data.query_id, why_not="histories say more where they are short")]
    if data.time is not None:
        buckets = PERIODS if reach == "before" and inputs != "tutorial" else MOMENTS
        moments: list[Feature] = [Bucketized(data.time, buckets, dim), Normalized(data.time)]
        if inputs != "tutorial":
            moments += _from_the_record(data.time, data.query_id, dim, reach)
        uses.append(ColumnUse(data.time, tuple(moments)))
        if inputs == "all":
            history = History(
                data.candidate_id,
                by=data.query_id,
                time=data.time,
                dim=dim,
                reach=reach,
                shared=plan.share_items,
            )
            uses.append(ColumnUse(data.candidate_id, (history,)))
    if inputs == "all":
        return uses + _attributes(data.queries, data.query_id, Widths(dim))
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
    return bool(words >= WORDS_OF_A_TEXT)


def _from_the_record(time: str, by: str, dim: int, reach: Reach) -> list[Feature]:
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
    """Numbers in the embeddings of a column.

    Attributes:
        words: Of words.
        labels: Of labels.
        lists: Of lists of labels.
        numbers: Of buckets of a number.
    """

    words: int
    labels: int = LABEL_DIM
    lists: int = LIST_DIM
    numbers: int = LABEL_DIM

    @classmethod
    def equal(cls, dim: int) -> Widths:
        """The same for all, so that they can be summed."""
        return cls(dim, dim, dim, dim)


def _attributes(table: pa.Table, own_id: str, widths: Widths) -> list[ColumnUse]:
    """What becomes of every column but the id."""
    return [_attribute(name, table[name], widths) for name in table.column_names if name != own_id]


def _attribute(name: str, column: pa.ChunkedArray, widths: Widths) -> ColumnUse:
    """A feature for a column that can tell rows apart without naming each."""
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
    """A feature for a column of labels, unless most rows have one of their own."""
    distinct = pc.count_distinct(column).as_py()
    if present >= ROWS_A_LABEL * distinct:
        return ColumnUse(name, (Category(name, dim),), hint=_cast_hint(column))
    if looks := _looks_like(column):
        example = column.drop_null()[0].as_py()
        return ColumnUse(name, why_not=f"text that looks like {looks}, such as {example!r}: cast the column to read it")
    return ColumnUse(name, why_not=f"labels that few rows share: {distinct:,} in {present:,} rows")


def _cast_hint(column: pa.ChunkedArray) -> str:
    looks = _looks_like(column)
    return f"looks like {looks}: cast the column to have it read so" if looks else ""


def _looks_like(column: pa.ChunkedArray) -> str:
    """`numbers` or `dates` where every text of a column is one, else nothing."""
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
