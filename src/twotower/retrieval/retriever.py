"""`Retriever`: answers requests from a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.seen import Seen
from twotower.errors import ConfigError, DataError, SavedFolderError, UnknownCandidateError
from twotower.features.history import GIVEN
from twotower.model.two_tower import TwoTower, encode_table
from twotower.retrieval.answers import Answer, Basis, Ranked, Recommendation
from twotower.retrieval.building import built
from twotower.retrieval.bundle import Bundle, Details, Engine, load_bundle, save_bundle
from twotower.retrieval.catalogue import with_candidates, without_candidates
from twotower.retrieval.conditions import matching_rows
from twotower.retrieval.explain import Explanation, explain
from twotower.retrieval.ids import Ids
from twotower.retrieval.index import Exact, Index, IndexSettings, IntArray, Pairs
from twotower.retrieval.parity import THRESHOLD
from twotower.retrieval.popularity import Popularity
from twotower.retrieval.requests import Request, Requests
from twotower.retrieval.similar import Similar
from twotower.saved import Manifest

CONDITIONS = 16
"""Conditions whose candidates are kept, for requests that ask for the same again."""


class Retriever:
    """Recommends candidates to queries, known and unknown ones.

    Build one with `Retriever.build`, keep it with `save`, get it back with `load`. It never changes: `add` and
    `withdraw` give another one, and several threads may ask one at once.

    Args:
        bundle: All that answers requests.
        embed: Embeds what the query tower takes; default: the tower itself.

    Example:
        >>> from twotower import Category, Tower, Trainer, data
        >>> log = pa.table({"who": ["ann", "bob", "ann"], "what": ["tea", "tea", "rum"]})
        >>> log = data.from_tables(log, query_id="who", candidate_id="what")
        >>> model = TwoTower(Tower([Category("who", 8)]), Tower([Category("what", 8)]))
        >>> _ = Trainer(epochs=2).fit(model, log)
        >>> retriever = Retriever.build(model, log.candidates, seen=log)
        >>> [found.id for found in retriever.recommend({"who": "bob"}, k=5, exclude_seen=True)]
        ['rum']
        >>> retriever.recommend({"who": "eve"}).basis
        'popularity'
    """

    def __init__(self, bundle: Bundle, embed: Callable[[list[Tensor]], Tensor] | None = None) -> None:
        self.bundle, self._embed = bundle, embed or bundle.query_tower or bundle.model.query_vectors
        details = bundle.details
        self.requests = Requests(bundle.model, bundle.queries, details.query_id, details.time, details.latest_time)
        self.ids = Ids(bundle.candidates[details.candidate_id], details.candidate_id)
        self._rows = bundle.candidates.combine_chunks()
        self._popularity = Popularity(bundle.popularity)
        self._similar = Similar(bundle.index.embeddings)
        self._matching = lru_cache(CONDITIONS)(self._matching_rows)

    @classmethod
    def build(
        cls,
        model: TwoTower,
        candidates: pa.Table,
        *,
        seen: Dataset,
        index: IndexSettings = Exact(),  # noqa: B008 (it is frozen)
        parity: float | None = THRESHOLD,
        notes: dict[str, Any] | None = None,
    ) -> Retriever:
        """Embeds a catalogue for a trained model.

        Args:
            model: The trained model.
            candidates: The catalogue, with the columns that the candidate tower reads; it may hold
                candidates that training did not see.
            seen: The training split: what each query has chosen, and the query table.
            index: How candidates are searched: `Exact()`, `Hnsw()` or `IvfPq()`.
            parity: The share of what exact search finds that an approximate index has to find; None for any.
            notes: What to keep with it, as plain data.

        Raises:
            DataError: The catalogue has no id column, or one with nulls or repeated ids.
            ParityError: The index finds too little of what exact search finds.
            TwoTowerError: An embedding is not finite.
        """
        return cls(built(model, candidates, seen, index, parity, notes or {}))

    @classmethod
    def load(cls, folder: str | Path, *, engine: Engine = "torch") -> Retriever:
        """Reads what `save` wrote; it gives the same answers.

        Args:
            folder: The folder.
            engine: What embeds queries: `torch`, or ONNX Runtime with `onnx`, where the bundle was written with
                `twotower bundle --onnx`; its scores are the same to about 1e-5.

        Raises:
            ConfigError: The engine is unknown, or the bundle has no towers as ONNX.
            MissingExtraError: The extra `onnx` is not installed.
            SavedFolderError: The folder is missing, truncated, altered, of another format or no bundle.
        """
        bundle = load_bundle(Path(folder), engine)
        try:
            return cls(bundle)
        except Exception as error:  # its parts can be read, and may still not fit together
            raise SavedFolderError(f"{folder} holds no bundle that can be used: {error}") from error

    def save(self, folder: str | Path) -> Manifest:
        """Writes everything to a folder: beside its target, read once as `load` does, and then put in its place.

        The folder may be empty or a bundle without other files in it. To read, change and save again, use `editing`.

        Raises:
            ConfigError: The folder may not be replaced, or cannot be written.
            SavedFolderError: What was written cannot be read; the folder is as it was.
        """
        return save_bundle(self.bundle, Path(folder))

    @property
    def version(self) -> str:
        """Twelve digits that name this very content."""
        return self.bundle.details.version

    @property
    def model(self) -> TwoTower:
        """The towers."""
        return self.bundle.model

    @property
    def candidates(self) -> pa.Table:
        """The catalogue."""
        return self.bundle.candidates

    @property
    def queries(self) -> pa.Table:
        """The query table."""
        return self.bundle.queries

    @property
    def seen(self) -> Seen:
        """What each query has chosen in training, the latest first where times are known."""
        return self.bundle.seen

    @property
    def index(self) -> Index:
        """The embeddings of the candidates, and how they are searched."""
        return self.bundle.index

    @property
    def details(self) -> Details:
        """What the bundle says of itself."""
        return self.bundle.details

    def recommend(
        self,
        query: Request,
        k: int = 10,
        *,
        exclude_seen: bool = False,
        exclude: Iterable[object] = (),
        allow: Iterable[object] | None = None,
        where: str | None = None,
    ) -> Answer:
        """The k best candidates for one query; all that are left where fewer are.

        A column that the request does not name is taken from the query table where the id is known, and
        counts as missing elsewhere; the time is then that of the latest training event.

        Args:
            query: Columns of the query by name, such as `{"user_id": "42", "timestamp": 879024327}`, and, as
                `history`, ids of candidates that it chose, the latest last.
            k: How many.
            exclude_seen: Leave out what the query has chosen in training, and the request's `history`.
            exclude: Ids to leave out; those that the catalogue lacks do no harm, here and in `allow`.
            allow: The only ids that may be found; default: all.
            where: A condition on the candidates' columns, such as `year >= 1990 and genres contains "Comedy"`.

        Raises:
            ConfigError: k is below 1, the request names a column that the model does not know, or the condition
                cannot be read.
            DataError: A value cannot be read as what the column holds.
        """
        return self.recommend_many([query], k, exclude_seen=exclude_seen, exclude=exclude, allow=allow, where=where)[0]

    def recommend_many(
        self,
        queries: Sequence[Request],
        k: int = 10,
        *,
        exclude_seen: bool = False,
        exclude: Iterable[object] = (),
        allow: Iterable[object] | None = None,
        where: str | None = None,
    ) -> list[Answer]:
        """`recommend` for several queries at once; the filters are for each of them."""
        ranked = self.rank(queries, k, exclude_seen=exclude_seen, exclude=exclude, allow=allow, where=where)
        return self._answers(ranked)

    def rank(
        self,
        queries: Sequence[Request],
        k: int = 10,
        *,
        exclude_seen: bool = False,
        exclude: Iterable[object] = (),
        allow: Iterable[object] | None = None,
        where: str | None = None,
    ) -> list[Ranked]:
        """`recommend_many` without the candidates' columns: their rows and scores.

        Raises:
            ConfigError, DataError: As `recommend`.
        """
        _check_k(k)
        for query in queries:
            self.requests.check(query)
        rows = [self.requests.row(query) for query in queries]
        bases = [self._basis(query, row) for query, row in zip(queries, rows, strict=True)]
        out, allowed = self.ids.rows(exclude), self.allowed(allow, where)
        outs = [
            np.concatenate([out, self._seen_by(query, row)]) if exclude_seen else out
            for query, row in zip(queries, rows, strict=True)
        ]
        asked = [place for place, basis in enumerate(bases) if basis != "popularity"]
        found: dict[int, Ranked] = {}
        if asked:
            vectors = self.embed([queries[place] for place in asked], [rows[place] for place in asked])
            hits = self.index.search(vectors, k, _pairs([outs[place] for place in asked]), allowed)
            for place, candidates, scores in zip(asked, hits.candidates.numpy(), hits.scores.numpy(), strict=True):
                left = candidates >= 0
                found[place] = Ranked(candidates[left], scores[left], bases[place])
        for place, basis in enumerate(bases):
            if basis == "popularity":
                candidates, events = self._popularity.best(k, outs[place], allowed)
                found[place] = Ranked(candidates, events.astype(np.float32), basis)
        return [found[place] for place in range(len(queries))]

    def similar(
        self,
        candidate_id: object,
        k: int = 10,
        *,
        exclude: Iterable[object] = (),
        allow: Iterable[object] | None = None,
        where: str | None = None,
    ) -> Answer:
        """The k candidates whose embeddings have the highest cosine with that of one of them, which is left out.

        Raises:
            UnknownCandidateError: The catalogue does not have it.
            ConfigError, DataError: As `recommend`.
        """
        _check_k(k)
        row = self.candidate_row(candidate_id)
        out = np.append(self.ids.rows(exclude), row)
        rows, cosines = self._similar.to(row, k, out, self.allowed(allow, where))
        return self._answers([Ranked(rows, cosines, "candidate")])[0]

    def explain(self, query: Request, candidate_id: object) -> Explanation:
        """Which features and which items of the history the score of a candidate comes from.

        Raises:
            UnknownCandidateError: The catalogue does not have it.
            ConfigError, DataError: As `recommend`.
        """
        row = self.candidate_row(candidate_id)
        self.requests.check(query)
        encoded = self.requests.encode([query], [self.requests.row(query)])
        candidate = encode_table(self.model.candidate, self.candidates.slice(row, 1)).whole()
        return explain(
            self.model, encoded, candidate, lambda item: self.ids.row(item) is not None, self.details.candidate_id
        )

    def history_of(self, query_id: object) -> list[int | str]:
        """Ids of what a query has chosen in training, the latest first where times are known; none if it is unknown."""
        row = self.requests.row({self.details.query_id: query_id})
        return [] if row is None else self.ids.values(self.seen.by(row))

    def add(self, candidates: pa.Table) -> Retriever:
        """A retriever with these candidates besides; known ids are changed, all of their columns.

        Args:
            candidates: Rows with all columns of the catalogue.

        Raises:
            DataError: A column is missing or of another type, or an id is null or repeated.
            ParityError: An approximate index, made anew, finds too little of what exact search finds.
        """
        return self._with(with_candidates(self.bundle, candidates))

    def withdraw(self, ids: Iterable[object]) -> Retriever:
        """A retriever without these candidates.

        Raises:
            UnknownCandidateError: The catalogue lacks one of them.
            DataError: None would be left.
            ParityError: An approximate index, made anew, finds too little of what exact search finds.
        """
        rows = np.array(sorted({self.candidate_row(value) for value in ids}), dtype=np.int64)
        return self._with(without_candidates(self.bundle, rows))

    def candidate_row(self, candidate_id: object) -> int:
        """Row of a candidate in the candidate table.

        Raises:
            UnknownCandidateError: The catalogue does not have it.
        """
        row = self.ids.row(candidate_id)
        if row is None:
            raise UnknownCandidateError(
                f"{self.details.candidate_id} {candidate_id!r} is not in the catalogue of {len(self.ids)} candidates"
            )
        return row

    def allowed(self, allow: Iterable[object] | None, where: str | None) -> IntArray | None:
        """Rows that an allow list and a condition leave, ascending; None where there is neither.

        Raises:
            ConfigError: The condition cannot be read.
            DataError: An id is of the wrong type.
        """
        listed = None if allow is None else self.ids.rows(allow)
        matching = None if where is None else self._matching(where)
        if listed is None or matching is None:
            return matching if listed is None else listed
        return np.intersect1d(listed, matching, assume_unique=True)

    def embed(self, queries: Sequence[Request], rows: Sequence[int | None]) -> Tensor:
        """Embeddings of requests, `[n, d]`, ready for a dot product with those of the candidates.

        Args:
            queries: The requests.
            rows: Row in the query table of each; None where it is not known.

        Raises:
            DataError: A value cannot be read as what the column holds.
        """
        with torch.inference_mode():
            return self._embed(self.requests.encode(queries, rows))

    def _with(self, bundle: Bundle) -> Retriever:
        return type(self)(bundle, self._embed)

    def _basis(self, query: Request, row: int | None) -> Basis:
        if row is not None:
            return "query"
        return "features" if self.requests.tells(query) else "popularity"

    def _seen_by(self, query: Request, row: int | None) -> IntArray:
        """Rows that the query has chosen: of the record, and as it says itself."""
        recorded = np.empty(0, dtype=np.int64) if row is None else self.seen.by(row)
        if not (given := query.get(GIVEN)):
            return recorded
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise DataError(f"column {GIVEN!r} of the query: {given!r}; expected a list of candidate ids")
        return np.concatenate([recorded, self.ids.rows(value for value in given if value is not None)])

    def _matching_rows(self, where: str) -> IntArray:
        return matching_rows(self.candidates, where)

    def _answers(self, ranked: Sequence[Ranked]) -> list[Answer]:
        rows = np.concatenate([one.rows for one in ranked]) if ranked else np.empty(0, dtype=np.int64)
        candidates = iter(self._rows.take(pa.array(rows)).to_pylist())
        id_column, version = self.details.candidate_id, self.version
        return [
            Answer(
                [
                    Recommendation((row := next(candidates))[id_column], score, row)
                    for score in one.scores.astype(np.float64).tolist()
                ],
                one.basis,
                version,
            )
            for one in ranked
        ]


def _check_k(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k={k}; expected at least 1")


def _pairs(outs: Sequence[IntArray]) -> Pairs | None:
    """(place, row) of every row that a query may not find; None where there is none."""
    counts = [len(out) for out in outs]
    if not any(counts):
        return None
    return np.repeat(np.arange(len(outs)), counts), np.concatenate(outs)
