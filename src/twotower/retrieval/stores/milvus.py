"""`Milvus`: candidates in a Milvus cluster, or in a Milvus Lite file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower.arguments import Settings
from twotower.errors import ConfigError
from twotower.retrieval.conditions import Condition
from twotower.retrieval.parity import Parity
from twotower.retrieval.stores.addresses import check_address
from twotower.retrieval.stores.columns import from_stored
from twotower.retrieval.stores.gate import fitted_store
from twotower.retrieval.stores.generation import Generation, missing_generation
from twotower.retrieval.stores.lengthened import lengthened, padded_queries
from twotower.retrieval.stores.milvus_client import Client, MissingCollectionError, UnloadedCollectionError
from twotower.retrieval.stores.milvus_collections import (
    MAX_HITS,
    VECTOR,
    drop,
    fill,
    found_generation,
    make_live,
    next_number,
    put,
    rows_of,
)
from twotower.retrieval.stores.milvus_words import among, expression
from twotower.retrieval.stores.store import STORES, Found, Id, Publication, check_name, check_search

T = TypeVar("T")

OVERFETCH_LIMIT = 512
"""Up to 512 exclusions: overfetch by that many and drop them; beyond that, let Milvus filter them."""

PUBLISH_SECONDS = 600.0
"""Allow each call at least this many seconds while a catalogue is published or loaded into memory."""

MAX_WIDTH = 4096
"""Allow search widths (`ef`) up to this."""

START_WIDTH = 64
"""Start at this search width if the settings have none."""

WIDENING = 1.6
"""Multiply the width by this to widen a search."""

PAGE_ROWS = 1000
"""Read or change this many candidates at once."""


class MilvusStore:
    """The candidates of one model's towers in Milvus; see `Store`.

    If a search finds fewer than k candidates, it is repeated at the maximum width. If that still finds too few although
    more are eligible, all eligible candidates are read and scored here.

    Args:
        settings: Settings of the store.
        towers: Version id of the towers whose vectors to search.
        generation: The catalogue to search; default: the live one of these towers, or else the newest.
        client: The client to use; default: a new one.
    """

    kind = "milvus"

    def __init__(
        self, settings: Milvus, towers: str, generation: Generation | None = None, client: Client | None = None
    ) -> None:
        self.settings, self.version = settings, towers
        self.client = Client(settings.address, settings.timeout) if client is None else client
        self._generation = generation

    @property
    def schema(self) -> pa.Schema:
        """The columns that the store holds."""
        return self.generation.catalogue

    @property
    def generation(self) -> Generation:
        """The catalogue to search.

        Raises:
            StoreUnavailableError: Milvus is unreachable.
            StoreVersionError: It has no catalogue of these towers.
        """
        if self._generation is None:
            found, others = self.client.repeatable(
                lambda client: found_generation(client, self.settings.name, self.version)
            )
            if found is None:
                raise missing_generation(self.settings.name, self.settings.address, self.version, others)
            self._generation = found
        return self._generation

    def __len__(self) -> int:
        return self._on(lambda client, own: self._count(client, own, f"{own.key.stored} not in []"))

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
        if k > MAX_HITS:
            raise ConfigError(f"k={k}; Milvus returns at most {MAX_HITS} candidates", field="k")
        outs = [frozenset(out) for out in excluded] if excluded is not None else [frozenset()] * len(embeddings)
        base = "" if condition is None else expression(condition.tree, own.by_name, own.key.stored)
        found: list[Found | None] = [None] * len(embeddings)
        for places, extra, text in _groups(outs, k, base, own.key.stored):
            hits = self._on(partial(self._hits, embeddings=embeddings[places], k=k + extra, text=text))
            for place, rows in zip(places, hits, strict=True):
                left = [row for row in rows if row[own.key.stored] not in outs[place]][:k]
                if len(left) < k:
                    left = self._completed(embeddings[place], k, outs[place], base, left)
                found[place] = _found(own, left)
        return [one for one in found if one is not None]

    def upsert(self, candidates: pa.Table, embeddings: Tensor) -> None:
        """Adds and changes candidates, a thousand at a time; see `Store.upsert`."""

        def change(client: Any, own: Generation) -> None:
            rows = rows_of(candidates, own, lengthened(embeddings, own.length))
            put(client, own, rows, self.settings.timeout)

        self._on(change)

    def withdraw(self, ids: Iterable[Id]) -> None:
        """Removes candidates, a thousand at a time; see `Store.withdraw`."""
        gone = list(ids)

        def take(client: Any, own: Generation) -> None:
            for start in range(0, len(gone), PAGE_ROWS):
                some = among(own.key.stored, gone[start : start + PAGE_ROWS])  # quotes ids in Milvus's syntax
                client.delete(own.relation, filter=some)

        self._on(take)

    def wider(self) -> MilvusStore | None:
        """The same store with a wider search; see `Store.wider`."""
        wide = self.settings.search or START_WIDTH
        if wide >= MAX_WIDTH:
            return None
        settings = msgspec.structs.replace(self.settings, search=min(MAX_WIDTH, int(WIDENING * wide)))
        return MilvusStore(settings, self.version, self._generation, self.client)

    def close(self) -> None:
        """Closes the connection."""
        self.client.close()

    def _on(self, work: Callable[[Any, Generation], T]) -> T:
        """Calls a function with the client and the collection; finds or reloads the collection if it is gone."""
        own = self.generation
        try:
            return self.client.repeatable(lambda client: work(client, own))
        except UnloadedCollectionError:
            self.client.repeatable(lambda client: client.load_collection(own.relation, timeout=PUBLISH_SECONDS))
        except MissingCollectionError:
            self._generation = None
        return self.client.repeatable(lambda client: work(client, self.generation))

    def _hits(
        self, client: Any, own: Generation, embeddings: Tensor, k: int, text: str, wide: int | None = None
    ) -> list[list[dict[str, Any]]]:
        """The rows that each query finds, each with its score."""
        wide = max(k, wide or self.settings.search or START_WIDTH)
        found = client.search(
            own.relation,
            padded_queries(embeddings).tolist(),
            filter=text,
            limit=k,
            output_fields=[column.stored for column in own.columns],
            search_params={"metric_type": "IP", "params": {"ef": wide}},
            anns_field=VECTOR,
        )
        return [
            [{**hit["entity"], own.key.stored: _key(hit, own.key.stored), "score": hit["distance"]} for hit in hits]
            for hits in found
        ]

    def _completed(
        self, query: Tensor, k: int, excluded: frozenset[Id], base: str, left: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The k best of all eligible candidates; `left` itself if no more are eligible."""
        own = self.generation
        extra = min(1 << len(excluded).bit_length() if excluded else 0, MAX_HITS - k)
        (rows,) = self._on(partial(self._hits, embeddings=query.unsqueeze(0), k=k + extra, text=base, wide=MAX_WIDTH))
        found = [row for row in rows if row[own.key.stored] not in excluded][:k]
        if len(found) == k:
            return found
        left = max(left, found, key=len)
        without = among(own.key.stored, sorted(excluded), False) if excluded else ""
        text = " and ".join(part for part in (base, without) if part) or f"{own.key.stored} not in []"
        if self._on(lambda client, own: self._count(client, own, text)) <= len(left):
            return left
        return self._on(lambda client, own: self._all(client, own, query, k, text))

    def _all(self, client: Any, own: Generation, query: Tensor, k: int, text: str) -> list[dict[str, Any]]:
        """The k best of all candidates that match an expression, by exact scoring."""
        names = [*(column.stored for column in own.columns), VECTOR]
        pages = client.query_iterator(own.relation, batch_size=PAGE_ROWS, filter=text, output_fields=names)
        vector = torch.from_numpy(padded_queries(query.unsqueeze(0))[0])
        best: list[dict[str, Any]] = []
        with closing(pages):
            while page := pages.next():
                vectors = torch.from_numpy(np.asarray([row.pop(VECTOR) for row in page], dtype=np.float32))
                for row, score in zip(page, vectors.mv(vector).tolist(), strict=True):
                    best.append({**row, "score": score})
                best = sorted(best, key=lambda row: -row["score"])[:k]
        return best

    def _count(self, client: Any, own: Generation, text: str) -> int:
        found = client.query(own.relation, filter=text, output_fields=["count(*)"])
        return int(found[0]["count(*)"])


