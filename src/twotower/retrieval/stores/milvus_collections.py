"""A candidate store in Milvus: one collection per published catalogue, and an alias for the live one.

A new collection is filled and measured next to the live one. Then the alias is moved, which Milvus does atomically.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa

from twotower.errors import ConfigError, DataError
from twotower.retrieval.stores.columns import kept_schema, to_stored
from twotower.retrieval.stores.generation import Generation
from twotower.retrieval.stores.lengthened import Matrix, lengthened, longest
from twotower.retrieval.stores.milvus_client import Client
from twotower.retrieval.stores.milvus_words import masked
from twotower.retrieval.stores.store import Publication

VECTOR = "embedding"

MAX_HITS = 16_384
"""Milvus returns at most this many candidates per search."""

MAX_TEXT_BYTES, MAX_LIST_ELEMENTS = 65_535, 4_096
"""Milvus's limits for the bytes of a text and the elements of a list."""

BATCH = 1000
"""Send this many rows at once."""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
RESERVED_NAMES = frozenset(
    {VECTOR, "score", "distance", "entity", "and", "or", "not", "in", "like", "is", "null", "true", "false"}
)
"""Names with another meaning in an expression or a result."""

TOWERS, LENGTH, WIDTH, COLUMNS, CANDIDATE_ID, READY, BEGUN = (
    f"twotower.{name}" for name in ("towers", "length", "width", "columns", "candidate_id", "ready", "begun")
)
"""Properties of a collection that mark it as part of a store."""

ABANDONED_SECONDS = 86_400.0
"""Treat an unfinished publication as interrupted after this many seconds."""


def may_name(name: str) -> bool:
    """Whether a collection field can have this name."""
    return bool(NAME.fullmatch(name)) and name.lower() not in RESERVED_NAMES


def found_generation(client: Any, name: str, towers: str) -> tuple[Generation | None, list[str]]:
    """The live or else the newest generation of these towers, else None and all ready towers."""
    live = _live(client, name)
    others = set()
    own_collections = _collections(client, name)
    for collection in sorted(own_collections, key=lambda own: (own != live, -_number(own))):
        kept = own_collections[collection]
        if kept.get(READY) != "true":
            continue
        if kept[TOWERS] == towers:
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(kept[COLUMNS])))
            length, width = float(kept[LENGTH]), int(kept[WIDTH])
            return Generation(collection, towers, kept[CANDIDATE_ID], length, width, schema, may_name), []
        others.add(kept[TOWERS])
    return None, sorted(others)


def next_number(client: Any, name: str) -> int:
    """The number of the next generation; drops leftovers of publications interrupted more than a day ago.

    Raises:
        ConfigError: A collection or alias with the store's name is not a store.
    """
    if client.has_collection(name) and TOWERS not in client.describe_collection(name)["properties"]:
        raise ConfigError(
            f"collection {name!r} in Milvus is not a candidate store; choose another name for the store", field="name"
        )
    for collection, kept in _collections(client, name).items():
        if kept.get(READY) != "true" and time.time() - float(kept[BEGUN]) > ABANDONED_SECONDS:
            drop(client, collection)
    return max(map(_number, _numbered(client, name)), default=0) + 1


def fill(
    connection: Client, client: Any, name: str, number: int, publication: Publication, sizes: tuple[int, int]
) -> Generation:
    """Creates the collection of a generation with its graph; it is not live yet."""
    schema = kept_schema(publication.candidates.schema)
    width, length = publication.embeddings.shape[1], longest(publication.embeddings)
    own = Generation(f"{name}_{number}", publication.towers, publication.candidate_id, length, width, schema, may_name)
    properties = {
        TOWERS: own.towers,
        LENGTH: repr(length),
        WIDTH: str(width),
        CANDIDATE_ID: own.candidate_id,
        COLUMNS: base64.b64encode(schema.serialize().to_pybytes()).decode(),
        READY: "false",
        BEGUN: repr(time.time()),
    }
    client.create_collection(
        own.relation, schema=_schema(connection, client, own), properties=properties, consistency_level="Strong"
    )
    try:
        _insert(client, own, publication)
        _index(client, own, sizes)
    except BaseException:
        drop(client, own.relation)
        raise
    return own


def _insert(client: Any, own: Generation, publication: Publication) -> None:
    for start in range(0, len(publication.candidates), BATCH):
        part = publication.candidates.slice(start, BATCH)
        vectors = lengthened(publication.embeddings[start : start + BATCH], own.length)
        client.insert(own.relation, rows_of(part, own, vectors))
    client.flush(own.relation)


