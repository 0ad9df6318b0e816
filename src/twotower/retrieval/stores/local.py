"""`LocalStore`: the store interface over an exact or approximate index in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower.retrieval.conditions import Condition
from twotower.retrieval.ids import Ids
from twotower.retrieval.index import Index, pairs_of
from twotower.retrieval.stores.store import Found, Id, check_search


class LocalStore:
    """Candidates in memory; see `Store`.

    Args:
        index: Index of the candidates' embeddings.
        candidates: The catalogue, one row per embedding.
        candidate_id: Name of its id column.
        towers: Version id of the towers that made the embeddings.

    Example:
        >>> from twotower.retrieval.exact import ExactIndex
        >>> drinks = pa.table({"drink": ["tea", "rum", "gin"], "proof": [0, 80, 75]})
        >>> store = LocalStore(ExactIndex(torch.tensor([[1.0], [3.0], [2.0]])), drinks, "drink", "0a1b")
        >>> weak = Condition.parse("proof < 80", store.schema)
        >>> store.search(torch.tensor([[1.0]]), 2, condition=weak)[0].candidates["drink"].to_pylist()
        ['gin', 'tea']
    """

    def __init__(self, index: Index, candidates: pa.Table, candidate_id: str, towers: str) -> None:
        self.version, self._id, self._lock = towers, candidate_id, threading.Lock()
        self._state = index, candidates, Ids(candidates[candidate_id], candidate_id)

    @property
    def kind(self) -> str:
        """The index's kind."""
        return self._state[0].kind

    @property
    def schema(self) -> pa.Schema:
        """The catalogue's schema."""
        return self._state[1].schema

    def __len__(self) -> int:
        return len(self._state[0])

    def search(
        self,
        embeddings: Tensor,
        k: int,
        excluded: Sequence[Sequence[Id]] | None = None,
        condition: Condition | None = None,
    ) -> list[Found]:
        """The k best eligible candidates of each query; see `Store.search`."""
        index, candidates, ids = self._state
        check_search(embeddings, k, index.embeddings.shape[1])
        pairs = None if excluded is None else pairs_of([ids.rows(out) for out in excluded])
        allowed = None if condition is None else condition.rows(candidates)
        hits = index.search(embeddings, k, pairs, allowed)
        found = []
        for rows, scores in zip(hits.candidates.numpy(), hits.scores.numpy(), strict=True):
            left = rows >= 0
            found.append(Found(candidates.take(pa.array(rows[left])), scores[left]))
        return found

    def upsert(self, candidates: pa.Table, embeddings: Tensor) -> None:
        """Adds and changes candidates; see `Store.upsert`."""
        with self._lock:
            index, old, ids = self._state
            places = np.array([-1 if row is None else row for row in map(ids.row, candidates[self._id].to_pylist())])
            source = np.concatenate([np.arange(len(old)), np.zeros((places < 0).sum(), np.int64)])  # in both tables
            targets = np.where(places < 0, len(old) + np.cumsum(places < 0) - 1, places)
            source[targets] = len(old) + np.arange(len(places))
            table = pa.concat_tables([old, candidates.select(old.column_names).cast(old.schema)])
            both = torch.cat([index.embeddings, embeddings])
            origin = np.where(source < len(old), source, -1)
            self._put(index.moved(both[torch.from_numpy(source)], origin), table.take(pa.array(source)))

    def withdraw(self, ids: Iterable[Id]) -> None:
        """Removes candidates; see `Store.withdraw`."""
        with self._lock:
            index, old, known = self._state
            kept = np.setdiff1d(np.arange(len(old)), known.rows(ids))
            self._put(index.moved(index.embeddings[torch.from_numpy(kept)], kept), old.take(pa.array(kept)))

    def wider(self) -> LocalStore | None:
        """The same store over a wider index; see `Store.wider`."""
        index = self._state[0].wider()
        return None if index is None else LocalStore(index, self._state[1], self._id, self.version)

    def close(self) -> None:
        """Does nothing: there are no resources to release."""

    def _put(self, index: Index, candidates: pa.Table) -> None:
        self._state = index, candidates, Ids(candidates[self._id], self._id)