def _groups(outs: Sequence[frozenset[Id]], k: int, base: str, key: str) -> Iterable[tuple[list[int], int, str]]:
    """Groups of queries to search together: their places, how many more than k to fetch, and the expression.

    The extra number is a power of two, so that one query's result does not depend on the others in the call.
    """
    by_extra: dict[int, list[int]] = {}
    for place, out in enumerate(outs):
        extra = 1 << (len(out) - 1).bit_length() if out else 0
        if extra > OVERFETCH_LIMIT or k + extra > MAX_HITS:
            without = among(key, sorted(out), False)
            yield [place], 0, f"{base} and {without}" if base else without
        else:
            by_extra.setdefault(extra, []).append(place)
    for extra, places in by_extra.items():
        yield places, extra, base


def _key(hit: Any, name: str) -> Id:
    """The id of a hit, which some versions return separately from the other columns."""
    key: Id = hit["entity"][name] if name in hit["entity"] else hit["id"]
    return key


def _found(own: Generation, rows: Sequence[dict[str, Any]]) -> Found:
    """The rows as a table of candidates, best first, ties by id."""
    rows = sorted(rows, key=lambda row: (-row["score"], row[own.key.stored]))
    arrays = []
    for column in own.columns:
        values = pa.array([row.get(column.stored) for row in rows], column.kind)
        arrays.append(from_stored(values, own.catalogue.field(column.name).type))
    scores = np.array([row["score"] for row in rows], dtype=np.float32)
    return Found(pa.Table.from_arrays(arrays, schema=own.catalogue), scores)