def _index(client: Any, own: Generation, sizes: tuple[int, int]) -> None:
    index = client.prepare_index_params()
    neighbours, build = sizes
    index.add_index(VECTOR, index_type="HNSW", metric_type="IP", params={"M": neighbours, "efConstruction": build})
    client.create_index(own.relation, index)
    client.load_collection(own.relation)


def make_live(client: Any, name: str, own: Generation, served: Collection[str]) -> None:
    """Moves the alias to a generation; keeps the previous one and those of served towers, and drops the others."""
    before = _live(client, name)
    client.alter_collection_properties(own.relation, {READY: "true"})
    if before is None:
        client.create_alias(own.relation, name)
    else:
        client.alter_alias(own.relation, name)
    for collection, kept in _collections(client, name).items():
        is_needed = collection in (own.relation, before) or kept[TOWERS] in served
        if not is_needed and kept.get(READY) == "true":
            drop(client, collection)


def drop(client: Any, collection: str) -> None:
    """Drops a collection if it exists."""
    if client.has_collection(collection):
        client.drop_collection(collection)


def put(client: Any, own: Generation, rows: Sequence[dict[str, Any]], seconds: float) -> None:
    """Adds and changes rows."""
    for start in range(0, len(rows), BATCH):
        client.upsert(own.relation, rows[start : start + BATCH], timeout=max(seconds, 60.0))


def rows_of(candidates: pa.Table, own: Generation, vectors: Matrix) -> list[dict[str, Any]]:
    """The rows in Milvus's format.

    Raises:
        DataError: A text or a list is longer than Milvus allows.
    """
    rows: list[dict[str, Any]] = to_stored(candidates, own.columns).to_pylist()
    lowers = {column.lower for column in own.columns if column.is_text}
    for row, vector in zip(rows, vectors.tolist(), strict=True):
        for name, value in row.items():
            if isinstance(value, list):
                row[name] = [one for one in value if one is not None]  # Milvus lists cannot hold nulls
            elif name in lowers and value is not None:
                row[name] = masked(value)
            _check(name, row[name])
        row[VECTOR] = vector
    return rows


def _check(name: str, value: object) -> None:
    if isinstance(value, list):
        if len(value) > MAX_LIST_ELEMENTS:
            raise DataError(
                f"column {name!r}: a list has {len(value)} elements; Milvus allows at most {MAX_LIST_ELEMENTS}"
            )
        for one in value:
            _check(name, one)
    elif isinstance(value, str) and len(value.encode()) > MAX_TEXT_BYTES:
        size = len(value.encode())
        raise DataError(f"column {name!r}: a text has {size} bytes; Milvus allows at most {MAX_TEXT_BYTES}")


def _schema(connection: Client, client: Any, own: Generation) -> Any:
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    for column in own.columns:
        inner = column.kind.value_type if pa.types.is_list(column.kind) else column.kind
        given: dict[str, Any] = {"max_length": MAX_TEXT_BYTES} if pa.types.is_string(inner) else {}
        kind = connection.data_type(_type(inner))
        if inner != column.kind:
            given |= {"element_type": kind, "max_capacity": MAX_LIST_ELEMENTS}
            kind = connection.data_type("ARRAY")
        is_key = column.name == own.candidate_id
        schema.add_field(column.stored, kind, **given, **({"is_primary": True} if is_key else {"nullable": True}))
        if column.is_text:
            schema.add_field(column.lower, kind, max_length=MAX_TEXT_BYTES, nullable=True)
    schema.add_field(VECTOR, connection.data_type("FLOAT_VECTOR"), dim=own.width + 1)
    return schema


def _type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "BOOL"
    if pa.types.is_integer(kind):
        return "INT64"
    if pa.types.is_string(kind):
        return "VARCHAR"
    return "FLOAT" if pa.types.is_float32(kind) else "DOUBLE"


def _numbered(client: Any, name: str) -> list[str]:
    """Collections named like generations of a store, including those that are not part of it."""
    return [own for own in client.list_collections() if re.fullmatch(rf"{name}_\d+", own)]


def _collections(client: Any, name: str) -> dict[str, dict[str, str]]:
    """The generations of a store, with their properties."""
    found = {own: client.describe_collection(own)["properties"] for own in _numbered(client, name)}
    return {own: kept for own, kept in found.items() if TOWERS in kept}


def _live(client: Any, name: str) -> str | None:
    for collection in _collections(client, name):
        if name in client.list_aliases(collection)["aliases"]:
            return collection
    return None


def _number(collection: str) -> int:
    return int(collection.rpartition("_")[2])
