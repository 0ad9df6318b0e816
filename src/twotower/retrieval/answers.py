"""Filters that a request may set, and the answers that a retriever returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from twotower.retrieval.index import IntArray

FloatArray = npt.NDArray[np.float32]

Basis: TypeAlias = Literal["query", "features", "popularity", "candidate"]
Reranked: TypeAlias = int | Literal["default"] | None
"""How many candidates to re-rank: a number, None for no re-ranking, or the bundle's default."""


class Filters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which candidates are eligible, how many are re-ranked and how diverse the list is; see `Retriever.recommend`.

    Attributes:
        exclude_seen: Exclude what a query chose in training, and the items of its `history`.
        exclude: Ids to exclude.
        allow: The only eligible ids; None for all.
        where: A condition on the candidates' columns.
        diversity: Weight of the difference between recommendations, from 0 to 1.
        rerank: How many candidates to re-rank; None: none; `default`: the bundle's number.
    """

    exclude_seen: bool = True
    exclude: tuple[int | str, ...] = ()
    allow: tuple[int | str, ...] | None = None
    where: str | None = None
    diversity: float = 0.0
    rerank: Reranked = "default"

    @property
    def arguments(self) -> dict[str, Any]:
        """The filters as keyword arguments of `Retriever.recommend`."""
        return msgspec.structs.asdict(self)


class Recommendation(msgspec.Struct, frozen=True):
    """One recommended candidate.

    Attributes:
        id: Its id.
        score: Dot product of query and candidate, divided by the temperature; see `Answer.basis` for other scores.
        candidate: Its row of the candidate table.
        rerank_score: Output of the re-ranking head, such as a predicted rating; None if the list was not re-ranked.
    """

    id: int | str
    score: float
    candidate: dict[str, Any]
    rerank_score: float | None = None

    def __str__(self) -> str:
        columns = (f"{name}={value!r}" for name, value in self.candidate.items() if value != self.id)
        scores = (f"{score:.3f}" for score in (self.score, self.rerank_score) if score is not None)
        return ", ".join([f"{self.id}: {' / '.join(scores)}", *columns])


class Answer(msgspec.Struct, frozen=True):
    """The recommendations for one request; also a sequence of them.

    Attributes:
        recommendations: Best first.
        basis: What the scores are based on. `query`: the id is known from training, by its events or its own
            embedding. `features`: the id is unknown, but other columns of the request or the query table, or a
            `history`, describe the query. `popularity`: nothing is known about the query; these are the candidates
            with the most training events, and the counts are their scores. `candidate`: similar candidates; scores are
            cosines.
        version: Version id of the bundle.
        notes: Sentences about the answer, such as a warning that the requested time is outside the training range.
    """

    recommendations: list[Recommendation]
    basis: Basis
    version: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{place}. {one}" for place, one in enumerate(self.recommendations, 1)]
        return "\n".join([*lines, f"(basis: {self.basis}; version {self.version})", *self.notes])

    def __len__(self) -> int:
        return len(self.recommendations)

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.recommendations)

    def __getitem__(self, place: int) -> Recommendation:
        return self.recommendations[place]


@dataclass(frozen=True, eq=False)
class Ranked:
    """Ranked candidates of one request, best first.

    Attributes:
        rows: Rows of the candidate table.
        scores: Their scores.
        basis: What the scores are based on; see `Answer.basis`.
        notes: See `Answer.notes`.
        found: The candidates' columns if a store found them; `rows` is empty then.
        rerank_scores: Outputs of the re-ranking head, which give the order; None if ordered by `scores`.
    """

    rows: IntArray
    scores: FloatArray
    basis: Basis
    notes: tuple[str, ...] = ()
    found: pa.Table | None = None
    rerank_scores: FloatArray | None = None

    def take(self, places: IntArray) -> Ranked:
        """The candidates at these places, in that order."""
        return replace(
            self,
            rows=self.rows[places] if self.found is None else self.rows,
            scores=self.scores[places],
            found=None if self.found is None else self.found.take(pa.array(places)),
            rerank_scores=None if self.rerank_scores is None else self.rerank_scores[places],
        )

    @classmethod
    def best_of(cls, lists: Sequence[Ranked], k: int, candidate_id: str) -> Ranked:
        """The k best of several lists, each candidate once with the highest of its scores.

        Args:
            lists: At least one; rows of the catalogue, or all found by a store.
            k: How many, at most.
            candidate_id: Name of the id column of what a store found.
        """
        first = lists[0]
        if len(lists) == 1:
            return first
        tables = [one.found for one in lists if one.found is not None]
        whole = replace(
            first,
            rows=np.concatenate([one.rows for one in lists]),
            scores=np.concatenate([one.scores for one in lists]),
            found=pa.concat_tables(tables) if tables else None,
        )
        keys = whole.rows
        if whole.found is not None:
            keys = whole.found[candidate_id].combine_chunks().dictionary_encode().indices.to_numpy()
        order = np.argsort(-whole.scores, kind="stable")
        places = np.unique(keys[order], return_index=True)[1]
        return whole.take(order[np.sort(places)[:k]])

    def ids(self, candidates: pa.Table, candidate_id: str) -> pa.Array:
        """Ids of the ranked candidates.

        Args:
            candidates: The catalogue that `rows` index.
            candidate_id: Name of its id column.
        """
        if self.found is not None:
            return self.found[candidate_id].combine_chunks()
        return candidates[candidate_id].combine_chunks().take(pa.array(self.rows))


def answers_of(ranked: Sequence[Ranked], candidates: pa.Table, candidate_id: str, version: str) -> list[Answer]:
    """Answers with the candidates' columns filled in.

    Args:
        ranked: The ranked candidates of each request.
        candidates: The catalogue.
        candidate_id: Name of its id column.
        version: Version id of the bundle.
    """
    rows = np.concatenate([one.rows for one in ranked]) if ranked else np.empty(0, dtype=np.int64)
    own = iter(candidates.take(pa.array(rows)).to_pylist())
    columns = (
        row for one in ranked for row in (islice(own, len(one.rows)) if one.found is None else one.found.to_pylist())
    )
    return [
        Answer(
            [
                Recommendation((row := next(columns))[candidate_id], score, row, answer)
                for score, answer in zip(one.scores.astype(np.float64).tolist(), _answers(one), strict=True)
            ],
            one.basis,
            version,
            one.notes,
        )
        for one in ranked
    ]


def _answers(ranked: Ranked) -> list[float] | list[None]:
    """Outputs of the re-ranking head; None for each candidate if the list was not re-ranked."""
    if ranked.rerank_scores is None:
        return [None] * len(ranked.scores)
    answers: list[float] = ranked.rerank_scores.astype(np.float64).tolist()
    return answers


def with_embeddings(name: str, ids: pa.Array | pa.ChunkedArray, embeddings: Tensor) -> pa.Table:
    """A table of ids and their embeddings.

    Args:
        name: Name of the id column.
        ids: The ids, `[n]`.
        embeddings: Float32 `[n, d]`.
    """
    rows = embeddings.detach().cpu().contiguous()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.flatten().numpy()), rows.shape[1])
    return pa.table({name: ids, "embedding": vectors})
