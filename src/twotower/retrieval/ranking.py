"""`Ranker`: finds the best candidates for requests by search, or by popularity if nothing is known about the query."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower.errors import ConfigError, about
from twotower.features.history import GIVEN
from twotower.model.interests import apart
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
from twotower.retrieval.reranking import Reranker
from twotower.retrieval.stores.store import Found, Id, Store

NO_ROWS: IntArray = np.empty(0, dtype=np.int64)

T = TypeVar("T")

Embed = Callable[[list[Tensor]], Tensor]


class Ranker:
    """Finds candidates for requests.

    Args:
        bundle: The bundle.
        requests: Parses requests.
        eligible: Determines which candidates are eligible.
        embed: Embeds the inputs of the query tower.
        store: The store to search; default: the bundle's index.
    """

    def __init__(
        self, bundle: Bundle, requests: Requests, eligible: Eligible, embed: Embed, store: Store | None
    ) -> None:
        self.bundle, self.requests, self.eligible, self.embed = bundle, requests, eligible, embed
        self._popularity = Popularity(bundle.popularity)
        self._reranker = None if bundle.details.rerank is None else Reranker(bundle, eligible.ids)
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
        rerank: int | None = None,
    ) -> list[Ranked]:
        """The k best candidates of each query; see `Retriever.rank`, which also resolves `rerank="default"`."""
        reranker = None if rerank is None else self._required_reranker(rerank)
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
        found: dict[int, Ranked] = {}
        if asked:
            with about("query", rows=asked), torch.inference_mode():
                encoded = self.requests.encode([requests[place] for place in asked], [rows[place] for place in asked])
                vectors = self.embed(encoded)
            wanted, without = max(pool, rerank or 0), [outs[place] for place in asked]
            if self._store is None:
                hits = self._from_index(vectors, wanted, without, allowed)
            else:
                unwanted = [self._unwanted(requests[place], exclude, exclude_seen) for place in asked]
                hits = self._from_store(
                    self._store, vectors, wanted, without, unwanted, self._store.condition(allow, where)
                )
            if reranker is not None:
                hits = reranker.rerank(hits, encoded, vectors, pool)
            for place, one in zip(asked, hits, strict=True):
                found[place] = replace(one, basis=bases[place], notes=self._notes(requests[place]))
        ranked = [
            found[place] if place in found else self._most_popular(pool, outs[place], allow, where)
            for place in range(len(requests))
        ]
        return ranked if diversity == 0 else [self._diversified(one, k, diversity) for one in ranked]

    def _required_reranker(self, rerank: int) -> Reranker:
        if self._reranker is None:
            raise ConfigError(
                f"rerank={rerank}: the bundle has no re-ranking head; expected None, or a bundle built with rerank",
                field="rerank",
            )
        return self._reranker

    def _unwanted(self, request: Request, exclude: Sequence[object], exclude_seen: bool) -> list[object]:
        """Ids that the call or the request excludes; the catalogue may lack them."""
        return [*exclude, *self.requests.exclusions(request), *(_given(request) if exclude_seen else ())]

    def _from_index(self, vectors: Tensor, k: int, outs: Sequence[IntArray], allowed: IntArray | None) -> list[Ranked]:
        hits = self.bundle.index.search(self._interests(vectors), k, pairs_of(self._for_interests(outs)), allowed)
        each = zip(hits.candidates.numpy(), hits.scores.numpy(), strict=True)
        return self._best([Ranked(rows[rows >= 0], scores[rows >= 0], "query") for rows, scores in each], k)

    def _from_store(
        self,
        store: StoreSearch,
        vectors: Tensor,
        k: int,
        outs: Sequence[IntArray],
        unwanted: Sequence[Sequence[object]],
        condition: Condition | None,
    ) -> list[Ranked]:
        without = [store.ids_of(out, own) for out, own in zip(outs, unwanted, strict=True)]
        found = store.search(self._interests(vectors), k, self._for_interests(without), condition)
        return self._best([Ranked(NO_ROWS, one.scores, "query", found=one.candidates) for one in found], k)

    def _interests(self, vectors: Tensor) -> Tensor:
        """Each interest of each query by itself, `[n·K, d]`."""
        return apart(vectors, self.bundle.model.width).flatten(0, 1)

    def _for_interests(self, of_queries: Sequence[T]) -> list[T]:
        """What belongs to each query, repeated for each of its interests."""
        return [one for one in of_queries for _ in range(self.bundle.model.interests)]

    def _best(self, of_interests: Sequence[Ranked], k: int) -> list[Ranked]:
        """The k best candidates of each query, from those of each of its interests."""
        count = self.bundle.model.interests
        lists = (of_interests[start : start + count] for start in range(0, len(of_interests), count))
        return [Ranked.best_of(own, k, self.eligible.ids.name) for own in lists]

    def _notes(self, request: Request) -> tuple[str, ...]:
        note = self.requests.note_on_time(request)
        return () if note is None else (note,)

    def _diversified(self, ranked: Ranked, k: int, diversity: float) -> Ranked:
        """Choose a diverse list of k from the candidates found."""
        if ranked.found is None:
            embeddings = self.bundle.index.embeddings[torch.from_numpy(ranked.rows)]
        else:
            embeddings = self.bundle.model.embed_candidates(ranked.found)
        scores = ranked.scores if ranked.rerank_scores is None else ranked.rerank_scores
        return ranked.take(marginal_relevance(scores, embeddings.numpy(), k, diversity))

    def _most_popular(self, k: int, excluded: IntArray, allow: Sequence[object] | None, where: str | None) -> Ranked:
        candidates, events = self._popularity.best(k, excluded, self.eligible.allowed(allow, where))
        return Ranked(candidates, events.astype(np.float32), "popularity")


class StoreSearch:
    """Searches a store, and adds the columns that only the bundle has.

    Args:
        store: The store.
        candidates: The bundle's catalogue, each column in one chunk.
        ids: Its ids.
    """

    def __init__(self, store: Store, candidates: pa.Table, ids: Ids) -> None:
        self.store, self.candidates, self.ids = store, candidates, ids

    def ids_of(self, rows: IntArray, others: Iterable[object]) -> list[Id]:
        """The ids of these rows, followed by other ids, which the catalogue may lack; without repeats."""
        return list(dict.fromkeys([*self.ids.values(rows), *map(self.ids.required, others)]))

    def condition(self, allow: Sequence[object] | None, where: str | None) -> Condition | None:
        """An allow list and a condition, combined into one condition.

        Raises:
            ConfigError: The condition cannot be parsed, or names a column that the store does not have.
            StoreUnavailableError, StoreVersionError: The columns of the store cannot be read.
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
    """The history of a request, without nulls."""
    return [value for value in request.get(GIVEN, ()) if value is not None]
