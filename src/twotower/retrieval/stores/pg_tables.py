"""A candidate store in PostgreSQL: one table per published catalogue, and a registry that names the live one.

A new table is filled and measured next to the live one. A single transaction then makes it live: readers of the view
and of `twotower_stores` see either the old or the new one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from twotower.errors import ConfigError
from twotower.extras import require
from twotower.retrieval.conditions import Condition
from twotower.retrieval.stores.columns import from_stored, kept_schema, to_stored
from twotower.retrieval.stores.generation import Generation
from twotower.retrieval.stores.lengthened import Matrix, lengthened, longest
from twotower.retrieval.stores.sql import defined, is_name, quoted, sql_type, where
from twotower.retrieval.stores.store import Id, Publication

VECTOR = "embedding"

COPY_ROWS = 10_000
"""Convert this many rows for COPY at once."""

BUILD_MEMORY = (64, 4096)
"""Minimum and maximum memory, in MiB, that PostgreSQL may use to build a graph."""

VIEW_COMMENT = "twotower store"
"""The comment that marks a view as belonging to a store."""

REGISTRY = """
CREATE TABLE IF NOT EXISTS twotower_stores (
    name text NOT NULL,
    generation integer NOT NULL,
    relation text NOT NULL,
    towers text NOT NULL,
    candidate_id text NOT NULL,
    length double precision NOT NULL,
    width integer NOT NULL,
    columns bytea NOT NULL,
    is_ready boolean NOT NULL DEFAULT false,
    is_live boolean NOT NULL DEFAULT false,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, generation)
)
"""


def may_name(name: str) -> bool:
    """Whether a table column can have this name."""
    return is_name(name) and name.lower() != VECTOR


def query_of(
    own: Generation, vector: Any, k: int, excluded: Sequence[Id], condition: Condition | None
) -> tuple[str, list[Any]]:
    """SQL and parameters of the search for one query; results are best first, ties by id."""
    tests: list[str] = []
    values: list[Any] = []
    if len(excluded):
        tests.append(f"{quoted(own.key.stored)} <> ALL(%s::{sql_type(own.key.kind)}[])")
        values.append(list(excluded))
    if condition is not None:
        text, given = where(condition.tree, own.by_name)
        tests.append(text)
        values += given
    names = [quoted(column.stored) for column in own.columns]
    filtered = f"WHERE {' AND '.join(tests)}" if tests else ""
    literal = vector_literal(vector)
    text = (
        f"WITH nearest AS MATERIALIZED (SELECT {', '.join(names)}, -({VECTOR} <#> %s::vector) AS score "
        f"FROM {quoted(own.relation)} {filtered} ORDER BY {VECTOR} <#> %s::vector LIMIT %s) "
        f"SELECT * FROM nearest ORDER BY score DESC, {quoted(own.key.stored)}"
    )
    return text, [literal, *values, literal, k]


def table_of(rows: Sequence[Sequence[Any]], own: Generation) -> tuple[pa.Table, Any]:
    """The rows of a search as a table of candidates, and their scores."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * (len(own.columns) + 1)
    arrays = []
    for column, values in zip(own.columns, columns[:-1], strict=True):
        kind = own.catalogue.field(column.name).type
        arrays.append(from_stored(pa.array(values, column.kind), kind))
    return pa.Table.from_arrays(arrays, schema=own.catalogue), np.array(columns[-1], dtype=np.float32)


def vector_literal(vector: Any) -> str:
    """A vector as a pgvector literal."""
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def copy_rows(connection: Any, table: str, stored: pa.Table, vectors: Matrix) -> None:
    """Loads rows with COPY, the fastest way into PostgreSQL."""
    names = [quoted(name) for name in [*stored.column_names, VECTOR]]
    with connection.cursor() as cursor, cursor.copy(f"COPY {quoted(table)} ({', '.join(names)}) FROM STDIN") as copy:
        for start in range(0, stored.num_rows, COPY_ROWS):
            part = stored.slice(start, COPY_ROWS)
            columns = [part[name].to_pylist() for name in part.column_names]
            for row in zip(*columns, map(vector_literal, vectors[start : start + COPY_ROWS]), strict=True):
                copy.write_row(row)


def found_generation(connection: Any, name: str, towers: str) -> tuple[Generation | None, list[str]]:
    """The live or else the newest generation of these towers, else None and all ready towers."""
    if connection.execute("SELECT to_regclass('twotower_stores')").fetchone()[0] is None:
        return None, []
    rows = connection.execute(
        "SELECT relation, towers, candidate_id, length, width, columns FROM twotower_stores "
        "WHERE name = %s AND is_ready ORDER BY is_live DESC, generation DESC",
        [name],
    ).fetchall()
    for table, own, candidate_id, length, width, columns in rows:
        if own == towers:
            schema = pa.ipc.read_schema(pa.py_buffer(columns))
            return Generation(table, own, candidate_id, length, width, schema, may_name), []
    return None, sorted({row[1] for row in rows})


@contextmanager
def only_publisher(connection: Any, name: str) -> Iterator[int]:
    """Locks out other publishers, drops leftovers of interrupted ones and yields the next generation's number."""
    lock = f"twotower store {name}"
    connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [lock])
    try:
        if connection.execute("SELECT to_regtype('vector')").fetchone()[0] is None:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        if connection.execute("SELECT to_regclass('twotower_stores')").fetchone()[0] is None:
            connection.execute(REGISTRY)
        check_view(connection, name)
        forget(connection, name, "NOT is_ready")
        yield _next_number(connection, name)
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [lock])


