"""`Retriever`: answers requests from a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower.arguments import checks_arguments
from twotower.data.dataset import Dataset
from twotower.data.sources import TableSource
from twotower.errors import MissingExtraError, SavedFolderError, UnknownCandidateError, about
from twotower.model.rerank import Rerank
from twotower.model.two_tower import TwoTower, encode_table
from twotower.retrieval.answers import Answer, Ranked, Reranked, answers_of, with_embeddings
from twotower.retrieval.building import built
from twotower.retrieval.bundle import Bundle, Engine, load_bundle, save_bundle
from twotower.retrieval.catalogue import with_candidates, without_candidates
from twotower.retrieval.contents import Contents
from twotower.retrieval.eligible import Eligible
from twotower.retrieval.exact import Exact
from twotower.retrieval.explain import Explanation, ScoreName, explain, scored_by
from twotower.retrieval.ids import Ids
from twotower.retrieval.index import IndexSettings
from twotower.retrieval.notes import Notes
from twotower.retrieval.parity import THRESHOLD
from twotower.retrieval.publishing import at_address
from twotower.retrieval.ranking import Ranker
from twotower.retrieval.requests import Queries, Query, Request, Requests
from twotower.retrieval.settings import check_settings
from twotower.retrieval.similar import Similar
from twotower.saved import Manifest

BLOCK = 4096
"""Queries that are embedded at once."""


class Retriever(Contents):
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
        >>> [found.id for found in retriever.recommend("bob", k=5)]
        ['rum']
        >>> retriever.recommend({"who": "eve"}).basis
        'popularity'
    """

    def __init__(self, bundle: Bundle, embed: Callable[[list[Tensor]], Tensor] | None = None) -> None:
        super().__init__(bundle)
        self._embed = embed or bundle.query_tower or bundle.model.query_vectors
        details = bundle.details
        has_events = np.diff(bundle.seen.offsets) > 0
        self.requests = Requests(
            bundle.model, bundle.queries, details.query_id, details.time, details.latest_time, has_events
        )
        self.ids = Ids(bundle.candidates[details.candidate_id], details.candidate_id)
        self._rows = bundle.candidates.combine_chunks()
        self._similar = Similar(bundle.index.embeddings)
        self._eligible = Eligible(bundle.candidates, self.ids, bundle.seen)
        self.store = None if details.store is None else details.store.open(details.towers)
        self._ranker = Ranker(bundle, self.requests, self._eligible, self._embed, self.store)

    @classmethod
    @checks_arguments
    def build(
        cls,
        model: TwoTower,
        candidates: TableSource,
        *,
        seen: Dataset,
        index: IndexSettings = Exact(),  # noqa: B008 (it is frozen)
        parity: float | None = THRESHOLD,
        title: str | None = None,
        notes: Notes | None = None,
        rerank: Rerank | None = None,
    ) -> Retriever:
        """Embeds a catalogue for a trained model.

        Args:
            model: The trained model.
            candidates: The catalogue, a table or a path, with the columns that the candidate tower reads; it may
                hold candidates that training did not see. Where it lacks some that training saw, their events are
                left out of the seen lists and the popularity, with a `DataWarning`.
            seen: The training split: what each query has chosen, and the query table.
            index: How candidates are searched: `Exact()`, `Hnsw()`, or settings of your own.
            parity: The share of what exact search finds that an approximate index has to find; None for any.
            title: The column of the catalogue that shows a candidate to people; default: the first column of text whose
                name holds `title` or `name`, or else the id.
            notes: How the model came to be, to keep with it; what is your own goes into `Notes(extra=…)`.
            rerank: How many candidates to re-rank unless a call says otherwise, and by which head of the model.

        Raises:
            ConfigError: The catalogue lacks the column of titles, the notes are no plain data, or the model has no
                such head.
            DataError: The catalogue has no id column, or one with nulls or repeated ids.
            ParityError: The index finds too little of what exact search finds.
            TwoTowerError: An embedding is not finite.
        """
        return cls(built(model, candidates, seen, index, parity, notes or Notes(), title, rerank))

    @classmethod
    @checks_arguments
    def load(cls, folder: str | Path, *, engine: Engine = "torch", store: str | None = None) -> Retriever:
        """Reads what `save` wrote; it gives the same answers.

        A store is not asked for anything yet.

        Args:
            folder: The folder.
            engine: What embeds queries: `torch`, or ONNX Runtime with `onnx`, where the bundle was written with
                `twotower bundle --onnx`; its scores are the same to about 1e-5.
            store: Another address of the store that the bundle names.

        Raises:
            ConfigError: The engine is unknown, the bundle has no towers as ONNX, or no store whose address could be
                another.
            MissingExtraError: The extra `onnx`, or that of the store, is not installed.
            SavedFolderError: The folder is missing, truncated, altered, of another format or no bundle.
        """
        bundle = load_bundle(Path(folder), engine)
        if store is not None:
            bundle = at_address(bundle, store)
        try:
            return cls(bundle)
        except MissingExtraError:
            raise
        except Exception as error:  # its parts can be read, and may still not fit together
            raise SavedFolderError(f"{folder} holds no bundle that can be used: {error}") from error

    @checks_arguments
    def save(self, folder: str | Path) -> Manifest:
        """Writes everything to a folder: beside its target, read once as `load` does, and then put in its place.

        The folder may be empty or a bundle without other files in it. To read, change and save again, use `editing`.

        Raises:
            ConfigError: The folder may not be replaced, or cannot be written.
            SavedFolderError: What was written cannot be read; the folder is as it was.
        """
        return save_bundle(self.bundle, Path(folder))

    def recommend(
        self,
        query: Query,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        exclude: Iterable[object] = (),
        allow: Iterable[object] | None = None,
        where: str | None = None,
        diversity: float = 0.0,
        rerank: Reranked = "default",
    ) -> Answer:
        """The k best candidates for one query; all that are left where fewer are.

        A column that the request does not name, or names with a null, is taken from the query table where the id
        is known, and counts as missing elsewhere; the time is then that of the latest training event.

        Args:
            query: The id, or columns of the query by name, such as `{"user_id": "42", "timestamp": 879024327}`, and,
                as `history`, ids of candidates that it chose, the latest last. Times are seconds since 1970,
                `datetime` or `date` objects, or text in ISO 8601. As `exclude` it may have ids to leave out.
            k: How many.
            exclude_seen: Leave out what the query has chosen in training, and the request's `history`.
            exclude: Ids to leave out; those that the catalogue lacks do no harm, here and in `allow`.
            allow: The only ids that may be found; default: all.
            where: A condition on the candidates' columns, such as `year >= 1990 and genres contains "Comedy"`.
            diversity: How much it counts that recommendations are unlike each other, from 0 to 1. The list is chosen
                from the 5·k best, at least 100, in the order of `twotower.retrieval.diversity`.
            rerank: How many candidates to retrieve, after all filters, and to put in the order of the bundle's head,
                whose answers are the `rerank_score` of recommendations; at least k are. None: retrieval alone. Where
                `basis` is `popularity` nothing is re-ranked.

        Raises:
            ConfigError: k, diversity or rerank is out of range, the request names a column that the model does not
                know, the condition cannot be read, or the bundle has no head to re-rank by.
            DataError: A value cannot be read as what the column holds, or a time is not between 1970 and 2200.
        """
        return self.recommend_many(
            [query],
            k,
            exclude_seen=exclude_seen,
            exclude=exclude,
            allow=allow,
            where=where,
            diversity=diversity,
            rerank=rerank,
        )[0]

    def recommend_many(
        self,
        queries: Queries,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        exclude: Iterable[object] = (),
        allow: Iterable[object] | None = None,
        where: str | None = None,
        diversity: float = 0.0,
        rerank: Reranked = "default",
    ) -> list[Answer]:
        """`recommend` for each of several queries, with the same filters.

        They come in a list, or in a table (Arrow, Polars, pandas, DuckDB) with a row for each and columns that
        requests may name; for a file of them, see `twotower recommend --queries`.

        Raises:
            ConfigError, DataError: As `recommend`.
        """
        ranked = self.rank(
            queries,
            k,
            exclude_seen=exclude_seen,
            exclude=exclude,
            allow=allow,
            where=where,
            diversity=diversity,
            rerank=rerank,
        )
        return answers_of(ranked, self._rows, self.details.candidate_id, self.version)

    def rank(
        self,
        queries: Queries,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        exclude: Iterable[object] = (),
        allow: Iterable[object] | None = None,
        where: str | None = None,
        diversity: float = 0.0,
        rerank: Reranked = "default",
    ) -> list[Ranked]:
        """`recommend_many` without the candidates' columns: their rows and scores.

        Raises:
            ConfigError, DataError: As `recommend`.
        """
        check_settings(k=k, exclude_seen=exclude_seen, where=where, diversity=diversity, rerank=rerank)
        with about("exclude"):
            excluded = self.ids.listed(exclude)
        with about("allow"):
            allowed = None if allow is None else self.ids.listed(allow)
        n = self.reranked_by_default if rerank == "default" else rerank
        return self._ranker.rank(queries, k, exclude_seen, excluded, allowed, where, diversity, n)

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
        check_settings(k=k, where=where)
        row = self.candidate_row(candidate_id)
        out = np.append(self._eligible.named(exclude, "exclude"), row)
        rows, cosines = self._similar.to(row, k, out, self._eligible.allowed(allow, where))
        return answers_of([Ranked(rows, cosines, "candidate")], self._rows, self.details.candidate_id, self.version)[0]

    def explain(self, query: Query, candidate_id: object, score: ScoreName = "retrieval") -> Explanation:
        """Which features and which items of the history the score of a candidate comes from.

        Args:
            query: As in `recommend`.
            candidate_id: The candidate.
            score: That of `retrieval`, or the `rerank` score.

        Raises:
            UnknownCandidateError: The catalogue does not have it.
            ConfigError, DataError: As `recommend`; or the bundle has no head to re-rank by.
        """
        row, scored = self.candidate_row(candidate_id), scored_by(self.model, self.details.rerank, score)
        request = self.requests.read(query)
        encoded = self.requests.encode([request], [self.requests.row(request)])
        candidate = encode_table(self.model.candidate, self.candidates.slice(row, 1)).whole()
        return explain(
            self.model, encoded, candidate, lambda item: self.ids.row(item) is not None, self.ids.name, scored
        )

    def candidate_embeddings(self) -> pa.Table:
        """The embedding of every candidate beside its id, as lists of float32 of one length.

        As NumPy, `[C, d]`: `np.stack(table["embedding"].to_numpy())`.
        """
        name = self.details.candidate_id
        return with_embeddings(name, self.candidates[name], self.index.embeddings)

    def query_embeddings(self, queries: Queries | None = None) -> pa.Table:
        """The embedding of each query beside its id (null where it has none), as lists of float32 of one length.

        A dot product with the embedding of a candidate is the score that `recommend` gives.

        Args:
            queries: Several queries, or a table of them, as in `recommend_many`; default: the query table.

        Raises:
            ConfigError, DataError: As `recommend`.
        """
        requests = self.requests.read_all(self.queries[self.details.query_id] if queries is None else queries)
        rows = [self.requests.row(request) for request in requests]
        parts = [slice(start, start + BLOCK) for start in range(0, len(requests), BLOCK)]
        vectors = [self.embed(requests[part], rows[part]) for part in parts]
        embeddings = torch.cat(vectors) if vectors else self.index.embeddings[:0]
        return with_embeddings(self.details.query_id, self.requests.ids_of(requests), embeddings)

    def history_of(self, query_id: object) -> list[int | str]:
        """Ids of what a query has chosen in training, the latest first where times are known; none if it is unknown.

        Raises:
            DataError: It cannot be an id.
        """
        row = self.requests.ids.row(query_id)
        return [] if row is None else self.ids.values(self.seen.by(row))

    def add(self, candidates: TableSource) -> Retriever:
        """A retriever with these candidates besides; known ids are changed, all of their columns.

        In a store they are changed at once, for all who search it.

        Args:
            candidates: Rows with all columns of the catalogue, a table or a path.

        Raises:
            DataError: A column is missing or of another type, or an id is null or repeated.
            ParityError: An approximate index, made anew, finds too little of what exact search finds.
        """
        bundle, rows = with_candidates(self.bundle, candidates)
        if self.store is not None:
            self.store.upsert(bundle.candidates.take(pa.array(rows)), bundle.index.embeddings[torch.from_numpy(rows)])
        return type(self)(bundle, self._embed)

    def withdraw(self, ids: Iterable[object]) -> Retriever:
        """A retriever without these candidates; from a store they are withdrawn at once.

        Raises:
            UnknownCandidateError: The catalogue lacks one of them.
            DataError: None would be left, or one cannot be an id.
            ParityError: An approximate index, made anew, finds too little of what exact search finds.
        """
        rows = np.array(sorted({self.candidate_row(value) for value in self.ids.listed(ids)}), dtype=np.int64)
        bundle = without_candidates(self.bundle, rows)
        if self.store is not None:
            self.store.withdraw(self.ids.values(rows))
        return type(self)(bundle, self._embed)

    def candidate_row(self, candidate_id: object) -> int:
        """Row of a candidate in the candidate table.

        Raises:
            UnknownCandidateError: The catalogue does not have it.
            DataError: It cannot be an id.
        """
        row = self.ids.row(candidate_id)
        if row is None:
            raise UnknownCandidateError(
                f"{self.details.candidate_id} {candidate_id!r} is not in the catalogue of {len(self.ids)} candidates"
            )
        return row

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
