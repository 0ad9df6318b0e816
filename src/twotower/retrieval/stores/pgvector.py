"""`PgVector`: candidates in PostgreSQL with pgvector, searched with its HNSW graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from torch import Tensor

from twotower.arguments import Settings
from twotower.errors import ConfigError
from twotower.retrieval.conditions import Condition
from twotower.retrieval.parity import Parity
from twotower.retrieval.stores.addresses import check_address
from twotower.retrieval.stores.columns import to_stored
from twotower.retrieval.stores.gate import fitted_store
from twotower.retrieval.stores.generation import Generation, missing_generation
from twotower.retrieval.stores.lengthened import lengthened, padded_queries
from twotower.retrieval.stores.pg_tables import (
    VECTOR,
    copy_rows,
    fill,
    forget,
    found_generation,
    make_live,
    only_publisher,
    query_of,
    table_of,
)
from twotower.retrieval.stores.postgres import Connections
from twotower.retrieval.stores.sql import quoted, sql_type
from twotower.retrieval.stores.store import STORES, Found, Id, Publication, check_name, check_search

MAX_WIDTH = 1000
"""Allow search widths (`hnsw.ef_search`) up to this; a search that needs more continues in further rounds."""

START_WIDTH = 64
"""Start at this search width if the settings have none."""

WIDENING = 1.6
"""Multiply the width by this to widen a search."""

MAX_DIMENSIONS = 2000
"""pgvector's HNSW index takes vectors of at most this many dimensions."""


class PgVectorStore:
    """The candidates of one model's towers in PostgreSQL; see `Store`.

    The graph is searched in rounds until k eligible candidates are found. If it runs out before that, all eligible
    candidates are scanned.

    Args:
        settings: Settings of the store.
        towers: Version id of the towers whose vectors to search.
        generation: The catalogue to search; default: the live one of these towers, or else the newest.
        connections: The connections to use; default: new ones.
    """

    kind = "pgvector"

    def __init__(
        self,
        settings: PgVector,
        towers: str,
        generation: Generation | None = None,
        connections: Connections | None = None,
    ) -> None:
        self.settings, self.version = settings, towers
        self.connections = Connections(settings.address, settings.timeout) if connections is None else connections
        self._generation = generation

    @property
    def schema(self) -> pa.Schema:
        """The columns that the store holds."""
        return self.generation.catalogue

    @property
    def generation(self) -> Generation:
        """The catalogue to search.

        Raises:
            StoreUnavailableError: The database is unreachable.
            StoreVersionError: It has no catalogue of these towers.
        """
        if self._generation is None:
            self._generation = self.connections.repeatable(self._find)
        return self._generation

    def __len__(self) -> int:
        count: int = self._on_table(
            lambda connection, own: connection.execute(f"SELECT count(*) FROM {quoted(own.relation)}").fetchone()[0]
        )
        return count

    def search(
        self,
        embeddings: Tensor,
        k: int,
        excluded: Sequence[Sequence[Id]] | None = None,
        condition: Condition | None = None,
    ) -> list[Found]:
        """The k best eligible candidates of each query; see `Store.search`."""
        own = self.generation
        check_search(embeddings, k, own.width)
        outs = [()] * len(embeddings) if excluded is None else excluded

        def ask(connection: Any, own: Generation) -> list[list[Any]]:
            queries = [
                query_of(own, vector, k, out, condition)
                for vector, out in zip(padded_queries(embeddings), outs, strict=True)
            ]
            return self._rows(connection, queries, k)

        rows = self._on_table(ask)
        counts = [len(one) for one in rows]
        table, scores = table_of([row for one in rows for row in one], self.generation)
        ends = np.cumsum([0, *counts])
        return [
            Found(table.slice(start, count), scores[start : start + count])
            for start, count in zip(ends.tolist(), counts, strict=False)
        ]

    def upsert(self, candidates: pa.Table, embeddings: Tensor) -> None:
        """Adds and changes candidates in one transaction; see `Store.upsert`."""

        def put(connection: Any, own: Generation) -> None:
            stored = to_stored(candidates, own.columns)
            vectors = lengthened(embeddings, own.length)
            names = [quoted(name) for name in [*stored.column_names, VECTOR]]
            changed = ", ".join(f"{name} = EXCLUDED.{name}" for name in names if name != quoted(own.key.stored))
            connection.execute("SET LOCAL statement_timeout = 0")
            connection.execute(f"CREATE TEMP TABLE incoming (LIKE {quoted(own.relation)}) ON COMMIT DROP")
            copy_rows(connection, "incoming", stored, vectors)
            connection.execute(
                f"INSERT INTO {quoted(own.relation)} ({', '.join(names)}) SELECT {', '.join(names)} FROM incoming "
                f"ON CONFLICT ({quoted(own.key.stored)}) DO UPDATE SET {changed}"
            )

        self._on_table(put)

    def withdraw(self, ids: Iterable[Id]) -> None:
        """Removes candidates; see `Store.withdraw`."""
        gone = list(ids)

        def take(connection: Any, own: Generation) -> None:
            kind = sql_type(own.key.kind)
            statement = f"DELETE FROM {quoted(own.relation)} WHERE {quoted(own.key.stored)} = ANY(%s::{kind}[])"
            connection.execute(statement, [gone])

        self._on_table(take)

    def wider(self) -> PgVectorStore | None:
        """The same store with a wider search; see `Store.wider`."""
        wide = self.settings.search or START_WIDTH
        if wide >= MAX_WIDTH:
            return None
        settings = msgspec.structs.replace(self.settings, search=min(MAX_WIDTH, int(WIDENING * wide)))
        return PgVectorStore(settings, self.version, self._generation, self.connections)

    def close(self) -> None:
        """Closes the connections."""
        self.connections.close()

    def _find(self, connection: Any) -> Generation:
        found, others = found_generation(connection, self.settings.name, self.version)
        if found is None:
            raise missing_generation(self.settings.name, self.settings.address, self.version, others)
        return found

    def _on_table(self, work: Any) -> Any:
        """Calls a function with a connection and the table; looks the table up again if it has been dropped."""
        try:
            return self.connections.repeatable(lambda connection: work(connection, self.generation))
        except self.connections.psycopg.errors.UndefinedTable:
            self._generation = None
            return self.connections.repeatable(lambda connection: work(connection, self.generation))

    def _rows(self, connection: Any, queries: Sequence[tuple[str, list[Any]]], k: int) -> list[list[Any]]:
        """The rows that each query finds with the graph, or with a full scan if the graph finds too few."""
        wide = self.settings.search or START_WIDTH
        connection.execute(f"SET LOCAL hnsw.ef_search = {wide}")
        found = [connection.execute(*query).fetchall() for query in queries]
        short = [place for place, rows in enumerate(found) if len(rows) < k]
        if short:
            connection.execute("SET LOCAL enable_indexscan = off")
            for place in short:
                found[place] = connection.execute(*queries[place]).fetchall()
        return found


