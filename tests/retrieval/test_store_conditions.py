"""A condition finds the same rows in Arrow, in PostgreSQL and in Milvus."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from twotower.errors import DataError
from twotower.retrieval.conditions import Condition
from twotower.retrieval.stores.columns import StoredColumn, from_stored, kept_schema, stored_columns, to_stored
from twotower.retrieval.stores.milvus_words import expression, masked
from twotower.retrieval.stores.sql import defined, where
from twotower.testing.servers import Postgres

SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "year": pa.int16(),
        "price": pa.float64(),
        "share": pa.float32(),
        "title": pa.string(),
        "new": pa.bool_(),
        "day": pa.date32(),
        "at": pa.timestamp("ns", "UTC"),
        "tags": pa.list_(pa.string()),
        "sizes": pa.list_(pa.int64()),
    }
)
WORDS = ("red", "Red", "o'hare", 'say "so"', "", "50%", "a_b", "back\\slash", "a\nb", "É", "é %s", "﷐", "R")
NUMBERS = (0, 1, -3, 32767, -32768)
TIMES = (dt.datetime(1994, 6, 30, tzinfo=dt.UTC), dt.datetime(1960, 1, 1, 5, tzinfo=dt.UTC))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "year": st.sampled_from(NUMBERS),
    "price": st.sampled_from((0.0, 1.5, -3.0, 1e300)),
    "share": st.sampled_from((0.0, 1.1, -2.5)),
    "title": st.sampled_from(WORDS),
    "new": st.booleans(),
    "day": st.sampled_from((dt.date(1994, 6, 30), dt.date(1960, 1, 1))),
    "at": st.sampled_from(TIMES),
    "tags": st.lists(st.sampled_from(WORDS), max_size=3),
    "sizes": st.lists(st.sampled_from(NUMBERS), max_size=3),
}
ROWS = st.fixed_dictionaries({name: values | st.none() for name, values in VALUES.items()})
LITERALS: dict[str, st.SearchStrategy[Any]] = VALUES | {
    "year": st.sampled_from((*NUMBERS, 0.5, -0.5, 32767.5, 1e20, -1e20, "1e999", 99999)),
    "price": st.sampled_from((0.0, 1.5, 2, "1e999", "-1e999")),
    "share": st.sampled_from((1.1, 0, 1e300, "-1e999")),
    "title": st.sampled_from((*WORDS, "e", "%", "_", "\0", "r\0")),
    "tags": st.sampled_from((*WORDS, "r\0")),
    "sizes": st.sampled_from(NUMBERS),
}


def written(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)) or name in ("year", "price", "share", "sizes"):
        return str(value)
    text = value.isoformat() if isinstance(value, dt.date) else str(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def one_test(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(list(VALUES)))
    kind = draw(st.integers(0, 5))
    value = written(name, draw(LITERALS[name]))
    if kind == 0:
        return f"{name} is {draw(st.sampled_from(['', 'not ']))}null"
    if name in ("tags", "sizes") or (name == "title" and kind == 1):
        return f"{name} {draw(st.sampled_from(['', 'not ']))}contains {value}"
    if kind == 2:
        several = draw(st.lists(LITERALS[name], min_size=1, max_size=3))
        listed = ", ".join(written(name, one) for one in several)
        return f"{name} {draw(st.sampled_from(['', 'not ']))}in [{listed}]"
    signs = ("=", "!=") if name == "new" else ("=", "!=", "<", "<=", ">", ">=")
    return f"{name} {draw(st.sampled_from(signs))} {value}"


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) and ({two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) or ({two[1]})"),
        inner.map(lambda one: f"not ({one})"),
    )


CONDITIONS = st.recursive(one_test(), larger, max_leaves=6)
ALL_ROWS = st.lists(ROWS, max_size=8).map(
    lambda rows: pa.Table.from_pylist([{"id": place} | row for place, row in enumerate(rows)], SCHEMA)
)


def is_name(name: str) -> bool:
    return name not in ("share", "at")  # which stores then call otherwise


COLUMNS = stored_columns(SCHEMA, is_name)
BY_NAME = {column.name: column for column in COLUMNS}


@settings(max_examples=300)
@given(table=ALL_ROWS, text=CONDITIONS)
def test_milvus_finds_what_arrow_finds(table: pa.Table, text: str) -> None:
    found = pytest.importorskip("milvus_lite.search.filter")
    types = pytest.importorskip("milvus_lite.schema.types")
    condition = Condition.parse(text, SCHEMA)
    stored = as_milvus(to_stored(table, COLUMNS), COLUMNS)
    fields = [milvus_field(types, field) for field in stored.schema]
    compiled = found.compile_filter(expression(condition.tree, BY_NAME, "id"), types.CollectionSchema(fields=fields))
    mask = found.evaluate_mask(compiled, stored)
    assert [place for place, is_found in enumerate(mask) if is_found] == condition.rows(table).tolist()


def as_milvus(table: pa.Table, columns: list[StoredColumn]) -> pa.Table:
    for column in columns:
        if column.is_text:
            place = table.column_names.index(column.lower)
            own = [None if text is None else masked(text) for text in table[column.lower].to_pylist()]
            table = table.set_column(place, column.lower, pa.array(own, pa.string()))
    return table


def milvus_field(types: Any, field: pa.Field) -> Any:
    kinds = {pa.int64(): "INT64", pa.float64(): "DOUBLE", pa.float32(): "FLOAT", pa.string(): "VARCHAR"}
    kinds[pa.bool_()] = "BOOL"
    key = field.name == "id"
    if pa.types.is_list(field.type):
        element = types.DataType[kinds[field.type.value_type]]
        return types.FieldSchema(
            name=field.name, dtype=types.DataType.ARRAY, element_type=element, nullable=True, max_capacity=99
        )
    return types.FieldSchema(name=field.name, dtype=types.DataType[kinds[field.type]], is_primary=key, nullable=not key)


@pytest.fixture(scope="module")
def table_in_postgres(postgres_server: Postgres) -> Iterator[Any]:
    psycopg = pytest.importorskip("psycopg")
    stored = to_stored(SCHEMA.empty_table(), COLUMNS).schema
    made = ", ".join(defined(field.name, field.type) for field in stored)
    with psycopg.connect(postgres_server.address, autocommit=True) as connection:
        connection.execute(f"CREATE TEMP TABLE conditions ({made})")
        yield connection


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=ALL_ROWS, text=CONDITIONS)
@example(table=pa.Table.from_pylist([{"id": 0, "title": "x"}], SCHEMA), text='title < "r\0"')
def test_postgres_finds_what_arrow_finds(table_in_postgres: Any, table: pa.Table, text: str) -> None:
    condition = Condition.parse(text, SCHEMA)
    stored = to_stored(table, COLUMNS)
    values = ", ".join(["%s"] * stored.num_columns)
    with table_in_postgres.cursor() as cursor:
        cursor.execute("DELETE FROM conditions")
        for row in zip(*(stored[name].to_pylist() for name in stored.column_names), strict=True):
            cursor.execute(f"INSERT INTO conditions VALUES ({values})", row)
        sql, given_values = where(condition.tree, BY_NAME)
        cursor.execute(f"SELECT id FROM conditions WHERE {sql} ORDER BY id", given_values)
        assert [found for (found,) in cursor.fetchall()] == condition.rows(table).tolist()


def test_values_never_become_part_of_the_sql() -> None:
    text = 'title = "x\'; drop table t; --" and tags contains "\'" and year in [1, 2] and title contains "y\'"'
    sql, values = where(Condition.parse(text, SCHEMA).tree, BY_NAME)
    assert "'" not in sql
    assert values == ["x'; drop table t; --", "'", [1, 2], "y'"]


@settings(max_examples=100)
@given(table=ALL_ROWS)
def test_what_a_store_gives_back_is_what_it_was_given(table: pa.Table) -> None:
    stored = to_stored(table, COLUMNS)
    for column in COLUMNS:
        own = stored[column.stored].combine_chunks()
        again = from_stored(pa.array(own.to_pylist(), own.type), SCHEMA.field(column.name).type)
        assert again.to_pylist() == table[column.name].to_pylist()


def test_names_that_a_store_cannot_use_are_replaced() -> None:
    schema = pa.schema(
        {"a": pa.string(), "bad": pa.int8(), "raw": pa.binary(), "a__lower": pa.string(), "Column_1": pa.int8()}
    )
    columns = stored_columns(schema, lambda name: not name.startswith("bad"))
    assert [column.stored for column in columns] == ["a", "column_1", "column_3", "column_4"]
    assert kept_schema(schema).names == ["a", "bad", "a__lower", "Column_1"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([1.0, float("nan")]), "column 'x' has a number that is not finite"),
        (pa.array([[float("inf")]]), "column 'x' has a number that is not finite"),
        (pa.array([2**64 - 1], pa.uint64()), "column 'x'.*64-bit integers"),
    ],
)
def test_what_a_store_cannot_keep_is_refused(values: pa.Array, said: str) -> None:
    table = pa.table({"x": values})
    with pytest.raises(DataError, match=said):
        to_stored(table, stored_columns(table.schema, lambda _: True))
