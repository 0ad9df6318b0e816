"""Digests of tables: the same for the same content however Arrow holds it, another for any other content."""

from __future__ import annotations

import datetime
import itertools
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.arrow import content_digest, read_table, write_table

DAYS = [datetime.datetime(2026, 1, day, tzinfo=datetime.UTC) for day in (1, 2)]
NUMBERS = st.integers(0, 3)
WORDS = st.text(max_size=5)
KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-5, 5)),
    (pa.int8(), st.integers(-5, 5)),
    (pa.float32(), st.sampled_from([0.0, -1.5, float("inf")])),
    (pa.bool_(), st.booleans()),
    (pa.string(), WORDS),
    (pa.large_string(), WORDS),
    (pa.binary(), st.binary(max_size=3)),
    (pa.binary(2), st.binary(min_size=2, max_size=2)),
    (pa.decimal128(5, 2), st.sampled_from([Decimal("1.25"), Decimal("-7.00")])),
    (pa.timestamp("us", "UTC"), st.sampled_from(DAYS)),
    (pa.date32(), st.sampled_from([datetime.date(2026, 1, 1), datetime.date(1960, 1, 1)])),
    (pa.list_(pa.string()), st.lists(st.none() | WORDS, max_size=3)),
    (pa.large_list(pa.int32()), st.lists(st.none() | st.integers(0, 3), max_size=3)),
    (pa.list_(pa.float32(), 2), st.lists(st.sampled_from([0.5, 1.0]), min_size=2, max_size=2)),
    (pa.struct({"a": pa.int64(), "b": pa.string()}), st.fixed_dictionaries({"a": st.none() | NUMBERS, "b": WORDS})),
    (pa.map_(pa.string(), pa.int64()), st.lists(st.tuples(WORDS, st.integers(0, 3)), max_size=2)),
    (pa.null(), st.none()),
]
COLUMNS = st.sampled_from(KINDS).flatmap(
    lambda one: st.tuples(st.just(one[0]), st.lists(st.none() | one[1], max_size=8))
)


def in_pieces(values: list[Any], kind: pa.DataType, cuts: list[int]) -> pa.ChunkedArray:
    """The values in chunks that are slices of longer arrays, with other values before and after them."""
    whole = pa.array([*values[::-1], *values, *values], kind)
    ends = sorted({0, len(values), *(cut % (len(values) + 1) for cut in cuts)})
    chunks = [whole.slice(len(values) + begin, end - begin) for begin, end in itertools.pairwise(ends)]
    return pa.chunked_array(chunks, kind)


@given(column=COLUMNS, cuts=st.lists(st.integers(0, 8), max_size=3))
def test_chunks_and_slices_do_not_matter(column: tuple[pa.DataType, list[Any]], cuts: list[int]) -> None:
    kind, values = column
    plain = pa.table({"x": pa.array(values, kind)})
    assert content_digest(pa.table({"x": in_pieces(values, kind, cuts)})) == content_digest(plain)


@given(column=COLUMNS, size=st.integers(0, 8))
def test_a_table_read_back_has_the_digest_of_the_one_that_was_written(
    column: tuple[pa.DataType, list[Any]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kind, values = column
    table = pa.table({"x": pa.array([*values, *values], kind)}).slice(len(values), size)
    path = tmp_path_factory.mktemp("arrow") / "x.arrow"
    write_table(table, path)
    assert content_digest(read_table(path)) == content_digest(table)
    assert content_digest(read_table(path, mapped=True)) == content_digest(table)


@given(one=COLUMNS, other=COLUMNS)
def test_different_content_has_another_digest(
    one: tuple[pa.DataType, list[Any]], other: tuple[pa.DataType, list[Any]]
) -> None:
    tables = [pa.table({"x": pa.array(values, kind)}) for kind, values in (one, other)]
    assert (content_digest(tables[0]) == content_digest(tables[1])) == tables[0].equals(tables[1])


@given(values=st.lists(st.none() | WORDS, max_size=8))
def test_dictionaries_and_what_lies_under_a_null_do_not_matter(values: list[str | None]) -> None:
    plain = pa.array(values, pa.string())
    expected = content_digest(pa.table({"x": plain}))
    assert content_digest(pa.table({"x": plain.dictionary_encode()})) == expected
    lists = pa.array([values], pa.list_(pa.string()))
    encoded = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), plain.dictionary_encode())
    assert content_digest(pa.table({"x": encoded})) == content_digest(pa.table({"x": lists}))
    if values:
        present = pa.array([value is not None for value in values])
        hidden = pa.array([value or "" if value is not None else "under it" for value in values], pa.string())
        under = pa.Array.from_buffers(pa.string(), len(values), [present.buffers()[1], *hidden.buffers()[1:]])
        assert under.equals(plain)
        assert content_digest(pa.table({"x": under})) == expected


def test_names_types_and_their_order_matter() -> None:
    tables = [
        pa.table({"a": [1], "b": [2]}),
        pa.table({"b": [2], "a": [1]}),
        pa.table({"a": [1], "c": [2]}),
        pa.table({"a": pa.array([1], pa.int32()), "b": [2]}),
        pa.table({"a": [1]}),
        pa.table({"a": ["1"], "b": ["2"]}),
        pa.table({"a": [None], "b": [2]}),
        pa.table({}),
    ]
    assert len({content_digest(table) for table in tables}) == len(tables)
