"""`Retriever`: a model, its candidates and what each query has seen; it answers requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors.torch import load_file, save_file
from torch import Tensor

from twotower.data.dataset import Dataset, from_tables
from twotower.data.seen import Seen
from twotower.errors import ConfigError, DataError, SavedFolderError, TwoTowerError
from twotower.features.history import GIVEN
from twotower.files import replaced_folder
from twotower.model.saving import load_model, save_model
from twotower.model.two_tower import TwoTower, encode_table, features_of
from twotower.retrieval.exact import ExactIndex
from twotower.saved import Manifest, check_folder, read_table, write_manifest, write_table
from twotower.version import VERSION

KIND = "twotower retriever"
FORMAT = 1

Request = Mapping[str, Any]
"""One query: its id, its time and whatever other columns the query tower reads, by name."""


class Recommendation(msgspec.Struct, frozen=True):
    """One recommended candidate.

    Attributes:
        id: Its id.
        score: Dot product of query and candidate, over the temperature.
        candidate: Its row of the candidate table.
    """

    id: int | str
    score: float
    candidate: dict[str, Any]


class Details(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a retriever knows of the data that it was made of.

    Attributes:
        data: Name of the data set.
        query_id: Name of the query id column.
        candidate_id: Name of the candidate id column.
        time: Name of the time column.
        latest_time: Seconds of the latest training event: "now" for requests that do not say when.
        notes: What else the maker wants to keep: metrics, split, fingerprint.
    """

    data: str
    query_id: str
    candidate_id: str
    time: str | None
    latest_time: float | None
    notes: dict[str, Any]


