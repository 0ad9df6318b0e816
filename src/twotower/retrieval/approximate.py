"""`ApproximateIndex`: graph search that falls back to exact search where the graph would find too few."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.retrieval.exact import NOTHING, ExactIndex, decoded, keys_of
from twotower.retrieval.graph import Graph, GraphSettings
from twotower.retrieval.index import INDEXES, Hits, IntArray, Pairs

EXACT_BELOW = 10
"""Search exactly when under 1/10 of the candidates are eligible, or k is over 1/10 of those that are."""

OVERFETCH_LIMIT = 512
"""Up to 512 exclusions: overfetch by that many and drop them; beyond that, hide them from FAISS."""

Bits = npt.NDArray[np.uint8]
"""One bit per vector, lowest bit of a byte first."""


class ApproximateIndex:
    """Graph search over embeddings, with exact search where the graph would find too few.

    Candidates that the graph finds are scored with the true embeddings. Search is exact if few candidates are
    eligible, if k is large, and for each query for which the graph found fewer than k.

    The graph numbers its own vectors; `rows` maps each vector to its candidate. When a candidate is withdrawn or its
    embedding changes, the old vector stays in the graph as a waypoint and maps to no candidate (−1).

    Args:
        embeddings: Candidate embeddings, float32 `[C, d]`, at least one.
        graph: The vectors and their neighbours.
        rows: The candidate row of each vector, −1 for none, `[vectors]`.
        former: The vectors that map to no candidate, in order, `[…, d]`.
    """

    kind = "hnsw"

    def __init__(self, embeddings: Tensor, graph: Graph, rows: IntArray, former: Tensor) -> None:
        self.graph, self.rows, self.former = graph, rows, former
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
        """Approximately the k best eligible candidates of each query, with their true scores; see `Index.search`."""
        self._exact.check(queries, k, excluded, allowed)
        count = len(self) if allowed is None else len(allowed)
        k = min(k, count)
        if len(queries) == 0 or EXACT_BELOW * count < len(self) or EXACT_BELOW * k > count:
            return self._exact.search(queries, max(k, 1), excluded, allowed)
        numbers = self._numbers_found(queries.numpy(), k, excluded, allowed)
        keys = self._keys(queries, numbers).topk(k, dim=1).values  # [n, k]
        scores, candidates = decoded(keys)
        if (short := keys[:, -1] == NOTHING).any():
            places = short.nonzero().squeeze(1)
            rest = self._exact.search(queries[places], k, _of(excluded, places.numpy()), allowed)
            candidates[places], scores[places] = rest.candidates, rest.scores
        return Hits(candidates, scores)

    def wider(self) -> ApproximateIndex | None:
        """The same index with a wider search; see `Index.wider`."""
        graph = self.graph.wider()
        return None if graph is None else ApproximateIndex(self.embeddings, graph, self.rows, self.former)

    def moved(self, embeddings: Tensor, origin: IntArray) -> ApproximateIndex:
        """An index of another catalogue that reuses this one's vectors; see `Index.moved`."""
        kept = np.flatnonzero(origin >= 0)
        row_of = np.full(len(self) + 1, -1, dtype=np.int64)  # the extra last entry maps −1 to −1
        row_of[origin[kept]] = kept
        rows, new = row_of[self.rows], np.flatnonzero(origin < 0)
        vectors = vectors_of(self.embeddings, self.rows, self.former)
        former = vectors[torch.from_numpy(np.flatnonzero(rows < 0))]
        graph = self.graph.extended(embeddings[torch.from_numpy(new)].numpy()) if len(new) else self.graph
        return ApproximateIndex(embeddings, graph, np.concatenate([rows, new]), former)

    def tensors(self) -> dict[str, Tensor]:
        """Everything besides the embeddings that `restored_index` needs."""
        return {"rows": torch.from_numpy(self.rows), "former": self.former, **self.graph.tensors()}

    def _numbers_found(
        self, queries: npt.NDArray[np.float32], k: int, excluded: Pairs | None, allowed: IntArray | None
    ) -> IntArray:
        """Numbers of the vectors that the graph finds, `[n, …]`."""
        bits = self._all
        if allowed is not None:
            may = np.zeros(len(self.rows), dtype=bool)
            may[self._numbers[allowed]] = True
            bits = np.packbits(may, bitorder="little")
        if excluded is None or len(excluded[0]) == 0:
            return self.graph.search(queries, k, bits)
        return self._numbers_without(queries, k, bits, excluded)

    def _numbers_without(
        self, queries: npt.NDArray[np.float32], k: int, bits: Bits | None, excluded: Pairs
    ) -> IntArray:
        """Numbers of the vectors that the graph finds, `[n, …]`; −1 where a vector is excluded or none was found."""
        order = np.argsort(excluded[0], kind="stable")
        places, out = excluded[0][order], self._numbers[excluded[1][order]]
        ends = np.searchsorted(places, np.arange(len(queries) + 1))
        overfetch = _overfetch(np.diff(ends))
        found = np.full((len(queries), k + min(OVERFETCH_LIMIT, int(overfetch.max()))), -1, dtype=np.int64)
        for extra in np.unique(overfetch).tolist():
            mine = np.flatnonzero(overfetch == extra)
            if extra <= OVERFETCH_LIMIT:
                found[mine, : k + extra] = self.graph.search(queries[mine], k + extra, bits)
                continue
            if bits is None:
                bits = np.full(-(-len(self.rows) // 8), 255, dtype=np.uint8)
            for place in mine.tolist():
                left = _cleared(bits, out[ends[place] : ends[place + 1]])
                found[place, :k] = self.graph.search(queries[place : place + 1], k, left)[0]
        banned = np.sort(out + len(self.rows) * places)
        keys = np.where(found < 0, -1, found + len(self.rows) * np.arange(len(queries))[:, None])
        nearest = np.minimum(np.searchsorted(banned, keys), len(banned) - 1)
        found[banned[nearest] == keys] = -1
        return found

    def _keys(self, queries: Tensor, numbers: IntArray) -> Tensor:
        """Keys of these vectors' candidates, from their true scores, `[n, …]`; `NOTHING` where there is none."""
        rows = torch.from_numpy(np.where(numbers < 0, -1, self.rows[numbers]))
        found = self.embeddings[rows.clamp(min=0)]  # [n, …, d]
        scores = torch.bmm(found, queries.unsqueeze(2)).squeeze(2)
        return keys_of(scores, rows).masked_fill(rows < 0, NOTHING)


@INDEXES.register
class Hnsw(GraphSettings, frozen=True, tag="hnsw", tag_field="kind"):
    """Settings of an HNSW graph; see `GraphSettings` for the fields.

    Example:
        >>> Hnsw(search=256)
        Hnsw(neighbours=32, build=200, search=256)
    """

    def make(self, embeddings: Tensor) -> ApproximateIndex:
        """See `IndexSettings.make`."""
        embeddings = embeddings.contiguous()
        ExactIndex.over(embeddings)  # raises if an embedding is not finite
        rows = np.arange(len(embeddings), dtype=np.int64)
        return ApproximateIndex(embeddings, Graph.build(self, embeddings), rows, embeddings[:0])

    def restore(self, embeddings: Tensor, tensors: Mapping[str, Tensor]) -> ApproximateIndex:
        """See `IndexSettings.restore`."""
        return restored_index(self, embeddings, tensors)


def restored_index(settings: GraphSettings, embeddings: Tensor, tensors: Mapping[str, Tensor]) -> ApproximateIndex:
    """Restore an index from its tensors; every number is checked before FAISS sees it.

    Raises:
        MissingExtraError: FAISS is not installed.
        ValueError: The tensors do not fit each other or the embeddings.
    """
    rows, former = tensors["rows"], tensors["former"]
    if rows.dtype != torch.int64 or rows.dim() != 1 or former.dtype != torch.float32 or former.dim() != 2:
        raise ValueError("expected the index's rows as an int64 vector and its former vectors as a float32 matrix")
    live = rows[rows >= 0]
    each_once = len(live) == len(embeddings) and torch.equal(live.sort().values, torch.arange(len(embeddings)))
    if not each_once or len(former) != len(rows) - len(live) or former.shape[1] != embeddings.shape[1]:
        raise ValueError("the index does not hold each candidate once")
    graph = Graph.restored(settings, vectors_of(embeddings, rows.numpy(), former), tensors)
    return ApproximateIndex(embeddings, graph, rows.numpy(), former)


def vectors_of(embeddings: Tensor, rows: IntArray, former: Tensor) -> Tensor:
    """The vectors in the order of their numbers, `[vectors, d]`; not copied if they equal the embeddings."""
    if len(former) == 0 and np.array_equal(rows, np.arange(len(embeddings))):
        return embeddings
    vectors = embeddings[torch.from_numpy(np.maximum(rows, 0))]
    vectors[torch.from_numpy(np.flatnonzero(rows < 0))] = former
    return vectors


def _overfetch(excluded: IntArray) -> IntArray:
    """How many extra vectors to fetch given each query's number of exclusions: the next power of two, or 0.

    Queries with the same number are searched together, and each query's result does not depend on the others.
    """
    return np.where(excluded == 0, 0, 1 << np.ceil(np.log2(np.maximum(excluded, 1))).astype(np.int64))


def _cleared(bits: Bits, numbers: IntArray) -> Bits:
    """A copy of the bits with these vectors' bits cleared."""
    left = bits.copy()
    np.bitwise_and.at(left, numbers >> 3, ~(np.uint8(1) << (numbers & 7).astype(np.uint8)))
    return left


def _of(pairs: Pairs | None, places: IntArray) -> Pairs | None:
    """The pairs of these queries, renumbered from 0."""
    if pairs is None:
        return None
    mine = np.isin(pairs[0], places)
    return np.searchsorted(places, pairs[0][mine]), pairs[1][mine]
