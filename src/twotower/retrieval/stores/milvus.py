"""`Milvus`: candidates in Milvus, a cluster by its address or Milvus Lite in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from twotower.retrieval.stores.lengthened import asked, lengthened
from twotower.retrieval.stores.milvus_client import Client, MissingCollectionError, UnloadedCollectionError
from twotower.retrieval.stores.milvus_collections import (
    MOST_FOUND,
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
"""Fetch as many more candidates as are excluded, up to this; where there are more, Milvus filters them."""

PUBLISH_SECONDS = 600.0
"""How long a call may take while a catalogue is published, at least."""

WIDEST = 4096
NARROWEST = 64
WIDER = 1.6
PAGE = 1000
"""Candidates that are read or changed at once."""


class MilvusStore:
    """The candidates of one model's towers in Milvus; see `Store`.

    Where a search finds fewer than were asked for, it looks as widely as it can; where that still finds fewer, and more
    may be found, all that may be are read and scored here.

    Args:
        settings: Where it is.
        towers: Version id of the towers whose vectors it searches.
        generation: The catalogue to search; default: the live one of these towers, or else the newest.
    """

    kind = "milvus"

    def __init__(self, settings: Milvus, towers: str, generation: Generation | None = None) -> None:
        self.settings, self.version = settings, towers
        self.client = Client(settings.address, settings.timeout)
        self._generation = generation

    @property
    def schema(self) -> pa.Schema:
        """The columns that it keeps."""
        return self.generation.catalogue

    @property
    def generation(self) -> Generation:
        """The catalogue that is searched.

        Raises:
            StoreUnavailableError: Milvus is away.
            StoreVersionError: It has none of these towers.
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
        """The k best candidates of each query that may be found; see `Store.search`."""
        own = self.generation
        check_search(embeddings, k, own.width)
        if k > MOST_FOUND:
            raise ConfigError(f"k={k}; Milvus finds at most {MOST_FOUND}", field="k")
        outs = [frozenset(out) for out in excluded] if excluded is not None else [frozenset()] * len(embeddings)
        base = "" if condition is None else expression(condition.tree, own.by_name, own.key.stored)
        found: list[Found | None] = [None] * len(embeddings)
        for places, spare, text in _groups(outs, k, base, own.key.stored):
            hits = self._on(partial(self._hits, embeddings=embeddings[places], k=k + spare, text=text))
            for place, rows in zip(places, hits, strict=True):
                left = [row for row in rows if row[own.key.stored] not in outs[place]][:k]
                if len(left) < k:
                    left = self._completed(embeddings[place], k, outs[place], base, left)
                found[place] = _found(own, left)
        return [one for one in found if one is not None]

    def upsert(self, candidates: pa.Table, embeddings: Tensor) -> None:
        """Adds and changes candidates, a thousand at a time; see `Store.upsert`."""
        own = self.generation
        rows = rows_of(candidates, own, lengthened(embeddings, own.length))
        self._on(lambda client, own: put(client, own, rows, self.settings.timeout))

    def withdraw(self, ids: Iterable[Id]) -> None:
        """Takes candidates out, a thousand at a time; see `Store.withdraw`."""
        gone = list(ids)

        def take(client: Any, own: Generation) -> None:
            for start in range(0, len(gone), PAGE):
                some = among(own.key.stored, gone[start : start + PAGE])  # which quotes ids as Milvus reads them
                client.delete(own.relation, filter=some, timeout=self.settings.timeout)

        self._on(take)

    def wider(self) -> MilvusStore | None:
        """The same store, of which a search looks at more vectors; see `Store.wider`."""
        wide = self.settings.search or NARROWEST
        if wide >= WIDEST:
            return None
        settings = msgspec.structs.replace(self.settings, search=min(WIDEST, int(WIDER * wide)))
        return MilvusStore(settings, self.version, self._generation)

    def close(self) -> None:
        """Closes its connection."""
        self.client.close()

    def _on(self, work: Callable[[Any, Generation], T]) -> T:
        """What a function makes of the client and the collection, which may have been dropped since it was found."""
        own = self.generation
        try:
            return self.client.repeatable(lambda client: work(client, own))
        except UnloadedCollectionError:
            self.client.repeatable(lambda client: client.load_collection(own.relation))
        except MissingCollectionError:
            self._generation = None
        return self.client.repeatable(lambda client: work(client, self.generation))

    def _hits(
        self, client: Any, own: Generation, embeddings: Tensor, k: int, text: str, wide: int | None = None
    ) -> list[list[dict[str, Any]]]:
        """Rows of what each query finds, each with its score."""
        wide = max(k, wide or self.settings.search or NARROWEST)
        found = client.search(
            own.relation,
            asked(embeddings).tolist(),
            filter=text,
            limit=k,
            output_fields=[column.stored for column in own.columns],
            search_params={"metric_type": "IP", "params": {"ef": wide}},
            anns_field=VECTOR,
            timeout=self.settings.timeout,
        )
        return [
            [{**hit["entity"], own.key.stored: _key(hit, own.key.stored), "score": hit["distance"]} for hit in hits]
            for hits in found
        ]

    def _completed(
        self, query: Tensor, k: int, excluded: frozenset[Id], base: str, left: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The k best of all that may be found, or what was found where that is all."""
        own = self.generation
        spare = min(1 << len(excluded).bit_length() if excluded else 0, MOST_FOUND - k)
        (rows,) = self._on(partial(self._hits, embeddings=query.unsqueeze(0), k=k + spare, text=base, wide=WIDEST))
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
        """The k best of what an expression finds, which are all looked at."""
        names = [*(column.stored for column in own.columns), VECTOR]
        pages = client.query_iterator(own.relation, batch_size=PAGE, filter=text, output_fields=names)
        vector = torch.from_numpy(asked(query.unsqueeze(0))[0])
        best: list[dict[str, Any]] = []
        while page := pages.next():
            vectors = torch.from_numpy(np.asarray([row.pop(VECTOR) for row in page], dtype=np.float32))
            for row, score in zip(page, vectors.mv(vector).tolist(), strict=True):
                best.append({**row, "score": score})
            best = sorted(best, key=lambda row: -row["score"])[:k]
        pages.close()
        return best

    def _count(self, client: Any, own: Generation, text: str) -> int:
        found = client.query(own.relation, filter=text, output_fields=["count(*)"], timeout=self.settings.timeout)
        return int(found[0]["count(*)"])


def _groups(outs: Sequence[frozenset[Id]], k: int, base: str, key: str) -> Iterable[tuple[list[int], int, str]]:
    """Queries that are searched together: their places, how many more to fetch than k, and the expression.

    The number to fetch is a power of two, so that what one query finds does not depend on the others'.
    """
    by_spare: dict[int, list[int]] = {}
    for place, out in enumerate(outs):
        spare = 1 << (len(out) - 1).bit_length() if out else 0
        if spare > OVERFETCH_LIMIT or k + spare > MOST_FOUND:
            without = among(key, sorted(out), False)
            yield [place], 0, f"{base} and {without}" if base else without
        else:
            by_spare.setdefault(spare, []).append(place)
    for spare, places in by_spare.items():
        yield places, spare, base


def _key(hit: Any, name: str) -> Id:
    """The id of what was found, which some versions give apart from the other columns."""
    key: Id = hit["entity"][name] if name in hit["entity"] else hit["id"]
    return key


def _found(own: Generation, rows: Sequence[dict[str, Any]]) -> Found:
    """The rows as a table of candidates, the best first, equal ones by id."""
    rows = sorted(rows, key=lambda row: (-row["score"], row[own.key.stored]))
    arrays = []
    for column in own.columns:
        values = pa.array([row.get(column.stored) for row in rows], column.kind)
        arrays.append(from_stored(values, own.catalogue.field(column.name).type))
    scores = np.array([row["score"] for row in rows], dtype=np.float32)
    return Found(pa.Table.from_arrays(arrays, schema=own.catalogue), scores)


@STORES.register
class Milvus(Settings, frozen=True, tag="milvus", tag_field="kind"):
    """Where candidates are in Milvus, and how its graph (HNSW) is made and searched.

    Attributes:
        address: `milvus://HOST:PORT/DATABASE`, `milvus+tls://…`, or a file that ends in `.db`, which Milvus Lite opens
            for one process at a time; without a token, which `MILVUS_TOKEN` has, or the file `MILVUS_TOKEN_FILE`.
        name: Which store; also the alias of the collection that is live.
        neighbours: Neighbours of a candidate in a layer of the graph (`M`).
        build: Candidates held while a neighbour is looked for (`efConstruction`).
        search: Candidates held while a query is answered (`ef`); None for as many as the parity gate needs.
        timeout: Seconds that connecting and a search may take.

    Raises:
        ConfigError: The address has a password, the name cannot be a collection's, or a number is out of its range.

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
        """Refuses what cannot be an address, a name, or is out of range."""
        if "://" in self.address or not self.address.endswith(".db"):
            check_address(self.address, ("milvus", "milvus+tls"), "MILVUS_TOKEN, or name a file with MILVUS_TOKEN_FILE")
        check_name(self.name)
        wide = 1 if self.search is None else self.search
        if not 2 <= self.neighbours <= 256 or not 8 <= self.build <= 2048 or not 1 <= wide <= WIDEST:
            raise ConfigError(
                f"milvus with neighbours={self.neighbours}, build={self.build}, search={self.search}; expected from 2 "
                f"to 256 neighbours, build from 8 to 2048, and search from 1 to {WIDEST}"
            )
        if self.timeout <= 0:
            raise ConfigError(f"timeout={self.timeout}; expected seconds above 0", field="timeout")

    def open(self, towers: str) -> MilvusStore:
        """See `StoreSettings.open`."""
        return MilvusStore(self, towers)

    def publish(self, publication: Publication) -> tuple[Milvus, Parity]:
        """See `StoreSettings.publish`."""
        patient = msgspec.structs.replace(self, timeout=max(self.timeout, PUBLISH_SECONDS))
        client = Client(self.address, patient.timeout)
        number = client.repeatable(lambda own: next_number(own, self.name))
        sizes = self.neighbours, self.build
        own = client.repeatable(lambda inner: fill(client, inner, self.name, number, publication, sizes))
        try:
            store, parity = fitted_store(MilvusStore(patient, publication.towers, own), publication)
            store.close()
        except BaseException:
            client.repeatable(lambda inner: drop(inner, own.relation))
            raise
        client.repeatable(lambda inner: make_live(inner, self.name, own))
        client.close()
        return msgspec.structs.replace(store.settings, timeout=self.timeout), parity