class Retriever:
    """Recommends candidates to queries, known and unknown ones.

    Build one with `Retriever.build`, keep it with `save`, get it back with `load`.

    Example:
        >>> from twotower import Category, Tower, Trainer, data
        >>> log = pa.table({"who": ["ann", "bob", "ann"], "what": ["tea", "tea", "rum"]})
        >>> log = data.from_tables(log, query_id="who", candidate_id="what")
        >>> model = TwoTower(Tower([Category("who", 8)]), Tower([Category("what", 8)]))
        >>> _ = Trainer(epochs=2).fit(model, log)
        >>> retriever = Retriever.build(model, log.candidates, seen=log)
        >>> [found.id for found in retriever.recommend({"who": "bob"}, k=5, exclude_seen=True)]
        ['rum']
    """

    def __init__(
        self, model: TwoTower, candidates: pa.Table, embeddings: Tensor, queries: pa.Table, seen: Seen, details: Details
    ) -> None:
        self.model, self.candidates, self.queries, self.seen = model, candidates, queries, seen
        self.index = ExactIndex(embeddings)
        self.details = details

    @classmethod
    def build(
        cls, model: TwoTower, candidates: pa.Table, *, seen: Dataset, notes: dict[str, Any] | None = None
    ) -> Retriever:
        """Embeds a catalogue for a trained model.

        Args:
            model: The trained model.
            candidates: The catalogue, with the columns that the candidate tower reads; it may hold
                candidates that training did not see.
            seen: The training split: what each query has chosen, and the query table.
            notes: What to keep with it, as plain data.

        Raises:
            DataError: The catalogue has no id column, or one with nulls or repeated ids.
            TwoTowerError: An embedding is not finite.
        """
        catalogue = _as_catalogue(candidates, seen)
        embeddings = model.embed_candidates(catalogue.candidates).cpu()
        if not bool(embeddings.isfinite().all()):
            raise TwoTowerError("a candidate embedding is not finite: training has diverged")
        details = Details(
            data=seen.name,
            query_id=seen.query_id,
            candidate_id=seen.candidate_id,
            time=seen.time,
            latest_time=None if seen.time is None else float(seen.times.max()),
            notes=notes or {},
        )
        return cls(model.eval(), catalogue.candidates, embeddings, seen.queries, Seen.of(catalogue), details)

    def recommend(self, query: Request, k: int = 10, *, exclude_seen: bool = False) -> list[Recommendation]:
        """The k best candidates for one query; all that are left where fewer are.

        A column that the request does not name is taken from the query table where the id is known, and
        counts as missing elsewhere; the time is then that of the latest training event.

        Args:
            query: Columns of the query by name, such as `{"user_id": "42", "timestamp": 879024327}`.
            k: How many.
            exclude_seen: Leave out what the query has chosen in training.

        Raises:
            ConfigError: k is below 1, or the request names a column that the model does not know.
            DataError: A value cannot be read as what the column holds.
        """
        return self.recommend_many([query], k, exclude_seen=exclude_seen)[0]

    def recommend_many(
        self, queries: Sequence[Request], k: int = 10, *, exclude_seen: bool = False
    ) -> list[list[Recommendation]]:
        """`recommend` for several queries at once."""
        if k < 1:
            raise ConfigError(f"k={k}; expected at least 1")
        rows = [self._known_row(query) for query in queries]
        encoded = encode_table(self.model.query, self._query_table(queries, rows))
        embeddings = self.model.embed_side(encoded, self.model.query_vectors)
        hits = self.index.search(embeddings, k, self._seen_pairs(rows) if exclude_seen else None)
        return [
            [
                self._recommendation(candidate, score)
                for candidate, score in zip(found, scores, strict=True)
                if candidate >= 0
            ]
            for found, scores in zip(hits.candidates.tolist(), hits.scores.tolist(), strict=True)
        ]

    def save(self, folder: str | Path) -> Manifest:
        """Writes everything to a folder, beside its target and then renamed over it."""
        with replaced_folder(Path(folder)) as building:
            save_model(self.model, building / "model")
            write_table(self.candidates, building / "candidates.arrow")
            write_table(self.queries, building / "queries.arrow")
            write_table(pa.table({"offset": self.seen.offsets}), building / "seen-offsets.arrow")
            write_table(pa.table({"candidate": self.seen.candidates}), building / "seen.arrow")
            save_file({"candidates": self.index.embeddings.contiguous()}, building / "embeddings.safetensors")
            return write_manifest(building, KIND, FORMAT, VERSION, msgspec.to_builtins(self.details))

    @classmethod
    def load(cls, folder: str | Path) -> Retriever:
        """Reads what `save` wrote; it gives the same answers.

        Raises:
            SavedFolderError: The folder is missing, truncated, altered, of a newer format or not a retriever.
        """
        folder = Path(folder)
        manifest = check_folder(folder, KIND, FORMAT)
        try:
            details = msgspec.convert(manifest.details, Details)
            seen = Seen(
                read_table(folder / "seen-offsets.arrow")["offset"].to_numpy(),
                read_table(folder / "seen.arrow")["candidate"].to_numpy(),
            )
            embeddings = load_file(folder / "embeddings.safetensors")["candidates"]
            tables = read_table(folder / "candidates.arrow"), read_table(folder / "queries.arrow")
        except (OSError, KeyError, ValueError, pa.ArrowInvalid, msgspec.ValidationError) as error:
            raise SavedFolderError(f"{folder} holds no retriever that can be read: {error}") from error
        return cls(load_model(folder / "model"), tables[0], embeddings, tables[1], seen, details)

    def _known_row(self, query: Request) -> int | None:
        """Row of a query in the query table; None where its id is not known, or not given."""
        value = query.get(self.details.query_id)
        if value is None:
            return None
        ids = self.queries[self.details.query_id]
        try:
            found = pc.index(ids, pa.scalar(value).cast(ids.type)).as_py()
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            return None
        return found if found >= 0 else None

    def _query_table(self, queries: Sequence[Request], rows: Sequence[int | None]) -> pa.Table:
        """One row a query, with every column that the query tower reads."""
        reads = {name for feature in features_of(self.model.query) for name in feature.reads}
        if any(GIVEN in query for query in queries):
            reads.add(GIVEN)
        wanted = sorted(reads | {self.details.query_id})
        known_columns = {*wanted, *self.queries.column_names, *([self.details.time] if self.details.time else [])}
        for query in queries:
            if unknown := sorted(set(query) - known_columns):
                raise ConfigError(
                    f"the query names {unknown[0]!r}; expected columns among {', '.join(sorted(known_columns))}"
                )
        return pa.table({column: self._query_column(column, queries, rows) for column in wanted})

    def _query_column(self, column: str, queries: Sequence[Request], rows: Sequence[int | None]) -> pa.Array:
        recorded = self.queries[column] if column in self.queries.column_names else None
        values = []
        for query, row in zip(queries, rows, strict=True):
            if column in query:
                values.append(query[column])
            elif column == self.details.time:
                values.append(self.details.latest_time)
            else:
                values.append(recorded[row].as_py() if recorded is not None and row is not None else None)
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(f"column {column!r} of the query: {values!r} are not of one kind: {error}") from error

    def _seen_pairs(self, rows: Sequence[int | None]) -> tuple[np.ndarray, np.ndarray]:
        places = [place for place, row in enumerate(rows) if row is not None]
        pairs, candidates = self.seen.pairs(np.array([rows[place] for place in places], dtype=np.int64))
        return np.array(places, dtype=np.int64)[pairs], candidates

    def _recommendation(self, row: int, score: float) -> Recommendation:
        candidate = {name: self.candidates[name][row].as_py() for name in self.candidates.column_names}
        return Recommendation(candidate[self.details.candidate_id], score, candidate)


def _as_catalogue(candidates: pa.Table, seen: Dataset) -> Dataset:
    """The training events over another catalogue; those whose candidate it lacks are left out."""
    if candidates.equals(seen.candidates):
        return seen
    log = pa.table(
        {
            seen.query_id: seen.queries[seen.query_id].take(pa.array(seen.query_index)),
            seen.candidate_id: seen.candidates[seen.candidate_id].take(pa.array(seen.candidate_index)),
        }
    )
    return from_tables(
        log,
        query_id=seen.query_id,
        candidate_id=seen.candidate_id,
        queries=seen.queries,
        candidates=candidates,
        unknown_candidates="drop",
        name=seen.name,
    )
