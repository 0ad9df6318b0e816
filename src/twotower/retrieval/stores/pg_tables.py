"""What a store of candidates is in PostgreSQL: a table for each catalogue that was published, and which one is live.

A table is filled and measured beside the one that is live. One transaction then makes it the live one: readers of the
view and of `twotower_stores` see the one or the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

COPIED = 10_000
"""Rows that are made ready for COPY at once."""

BUILD_MEMORY = (64, 4096)
"""Mebibytes that PostgreSQL may take to build a graph, at least and at most."""

OURS = "twotower store"
"""The comment of a view by which it is known as a store's."""

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
    """Whether a column of a table can have this name."""
    return is_name(name) and name.lower() != VECTOR


def query_of(
    own: Generation, vector: Any, k: int, excluded: Sequence[Id], condition: Condition | None
) -> tuple[str, list[Any]]:
    """The search for one query; the best first, equal ones by id."""
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
    literal = written(vector)
    text = (
        f"WITH nearest AS MATERIALIZED (SELECT {', '.join(names)}, -({VECTOR} <#> %s::vector) AS score "
        f"FROM {quoted(own.relation)} {filtered} ORDER BY {VECTOR} <#> %s::vector LIMIT %s) "
        f"SELECT * FROM nearest ORDER BY score DESC, {quoted(own.key.stored)}"
    )
    return text, [literal, *values, literal, k]


def table_of(rows: Sequence[Sequence[Any]], own: Generation) -> tuple[pa.Table, Any]:
    """The rows that were found as a table of candidates, and their scores."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * (len(own.columns) + 1)
    arrays = []
    for column, values in zip(own.columns, columns[:-1], strict=True):
        kind = own.catalogue.field(column.name).type
        arrays.append(from_stored(pa.array(values, column.kind), kind))
    return pa.Table.from_arrays(arrays, schema=own.catalogue), np.array(columns[-1], dtype=np.float32)


def written(vector: Any) -> str:
    """A vector as pgvector reads it."""
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def copied(connection: Any, table: str, stored: pa.Table, vectors: Matrix) -> None:
    """Loads rows by COPY, which is the fastest way into PostgreSQL."""
    names = [quoted(name) for name in [*stored.column_names, VECTOR]]
    with connection.cursor() as cursor, cursor.copy(f"COPY {quoted(table)} ({', '.join(names)}) FROM STDIN") as copy:
        for start in range(0, stored.num_rows, COPIED):
            part = stored.slice(start, COPIED)
            columns = [part[name].to_pylist() for name in part.column_names]
            for row in zip(*columns, map(written, vectors[start : start + COPIED]), strict=True):
                copy.write_row(row)


def found_generation(connection: Any, name: str, towers: str) -> tuple[Generation | None, list[str]]:
    """The live generation of these towers or else their newest, and the towers of all that are ready."""
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
    """The number of the next generation, while nobody else publishes; what an interrupted one left is dropped."""
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
    """Refuses a name that something else than a store has: its view would be dropped.

    Raises:
        ConfigError: A table, view or other relation of this name is not a store's.
    """
    row = connection.execute(
        "SELECT obj_description(to_regclass(%s), 'pg_class') WHERE to_regclass(%s) IS NOT NULL", [quoted(name)] * 2
    ).fetchone()
    if row is not None and row[0] != OURS:
        raise ConfigError(
            f"relation {name!r} of the database is not a candidate store; expected another name for the store",
            field="name",
        )


def _next_number(connection: Any, name: str) -> int:
    """The number of the next generation, whose table's name nothing else has."""
    row = connection.execute("SELECT max(generation) FROM twotower_stores WHERE name = %s", [name]).fetchone()
    number: int = (row[0] or 0) + 1
    while connection.execute("SELECT to_regclass(%s)", [quoted(f"{name}_{number}")]).fetchone()[0] is not None:
        number += 1
    return number


def fill(connection: Any, name: str, number: int, publication: Publication, neighbours: int, build: int) -> Generation:
    """Makes the table of a generation, with its graph; nobody searches it yet."""
    schema = kept_schema(publication.candidates.schema)
    width = publication.embeddings.shape[1]
    length = longest(publication.embeddings)
    own = Generation(f"{name}_{number}", publication.towers, publication.candidate_id, length, width, schema, may_name)
    stored = to_stored(publication.candidates, own.columns)
    columns = [defined(field.name, field.type) for field in stored.schema]
    columns += [f"{VECTOR} vector({width + 1}) NOT NULL", f"PRIMARY KEY ({quoted(own.key.stored)})"]
    with connection.transaction():  # what is registered may be dropped, so it has to be ours
        connection.execute(f"CREATE TABLE {quoted(own.relation)} ({', '.join(columns)})")
        connection.execute(
            "INSERT INTO twotower_stores (name, generation, relation, towers, candidate_id, length, width, columns) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            [name, number, own.relation, own.towers, own.candidate_id, length, width, schema.serialize().to_pybytes()],
        )
    copied(connection, own.relation, stored, lengthened(publication.embeddings, length))
    _index(connection, own, stored.num_rows, neighbours, build)
    connection.execute(f"ANALYZE {quoted(own.relation)}")
    return own


def _index(connection: Any, own: Generation, rows: int, neighbours: int, build: int) -> None:
    """Builds the graph, in memory where that is allowed; alone where processes find no memory to share."""
    memory = 1.5 * rows * (4 * (own.width + 1) + 24 * neighbours + 64) / 2**20
    memory = int(min(max(memory, BUILD_MEMORY[0]), BUILD_MEMORY[1]))
    statement = (
        f"CREATE INDEX ON {quoted(own.relation)} USING hnsw ({VECTOR} vector_ip_ops) "
        f"WITH (m = {neighbours}, ef_construction = {build})"
    )
    connection.execute(f"SET maintenance_work_mem = '{memory}MB'")
    try:
        connection.execute(statement)
    except require("psycopg", "pgvector").errors.DiskFull:  # as where a container has little /dev/shm
        connection.execute("SET max_parallel_maintenance_workers = 0")
        connection.execute(statement)


def make_live(connection: Any, name: str, number: int, own: Generation) -> None:
    """Makes a generation the live one in one transaction; the one before stays, those before that are dropped."""
    with connection.transaction():
        connection.execute("SELECT 1 FROM twotower_stores WHERE name = %s FOR UPDATE", [name])
        before = connection.execute(
            "SELECT generation FROM twotower_stores WHERE name = %s AND is_live", [name]
        ).fetchone()
        connection.execute("UPDATE twotower_stores SET is_live = generation = %s WHERE name = %s", [number, name])
        connection.execute(
            "UPDATE twotower_stores SET is_ready = true WHERE name = %s AND generation = %s", [name, number]
        )
        check_view(connection, name)  # once more: filling takes a while
        connection.execute(f"DROP VIEW IF EXISTS {quoted(name)}")
        connection.execute(f"CREATE VIEW {quoted(name)} AS SELECT * FROM {quoted(own.relation)}")
        connection.execute(f"COMMENT ON VIEW {quoted(name)} IS '{OURS}'")
    forget(connection, name, f"generation < {number if before is None else before[0]}")


def forget(connection: Any, name: str, which: str) -> None:
    """Drops generations, each in a transaction of its own."""
    rows = connection.execute(
        f"SELECT generation, relation FROM twotower_stores WHERE name = %s AND {which}", [name]
    ).fetchall()
    for number, table in rows:
        with connection.transaction():
            connection.execute(f"DROP TABLE IF EXISTS {quoted(table)}")
            connection.execute("DELETE FROM twotower_stores WHERE name = %s AND generation = %s", [name, number])