@STORES.register
class Milvus(Settings, frozen=True, tag="milvus", tag_field="kind"):
    """Where Milvus holds the candidates, and how its HNSW graph is built and searched.

    Attributes:
        address: `milvus://HOST:PORT/DATABASE`, `milvus+tls://…`, or a file that ends in `.db`, which Milvus Lite opens
            for one process at a time. The address contains no token: set that in `MILVUS_TOKEN`, or name a file with
            `MILVUS_TOKEN_FILE`.
        name: Name of the store; also the alias of the live collection.
        neighbours: Neighbours of a candidate per layer of the graph (`M`).
        build: Search width while the graph is built (`efConstruction`).
        search: Search width of a query (`ef`); None for the width that the parity gate needs.
        timeout: Seconds allowed for connecting and for a search.

    Raises:
        ConfigError: The address has a password, the name cannot name a collection, or a number is out of range.

    Example:
        >>> Milvus("./shop.db", "movies").neighbours
        16
    """

    address: str
    name: str = "candidates"
    neighbours: int = 16
    build: int = 100
    search: int | None = None
    timeout: float = 5.0

    def check(self) -> None:
        """Refuses an invalid address or name, and numbers that are out of range."""
        if "://" in self.address or not self.address.endswith(".db"):
            check_address(self.address, ("milvus", "milvus+tls"), "MILVUS_TOKEN, or name a file with MILVUS_TOKEN_FILE")
        check_name(self.name)
        wide = 1 if self.search is None else self.search
        if not 2 <= self.neighbours <= 256 or not 8 <= self.build <= 2048 or not 1 <= wide <= MAX_WIDTH:
            raise ConfigError(
                f"milvus with neighbours={self.neighbours}, build={self.build}, search={self.search}; expected from 2 "
                f"to 256 neighbours, build from 8 to 2048, and search from 1 to {MAX_WIDTH}"
            )
        if self.timeout <= 0:
            raise ConfigError(f"timeout={self.timeout}; expected seconds above 0", field="timeout")

    def open(self, towers: str) -> MilvusStore:
        """See `StoreSettings.open`."""
        return MilvusStore(self, towers)

    def publish(self, publication: Publication) -> tuple[Milvus, Parity]:
        """See `StoreSettings.publish`."""
        patient = msgspec.structs.replace(self, timeout=max(self.timeout, PUBLISH_SECONDS))
        with closing(Client(self.address, patient.timeout)) as client:
            number = client.repeatable(lambda own: next_number(own, self.name))
            sizes = self.neighbours, self.build
            own = client.repeatable(lambda inner: fill(client, inner, self.name, number, publication, sizes))
            try:
                store, parity = fitted_store(MilvusStore(patient, publication.towers, own, client), publication)
            except BaseException:
                client.repeatable(lambda inner: drop(inner, own.relation))
                raise
            client.repeatable(lambda inner: make_live(inner, self.name, own, publication.served))
        return msgspec.structs.replace(store.settings, timeout=self.timeout), parity