@STORES.register
class PgVector(Settings, frozen=True, tag="pgvector", tag_field="kind"):
    """Where PostgreSQL with pgvector holds the candidates, and how its HNSW graph is built and searched.

    Attributes:
        address: `postgresql://USER@HOST/DATABASE`, without a password: set that in `PGPASSWORD`, or name a file with
            `PGPASSFILE`.
        name: Name of the store within the database; also the name of the view of the live catalogue.
        neighbours: Neighbours of a candidate per layer of the graph (`m`).
        build: Search width while the graph is built (`ef_construction`).
        search: Search width of a query (`hnsw.ef_search`); None for the width that the parity gate needs.
        timeout: Seconds allowed for connecting and for a search.

    Raises:
        ConfigError: The address has a password, the name cannot name a table, or a number is out of range.

    Example:
        >>> PgVector("postgresql://ann@db/shop", "movies").search is None
        True
    """

    address: str
    name: str = "candidates"
    neighbours: int = 16
    build: int = 100
    search: int | None = None
    timeout: float = 5.0

    def check(self) -> None:
        """Refuses an invalid address or name, and numbers that are out of range."""
        check_address(self.address, ("postgresql", "postgres"), "PGPASSWORD, or name a file with PGPASSFILE")
        check_name(self.name)
        wide = 1 if self.search is None else self.search
        if (
            not 2 <= self.neighbours <= 100
            or not 2 * self.neighbours <= self.build <= 1000
            or not 1 <= wide <= MAX_WIDTH
        ):
            raise ConfigError(
                f"pgvector with neighbours={self.neighbours}, build={self.build}, search={self.search}; expected from "
                f"2 to 100 neighbours, build from twice as many to 1000, and search from 1 to {MAX_WIDTH}"
            )
        if self.timeout <= 0:
            raise ConfigError(f"timeout={self.timeout}; expected seconds above 0", field="timeout")

    def open(self, towers: str) -> PgVectorStore:
        """See `StoreSettings.open`."""
        return PgVectorStore(self, towers)

    def publish(self, publication: Publication) -> tuple[PgVector, Parity]:
        """See `StoreSettings.publish`."""
        width = publication.embeddings.shape[1]
        if width >= MAX_DIMENSIONS:
            raise ConfigError(f"embeddings have width {width}; pgvector supports at most {MAX_DIMENSIONS - 1}")
        return Connections(self.address, self.timeout).once(lambda connection: self._published(connection, publication))

    def _published(self, connection: Any, publication: Publication) -> tuple[PgVector, Parity]:
        with only_publisher(connection, self.name) as number:
            own = fill(connection, self.name, number, publication, self.neighbours, self.build)
            try:
                with closing(PgVectorStore(self, publication.towers, own)) as store:
                    fitted, parity = fitted_store(store, publication)
            except BaseException:
                forget(connection, self.name, f"generation = {number}")
                raise
            make_live(connection, self.name, number, own, publication.served)
            return fitted.settings, parity
