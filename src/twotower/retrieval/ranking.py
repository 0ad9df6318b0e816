"""`Ranker`: the best candidates for requests, by a search, or by popularity where nothing is known of the query."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower.errors import about
from twotower.features.history import GIVEN
from twotower.retrieval.answers import Ranked
from twotower.retrieval.bundle import Bundle
from twotower.retrieval.condition_tree import All, Among, Column
from twotower.retrieval.conditions import Condition
from twotower.retrieval.diversity import marginal_relevance, pool_of
from twotower.retrieval.eligible import Eligible
from twotower.retrieval.ids import Ids
from twotower.retrieval.index import IntArray, pairs_of
from twotower.retrieval.popularity import Popularity
from twotower.retrieval.requests import Queries, Request, Requests
from twotower.retrieval.stores.store import Found, Id, Store

NO_ROWS: IntArray = np.empty(0, dtype=np.int64)

Embed = Callable[[Sequence[Request], Sequence[int | None]], Tensor]


class Ranker:
    """Finds candidates for requests.

    Args:
        bundle: All that answers requests.
        requests: Reads requests.
        eligible: Says what may be found.
        embed: Embeds requests, each with its row in the query table.
        store: Where candidates are searched; default: the bundle's index.
    """

    def __init__(
        self, bundle: Bundle, requests: Requests, eligible: Eligible, embed: Embed, store: Store | None
    ) -> None:
        self.bundle, self.requests, self.eligible, self.embed = bundle, requests, eligible, embed
        self._popularity = Popularity(bundle.popularity)
        self._store = None if store is None else StoreSearch(store, bundle.candidates.combine_chunks(), eligible.ids)

    def rank(
        self,
        queries: Queries,
        k: int,
        exclude_seen: bool,
        exclude: Sequence[object],
        allow: Sequence[object] | None,
        where: str | None,
        diversity: float,
    ) -> list[Ranked]:
        """The k best candidates of each query; see `Retriever.rank`."""
        pool = pool_of(k, diversity)
        requests = self.requests.read_all(queries)
        rows = [self.requests.row(request) for request in requests]
        out = self.eligible.named(exclude, "exclude")
        allowed = self.eligible.allowed(allow, where) if self._store is None else None
        bases, outs = [], []
        for place, (request, row) in enumerate(zip(requests, rows, strict=True)):
            with about("query", row=place):
                bases.append(self.requests.basis(request, row))
                chosen = [self.eligible.chosen_by(request, row)] if exclude_seen else []
                own = self.eligible.excluded_by(self.requests.exclusions(request))
                outs.append(np.concatenate([out, own, *chosen]))
        asked = [place for place, basis in enumerate(bases) if basis != "popularity"]
        vectors = None
        if asked:
            with about("query", rows=asked):
                vectors = self.embed([requests[place] for place in asked], [rows[place] for place in asked])
        found: dict[int, Ranked] = {}
        if vectors is not None and self._store is None:
            hits = self.bundle.index.search(vectors, pool, pairs_of([outs[place] for place in asked]), allowed)
            for place, own, scores in zip(asked, hits.candidates.numpy(), hits.scores.numpy(), strict=True):
                left = own >= 0
                found[place] = Ranked(own[left], scores[left], bases[place], self._notes(requests[place]))
        elif vectors is not None and self._store is not None:
            said = [
                [*exclude, *self.requests.exclusions(request), *(_given(request) if exclude_seen else ())]
                for request in requests
            ]
            without = [self._store.ids_of(outs[place], said[place]) for place in asked]
            condition = self._store.condition(allow, where)
            for place, one in zip(asked, self._store.search(vectors, pool, without, condition), strict=True):
                found[place] = Ranked(NO_ROWS, one.scores, bases[place], self._notes(requests[place]), one.candidates)
        ranked = [
            found[place] if place in found else self._most_popular(pool, outs[place], allow, where)
            for place in range(len(requests))
        ]
        return ranked if diversity == 0 else [self._diversified(one, k, diversity) for one in ranked]

    def _notes(self, request: Request) -> tuple[str, ...]:
        note = self.requests.note_on_time(request)
        return () if note is None else (note,)

    def _diversified(self, ranked: Ranked, k: int, diversity: float) -> Ranked:
        """The k of those found that a diverse list has."""
        if ranked.found is None:
            embeddings = self.bundle.index.embeddings[torch.from_numpy(ranked.rows)]
        else:
            embeddings = self.bundle.model.embed_candidates(ranked.found)
        places = marginal_relevance(ranked.scores, embeddings.numpy(), k, diversity)
        if ranked.found is None:
            return replace(ranked, rows=ranked.rows[places], scores=ranked.scores[places])
        return replace(ranked, found=ranked.found.take(pa.array(places)), scores=ranked.scores[places])

    def _most_popular(self, k: int, excluded: IntArray, allow: Sequence[object] | None, where: str | None) -> Ranked:
        candidates, events = self._popularity.best(k, excluded, self.eligible.allowed(allow, where))
        return Ranked(candidates, events.astype(np.float32), "popularity")


class StoreSearch:
    """Searches a store, and completes what it finds with the columns that the bundle alone has.

    Args:
        store: The store.
        candidates: The bundle's catalogue, each column in one piece.
        ids: Its ids.
    """

    def __init__(self, store: Store, candidates: pa.Table, ids: Ids) -> None:
        self.store, self.candidates, self.ids = store, candidates, ids

    def ids_of(self, rows: IntArray, said: Iterable[object]) -> list[Id]:
        """The ids of rows, and of what a request says, which the catalogue need not have."""
        return list(dict.fromkeys([*self.ids.values(rows), *map(self.ids.required, said)]))

    def condition(self, allow: Sequence[object] | None, where: str | None) -> Condition | None:
        """What an allow list and a condition ask of a candidate.

        Raises:
            ConfigError: The condition cannot be read, or names a column that the store does not keep.
            StoreUnavailableError, StoreVersionError: The store cannot say which columns it keeps.
        """
        if allow is None and where is None:
            return None
        schema, parts = self.store.schema, []
        with about("where"):
            if where is not None:
                parts.append(Condition.parse(where, schema).tree)
        if allow is not None:
            column = Column(self.ids.name, self.ids.kind)
            with about("allow"):
                listed = self.ids_of(NO_ROWS, allow)
            parts.append(Among(column, tuple(pa.scalar(own, self.ids.kind) for own in listed)))
        return Condition(All(tuple(parts)), schema)

    def search(
        self, vectors: Tensor, k: int, excluded: Sequence[Sequence[Id]], condition: Condition | None
    ) -> list[Found]:
        """See `Store.search`."""
        found = self.store.search(vectors, k, excluded, condition)
        kept = found[0].candidates.schema.names
        others = [name for name in self.candidates.column_names if name not in kept]
        return [Found(self._completed(one.candidates, others), one.scores) for one in found] if others else found

    def _completed(self, found: pa.Table, others: Sequence[str]) -> pa.Table:
        rows = pa.array([self.ids.row(own) for own in found[self.ids.name].to_pylist()], pa.int64())
        for name in others:
            found = found.append_column(name, self.candidates[name].take(rows))
        return found


def _given(request: Request) -> Iterable[object]:
    """The history that a request has."""
    return [value for value in request.get(GIVEN, ()) if value is not None]