def check_view(connection: Any, name: str) -> None:
    """Refuses a name that a relation other than a store has, as publishing drops the view of that name.

    Raises:
        ConfigError: A table, view or other relation with this name does not belong to a store.
    """
    row = connection.execute(
        "SELECT obj_description(to_regclass(%s), 'pg_class') WHERE to_regclass(%s) IS NOT NULL", [quoted(name)] * 2
    ).fetchone()
    if row is not None and row[0] != VIEW_COMMENT:
        raise ConfigError(
            f"relation {name!r} in the database is not a candidate store; choose another name for the store",
            field="name",
        )


def _next_number(connection: Any, name: str) -> int:
    """The number of the next generation, such that its table's name is free."""
    row = connection.execute("SELECT max(generation) FROM twotower_stores WHERE name = %s", [name]).fetchone()
    number: int = (row[0] or 0) + 1
    while connection.execute("SELECT to_regclass(%s)", [quoted(f"{name}_{number}")]).fetchone()[0] is not None:
        number += 1
    return number


def fill(connection: Any, name: str, number: int, publication: Publication, neighbours: int, build: int) -> Generation:
    """Creates the table of a generation with its graph; it is not live yet."""
    schema = kept_schema(publication.candidates.schema)
    width = publication.embeddings.shape[1]
    length = longest(publication.embeddings)
    own = Generation(f"{name}_{number}", publication.towers, publication.candidate_id, length, width, schema, may_name)
    stored = to_stored(publication.candidates, own.columns)
    columns = [defined(field.name, field.type) for field in stored.schema]
    columns += [f"{VECTOR} vector({width + 1}) NOT NULL", f"PRIMARY KEY ({quoted(own.key.stored)})"]
    with connection.transaction():  # registered tables may be dropped, so register only ours
        connection.execute(f"CREATE TABLE {quoted(own.relation)} ({', '.join(columns)})")
        connection.execute(
            "INSERT INTO twotower_stores (name, generation, relation, towers, candidate_id, length, width, columns) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            [name, number, own.relation, own.towers, own.candidate_id, length, width, schema.serialize().to_pybytes()],
        )
    copy_rows(connection, own.relation, stored, lengthened(publication.embeddings, length))
    _index(connection, own, stored.num_rows, neighbours, build)
    connection.execute(f"ANALYZE {quoted(own.relation)}")
    return own


def _index(connection: Any, own: Generation, rows: int, neighbours: int, build: int) -> None:
    """Builds the graph, in memory up to a limit; without parallel workers if there is too little shared memory."""
    memory = 1.5 * rows * (4 * (own.width + 1) + 24 * neighbours + 64) / 2**20
    memory = int(min(max(memory, BUILD_MEMORY[0]), BUILD_MEMORY[1]))
    statement = (
        f"CREATE INDEX ON {quoted(own.relation)} USING hnsw ({VECTOR} vector_ip_ops) "
        f"WITH (m = {neighbours}, ef_construction = {build})"
    )
    connection.execute(f"SET maintenance_work_mem = '{memory}MB'")
    try:
        connection.execute(statement)
    except require("psycopg", "pgvector").errors.DiskFull:  # as in a container with a small /dev/shm
        connection.execute("SET max_parallel_maintenance_workers = 0")
        connection.execute(statement)


def make_live(connection: Any, name: str, number: int, own: Generation, served: Collection[str]) -> None:
    """Makes a generation live in one transaction; keeps the previous one and those of served towers."""
    with connection.transaction():
        connection.execute("SELECT 1 FROM twotower_stores WHERE name = %s FOR UPDATE", [name])
        before = connection.execute(
            "SELECT generation FROM twotower_stores WHERE name = %s AND is_live", [name]
        ).fetchone()
        connection.execute("UPDATE twotower_stores SET is_live = generation = %s WHERE name = %s", [number, name])
        connection.execute(
            "UPDATE twotower_stores SET is_ready = true WHERE name = %s AND generation = %s", [name, number]
        )
        check_view(connection, name)  # again, as filling takes a while
        connection.execute(f"DROP VIEW IF EXISTS {quoted(name)}")
        connection.execute(f"CREATE VIEW {quoted(name)} AS SELECT * FROM {quoted(own.relation)}")
        connection.execute(f"COMMENT ON VIEW {quoted(name)} IS '{VIEW_COMMENT}'")
    forget(connection, name, f"generation < {number if before is None else before[0]}", served)


def forget(connection: Any, name: str, which: str, served: Collection[str] = ()) -> None:
    """Drops generations, except those of served towers, each in its own transaction."""
    rows = connection.execute(
        f"SELECT generation, relation FROM twotower_stores WHERE name = %s AND {which} AND towers <> ALL(%s)",
        [name, list(served)],
    ).fetchall()
    for number, table in rows:
        with connection.transaction():
            connection.execute(f"DROP TABLE IF EXISTS {quoted(table)}")
            connection.execute("DELETE FROM twotower_stores WHERE name = %s AND generation = %s", [name, number])
