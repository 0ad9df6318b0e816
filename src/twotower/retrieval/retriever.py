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
from twotower.model.embedding import encode_table
from twotower.model.rerank import Rerank
from twotower.model.two_tower import TwoTower
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
"""Embed this many queries at once."""


class Retriever(Contents):
    """Recommends candidates for known and unknown queries.

    Create one with `Retriever.build`, save it with `save`, load it with `load`. It is immutable: `add` and `withdraw`
    return a new one. Several threads may use it at once.

    Args:
        bundle: The bundle.
        embed: Embeds the inputs of the query tower; default: the tower itself.

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
        """Builds a retriever from a trained model and a catalogue.

        Args:
            model: The trained model.
            candidates: The catalogue, a table or a path, with the columns that the candidate tower reads. It may hold
                candidates that training did not see. If it lacks candidates that training saw, their events are
                dropped from the seen lists and the popularity, with a `DataWarning`.
            seen: The training split: what each query chose, and the query table.
            index: How candidates are searched: `Exact()`, `Hnsw()`, or your own settings.
            parity: The share of the exact results that an approximate index must find; None for any.
            title: The catalogue column that is displayed for a candidate; default: the first text column whose name
                contains `title` or `name`, or else the id.
            notes: How the model was trained, to store with it; put your own data into `Notes(extra=…)`.
            rerank: The default number of candidates to re-rank, and the head of the model that re-ranks.

        Raises:
            ConfigError: The catalogue lacks the title column, the notes are not plain data, or the model has no such
                head.
            DataError: The catalogue has no id column, or one with nulls or repeated ids.
            ParityError: The index finds too little of what exact search finds.
            TwoTowerError: An embedding is not finite.
        """
        return cls(built(model, candidates, seen, index, parity, notes or Notes(), title, rerank))

    @classmethod
    @checks_arguments
    def load(cls, folder: str | Path, *, engine: Engine = "torch", store: str | None = None) -> Retriever:
        """Loads what `save` wrote; the loaded retriever gives the same answers.

        Loading does not contact a store. Its files stay memory-mapped: replace them, but do not change them in place.

        Args:
            folder: The folder.
            engine: The engine that embeds queries: `torch`, or `onnx` for ONNX Runtime if the bundle was written with
                `twotower bundle --onnx`; its scores agree to about 1e-5.
            store: Another address for the bundle's store.

        Raises:
            ConfigError: The engine is unknown, the bundle has no ONNX towers, or `store` is given for a bundle that has
                no store or one of another kind.
            MissingExtraError: The extra `onnx`, or that of the store, is not installed.
            SavedFolderError: The folder is missing, truncated, altered, of another format or not a bundle.
        """
        bundle = load_bundle(Path(folder), engine)
        if store is not None:
            bundle = at_address(bundle, store)
        try:
            return cls(bundle)
        except MissingExtraError:
            raise
        except Exception as error:  # parts that can be read may still not fit together
            raise SavedFolderError(f"{folder} holds no usable bundle: {error}") from error

    @checks_arguments
    def save(self, folder: str | Path) -> Manifest:
        """Writes everything beside the target folder, reads it back as `load` does, and then replaces the target.

        The folder may be empty, or a bundle without other files in it. To load, change and save, use `editing`.

        Raises:
            ConfigError: The folder may not be replaced, or cannot be written.
            SavedFolderError: What was written cannot be read back; the folder is unchanged.
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
        """The k best candidates for one query; fewer if fewer are eligible.

        A column that is missing or null in the request is taken from the query table if the id is known, and is
        otherwise missing. A missing time defaults to that of the latest training event.

        Args:
            query: The id, or columns of the query by name, such as `{"user_id": "42", "timestamp": 879024327}`. It may
                also have a `history`, ids of candidates that the query chose, latest last, and an `exclude`, ids to
                exclude. Times are numbers as in a log (seconds since 1970, or milliseconds and so on, told by their
                size), `datetime` or `date` objects, or ISO 8601 text.
            k: How many.
            exclude_seen: Exclude what the query chose in training, and the request's `history`.
            exclude: Ids to exclude; ids that the catalogue lacks are ignored, here and in `allow`.
            allow: The only eligible ids; default: all.
            where: A condition on the candidates' columns, such as `year >= 1990 and genres contains "Comedy"`.
            diversity: Weight of the difference between recommendations, from 0 to 1. The list is chosen from the 5·k
                best candidates, at least 100, by maximal marginal relevance.
            rerank: How many candidates, at least k, to retrieve after all filters and then sort by the bundle's
                re-ranking head, whose outputs are the `rerank_score` of recommendations. None: no re-ranking. Answers
                whose `basis` is `popularity` are never re-ranked.

        Raises:
            ConfigError: k, diversity or rerank is out of range, the request has a column that the model does not know,
                the condition cannot be parsed, or the bundle has no re-ranking head.
            DataError: A value does not fit the type of its column, or a time is not between 1970 and 2200.
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
        """`recommend` for several queries, with the same filters.

        The queries are a list, or a table (Arrow, Polars, pandas, DuckDB) with one row per query and the columns of a
        request. For a file of queries, see `twotower recommend --queries`.

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
        """`recommend_many` without the candidates' columns: only rows and scores.

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
        """The k candidates whose embeddings have the highest cosine with that of one candidate, itself excluded.

        Raises:
            UnknownCandidateError: The catalogue does not have the candidate.
            ConfigError, DataError: As `recommend`.
        """
        check_settings(k=k, where=where)
        row = self.candidate_row(candidate_id)
        out = np.append(self._eligible.named(exclude, "exclude"), row)
        rows, cosines = self._similar.to(row, k, out, self._eligible.allowed(allow, where))
        return answers_of([Ranked(rows, cosines, "candidate")], self._rows, self.details.candidate_id, self.version)[0]

    def explain(self, query: Query, candidate_id: object, score: ScoreName = "retrieval") -> Explanation:
        """Contributions of features and history items to the score of a candidate.

        Args:
            query: As in `recommend`.
            candidate_id: The candidate.
            score: The `retrieval` score, or the `rerank` score.

        Raises:
            UnknownCandidateError: The catalogue does not have the candidate.
            ConfigError, DataError: As `recommend`; or the bundle has no re-ranking head.
        """
        row, scored = self.candidate_row(candidate_id), scored_by(self.model, self.details.rerank, score)
        request = self.requests.read(query)
        encoded = self.requests.encode([request], [self.requests.row(request)])
        candidate = encode_table(self.model.candidate, self.candidates.slice(row, 1)).whole()
        return explain(
            self.model, encoded, candidate, lambda item: self.ids.row(item) is not None, self.ids.name, scored
        )

    def candidate_embeddings(self) -> pa.Table:
        """The id and embedding of every candidate; embeddings are fixed-size lists of float32.

        As NumPy, `[C, d]`: `np.stack(table["embedding"].to_numpy())`.
        """
        name = self.details.candidate_id
        return with_embeddings(name, self.candidates[name], self.index.embeddings)

    def query_embeddings(self, queries: Queries | None = None) -> pa.Table:
        """The id (null if it has none) and embedding of each query; embeddings are fixed-size lists of float32.

        The dot product with a candidate's is the score that `recommend` returns; of several interests, the highest.

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
        """Ids of what a query chose in training, latest first where times are known; empty if the query is unknown.

        Raises:
            DataError: It cannot be an id.
        """
        row = self.requests.ids.row(query_id)
        return [] if row is None else self.ids.values(self.seen.by(row))

    def add(self, candidates: TableSource, *, delimiter: str | None = None, decimal: str | None = None) -> Retriever:
        """A retriever with these candidates added; known ids have all their columns replaced.

        If the bundle has a store, it is updated immediately, for everyone who searches it.

        Args:
            candidates: Rows with all columns of the catalogue, a table or a path.
            delimiter: Delimiter of a CSV file; default: the training config's or, without one, detected.
            decimal: Decimal mark of a CSV file; default: the training config's or, without one, a point.

        Raises:
            DataError: A column is missing or of another type, or an id is null or repeated.
            ParityError: An approximate index, even rebuilt, finds too little of what exact search finds.
        """
        bundle, rows = with_candidates(self.bundle, candidates, self.details.notes.csv_format(delimiter, decimal))
        if self.store is not None:
            self.store.upsert(bundle.candidates.take(pa.array(rows)), bundle.index.embeddings[torch.from_numpy(rows)])
        return type(self)(bundle, self._embed)

    def withdraw(self, ids: Iterable[object]) -> Retriever:
        """A retriever without these candidates; a store removes them immediately.

        Raises:
            UnknownCandidateError: The catalogue lacks one of them.
            DataError: No candidate would remain, or a value cannot be an id.
            ParityError: An approximate index, even rebuilt, finds too little of what exact search finds.
        """
        rows = np.array(sorted({self.candidate_row(value) for value in self.ids.listed(ids)}), dtype=np.int64)
        bundle = without_candidates(self.bundle, rows)
        if self.store is not None:
            self.store.withdraw(self.ids.values(rows))
        return type(self)(bundle, self._embed)

    def candidate_row(self, candidate_id: object) -> int:
        """Row of a candidate in the candidate table.

        Raises:
            UnknownCandidateError: The catalogue does not have the candidate.
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
            rows: The query table row of each request; None if unknown.

        Raises:
            DataError: A value does not fit the type of its column.
        """
        with torch.inference_mode():
            return self._embed(self.requests.encode(queries, rows))
