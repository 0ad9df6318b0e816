"""`ApproximateIndex`: FAISS finds candidates, and what the index promises is seen to here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.retrieval.exact import NOTHING, ExactIndex, decoded, keys_of
from twotower.retrieval.graph import Graph
from twotower.retrieval.index import Exact, Hits, Hnsw, Index, IndexSettings, IntArray, IvfPq, Pairs
from twotower.retrieval.lists import Lists

SHARE = 10
"""Where fewer than one in so many candidates may be found, or more are wanted, all of them are searched."""

SPARE = 512
"""So many excluded candidates of a query are made up for by asking for more; where there are more, they are hidden."""

Bits = npt.NDArray[np.uint8]
"""A bit for each vector, the lowest of a byte first."""


class Engine(Protocol):
    """Vectors, each with a number, of which those with about the highest dot products are found."""

    widening: int
    """Vectors to ask for, for each one wanted."""

    def search(self, queries: npt.NDArray[np.float32], count: int, bits: Bits | None) -> IntArray:
        """Numbers of the best `count` whose bit is set, `[n, count]`; −1 where no more were found."""
        ...

    def wider(self) -> Engine | None:
        """The same vectors, of which a search looks at more; None where it cannot."""
        ...

    def extended(self, vectors: npt.NDArray[np.float32]) -> Engine:
        """An engine that holds these vectors besides, numbered on."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What makes it anew, given the vectors."""
        ...


