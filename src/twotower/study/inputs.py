"""Which features a model gets when a config names none: what the columns of the data offer."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.dataset import Dataset
from twotower.data.stream import ParquetLog
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


def query_inputs(
    data: Dataset | ParquetLog, dim: int, unknown_rate: float, inputs: Inputs = "all", reach: Reach = "before"
) -> list[Feature]:
    """The query id; the time, and what came before it or lies around it; the columns of the query table.

    What came before is left out with a streamed log, of which no record is kept.
    """
    recorded = isinstance(data, Dataset)
    features: list[Feature] = [Category(data.query_id, dim, unknown_rate)]
    if data.time is not None:
        buckets = PERIODS if reach == "before" and inputs != "tutorial" else MOMENTS
        features += [Bucketized(data.time, buckets, dim), Normalized(data.time)]
        if inputs != "tutorial" and recorded:
            features += _from_the_record(data.time, data.query_id, dim, reach)
        if inputs == "all" and recorded:
            features.append(History(data.candidate_id, by=data.query_id, time=data.time, dim=dim, reach=reach))
    if inputs == "all":
        features += _attributes(data.queries, data.query_id, dim)
    return features


def candidate_inputs(
    data: Dataset | ParquetLog, dim: int, unknown_rate: float, inputs: Inputs = "all"
) -> list[Feature]:
    """The candidate id, the words of every text column, and the other columns of the candidate table."""
    features: list[Feature] = [Category(data.candidate_id, dim, unknown_rate)]
    if inputs == "all":
        return features + _attributes(data.candidates, data.candidate_id, dim)
    texts = [name for name in data.candidates.column_names if is_text(data.candidates[name])]
    return features + [Text(name, dim) for name in texts]


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


def _attributes(table: pa.Table, own_id: str, dim: int) -> list[Feature]:
    """A feature for every column but the id that can tell rows apart without naming each."""
    features: list[Feature] = []
    for name in table.column_names:
        column = table[name]
        if name == own_id or column.null_count == len(column):
            continue
        if pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type):
            features.append(Categories(name, LIST_DIM))
        elif is_text(column):
            features.append(Text(name, dim))
        elif pa.types.is_string(column.type) or pa.types.is_boolean(column.type):
            present = len(column) - column.null_count
            if present >= ROWS_A_LABEL * pc.count_distinct(column).as_py():
                features.append(Category(name, LABEL_DIM))
        elif _is_number(column.type):
            features.append(Bucketized(name, NUMBER_BUCKETS, LABEL_DIM))
    return features


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_date(kind) or types.is_timestamp(kind))