class ApproximateIndex:
    """A FAISS index of embeddings, with exact search where it would find too little.

    What FAISS finds is scored anew with the true embeddings. All candidates that may be found are searched where they
    are few, where many are wanted, and for a query of which FAISS found fewer than it was asked for.

    The engine numbers its vectors by itself: `rows` says which candidate each vector is. A vector whose candidate was
    withdrawn, or has another embedding by now, stays in the graph as a way to others and is no candidate (−1).

    Args:
        kind: `hnsw` or `ivfpq`.
        embeddings: Candidate embeddings, float32 `[C, d]`.
        engine: The vectors; None for so few candidates that exact search does.
        rows: The candidate of each vector, −1 for none, `[vectors]`.
        former: The vectors that are no candidates, in order, `[…, d]`.
    """

    def __init__(self, kind: str, embeddings: Tensor, engine: Engine | None, rows: IntArray, former: Tensor) -> None:
        self.kind, self.engine, self.rows, self.former = kind, engine, rows, former
        self._exact = ExactIndex.over(embeddings)
        self._live = rows >= 0
        self._numbers = np.empty(len(self), dtype=np.int64)  # the vector of each candidate
        self._numbers[rows[self._live]] = np.flatnonzero(self._live)
        self._all = None if self._live.all() else np.packbits(self._live, bitorder="little")

    def __len__(self) -> int:
        return len(self._exact)

    @property
    def embeddings(self) -> Tensor:
        """The candidate embeddings, `[C, d]`."""
        return self._exact.embeddings

    @torch.no_grad()
    def search(self, queries: Tensor, k: int, excluded: Pairs | None = None, allowed: IntArray | None = None) -> Hits:
        """About the best k candidates of each query that may be found, with their true scores; see `Index.search`."""
        self._exact.check(queries, k)
        count = len(self) if allowed is None else len(allowed)
        k = min(k, count)
        if self.engine is None or len(queries) == 0 or SHARE * count < len(self) or SHARE * k > count:
            return self._exact.search(queries, max(k, 1), excluded, allowed)
        numbers = self._numbers_found(self.engine, queries.numpy(), k, excluded, allowed)
        keys = self._keys(queries, numbers).topk(k, dim=1).values  # [n, k]
        scores, candidates = decoded(keys)
        if (short := keys[:, -1] == NOTHING).any():
            places = short.nonzero().squeeze(1)
            rest = self._exact.search(queries[places], k, _of(excluded, places.numpy()), allowed)
            candidates[places], scores[places] = rest.candidates, rest.scores
        return Hits(candidates, scores)

    def wider(self) -> ApproximateIndex | None:
        """The same index, of which a search looks at more candidates; see `Index.wider`."""
        engine = None if self.engine is None else self.engine.wider()
        return None if engine is None else ApproximateIndex(self.kind, self.embeddings, engine, self.rows, self.former)

    def moved(self, embeddings: Tensor, origin: IntArray) -> ApproximateIndex:
        """An index of another catalogue, with the vectors that this one has; see `Index.moved`."""
        assert self.engine is not None
        kept = np.flatnonzero(origin >= 0)
        row_of = np.full(len(self) + 1, -1, dtype=np.int64)  # one more for −1, of what is no candidate already
        row_of[origin[kept]] = kept
        rows, new = row_of[self.rows], np.flatnonzero(origin < 0)
        vectors = self._vectors()
        former = vectors[torch.from_numpy(np.flatnonzero(rows < 0))]
        engine = self.engine.extended(embeddings[torch.from_numpy(new)].numpy()) if len(new) else self.engine
        return ApproximateIndex(self.kind, embeddings, engine, np.concatenate([rows, new]), former)

    def tensors(self) -> dict[str, Tensor]:
        """What `restored_index` makes it of, besides the embeddings."""
        parts = {} if self.engine is None else self.engine.tensors()
        return {"rows": torch.from_numpy(self.rows), "former": self.former, **parts}

    def _vectors(self) -> Tensor:
        return vectors_of(self.embeddings, self.rows, self.former)

    def _numbers_found(
        self,
        engine: Engine,
        queries: npt.NDArray[np.float32],
        k: int,
        excluded: Pairs | None,
        allowed: IntArray | None,
    ) -> IntArray:
        """Numbers of what the engine finds, `[n, …]`."""
        count, bits = k * engine.widening, self._all
        if allowed is not None:
            may = np.zeros(len(self.rows), dtype=bool)
            may[self._numbers[allowed]] = True
            bits = np.packbits(may, bitorder="little")
        if excluded is None or len(excluded[0]) == 0:
            return engine.search(queries, count, bits)
        return self._numbers_without(engine, queries, count, bits, excluded)

    def _numbers_without(
        self, engine: Engine, queries: npt.NDArray[np.float32], count: int, bits: Bits | None, excluded: Pairs
    ) -> IntArray:
        """Numbers of what the engine finds, `[n, …]`; −1 in the place of what is excluded or was not found."""
        order = np.argsort(excluded[0], kind="stable")
        places, out = excluded[0][order], self._numbers[excluded[1][order]]
        ends = np.searchsorted(places, np.arange(len(queries) + 1))
        spare = _spare(np.diff(ends))
        found = np.full((len(queries), count + min(SPARE, int(spare.max()))), -1, dtype=np.int64)
        for extra in np.unique(spare).tolist():
            mine = np.flatnonzero(spare == extra)
            if extra <= SPARE:
                found[mine, : count + extra] = engine.search(queries[mine], count + extra, bits)
                continue
            if bits is None:
                bits = np.full(-(-len(self.rows) // 8), 255, dtype=np.uint8)
            for place in mine.tolist():
                left = _cleared(bits, out[ends[place] : ends[place + 1]])
                found[place, :count] = engine.search(queries[place : place + 1], count, left)[0]
        banned = np.sort(out + len(self.rows) * places)
        keys = np.where(found < 0, -1, found + len(self.rows) * np.arange(len(queries))[:, None])
        nearest = np.minimum(np.searchsorted(banned, keys), len(banned) - 1)
        found[banned[nearest] == keys] = -1
        return found

    def _keys(self, queries: Tensor, numbers: IntArray) -> Tensor:
        """Keys of the candidates of these vectors, by their true scores, `[n, …]`; `NOTHING` where there is none."""
        rows = torch.from_numpy(np.where(numbers < 0, -1, self.rows[numbers]))
        found = self.embeddings[rows.clamp(min=0)]  # [n, …, d]
        scores = torch.bmm(found, queries.unsqueeze(2)).squeeze(2)
        return keys_of(scores, rows).masked_fill(rows < 0, NOTHING)


def build_index(settings: IndexSettings, embeddings: Tensor) -> Index:
    """The index that the settings ask for.

    Args:
        settings: Which kind, and how wide it looks.
        embeddings: Candidate embeddings, float32 `[C, d]`, on the processor.

    Raises:
        ConfigError: The settings do not fit the embeddings.
        MissingExtraError: FAISS is not installed.
        TwoTowerError: An embedding is not finite.
    """
    if isinstance(settings, Exact):
        return ExactIndex(embeddings)
    embeddings = embeddings.contiguous()
    ExactIndex.over(embeddings)  # refuses what is not finite
    engine: Engine | None
    engine = Graph.build(settings, embeddings) if isinstance(settings, Hnsw) else Lists.build(settings, embeddings)
    rows = np.arange(len(embeddings), dtype=np.int64)
    return ApproximateIndex(_kind(settings), embeddings, engine, rows, embeddings[:0])


def restored_index(settings: Hnsw | IvfPq, embeddings: Tensor, tensors: Mapping[str, Tensor]) -> ApproximateIndex:
    """The index that `tensors` are of; every number in them is checked before FAISS sees it.

    Raises:
        MissingExtraError: FAISS is not installed.
        ValueError: They fit neither each other nor the embeddings.
    """
    rows, former = tensors["rows"], tensors["former"]
    if rows.dtype != torch.int64 or rows.dim() != 1 or former.dtype != torch.float32 or former.dim() != 2:
        raise ValueError("rows of the index are no int64 list, or its former vectors no float32 matrix")
    live = rows[rows >= 0]
    each_once = len(live) == len(embeddings) and torch.equal(live.sort().values, torch.arange(len(embeddings)))
    if not each_once or len(former) != len(rows) - len(live) or former.shape[1] != embeddings.shape[1]:
        raise ValueError("the index does not hold each candidate once")
    vectors = vectors_of(embeddings, rows.numpy(), former)
    engine: Engine | None
    if isinstance(settings, Hnsw):
        engine = Graph.restored(settings, vectors, tensors)
    else:
        engine = Lists.restored(settings, vectors, tensors)
    return ApproximateIndex(_kind(settings), embeddings, engine, rows.numpy(), former)


def vectors_of(embeddings: Tensor, rows: IntArray, former: Tensor) -> Tensor:
    """The vectors in the order of their numbers, `[vectors, d]`; no copy where they are the embeddings as they lie."""
    if len(former) == 0 and np.array_equal(rows, np.arange(len(embeddings))):
        return embeddings
    vectors = embeddings[torch.from_numpy(np.maximum(rows, 0))]
    vectors[torch.from_numpy(np.flatnonzero(rows < 0))] = former
    return vectors


def _spare(excluded: IntArray) -> IntArray:
    """How many more to ask for than are wanted, by how many each query may not find: the next power of two, or 0.

    So queries are searched together, and what one finds does not depend on the others.
    """
    return np.where(excluded == 0, 0, 1 << np.ceil(np.log2(np.maximum(excluded, 1))).astype(np.int64))


def _kind(settings: Hnsw | IvfPq) -> str:
    return "hnsw" if isinstance(settings, Hnsw) else "ivfpq"


def _cleared(bits: Bits, numbers: IntArray) -> Bits:
    """A copy of the bits with those of these numbers cleared."""
    left = bits.copy()
    np.bitwise_and.at(left, numbers >> 3, ~(np.uint8(1) << (numbers & 7).astype(np.uint8)))
    return left


def _of(pairs: Pairs | None, places: IntArray) -> Pairs | None:
    """The pairs of some queries, which are then numbered from 0."""
    if pairs is None:
        return None
    mine = np.isin(pairs[0], places)
    return np.searchsorted(places, pairs[0][mine]), pairs[1][mine]
