"""What is asked of a retriever besides the queries, and what it answers."""

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
"""How many candidates are re-ranked: a number, none, or as many as the bundle says."""


class Filters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may be found, how many of it are re-ranked and how diverse it is; see `Retriever.recommend`.

    Attributes:
        exclude_seen: Leave out what a query has chosen in training, and its own `history`.
        exclude: Ids to leave out.
        allow: The only ids that may be found; None for all.
        where: A condition on the candidates' columns.
        diversity: How much it counts that recommendations are unlike each other, from 0 to 1.
        rerank: How many are re-ranked; None: none; `default`: as many as the bundle says.
    """

    exclude_seen: bool = True
    exclude: tuple[int | str, ...] = ()
    allow: tuple[int | str, ...] | None = None
    where: str | None = None
    diversity: float = 0.0
    rerank: Reranked = "default"

    @property
    def arguments(self) -> dict[str, Any]:
        """The same as arguments of `Retriever.recommend`."""
        return msgspec.structs.asdict(self)


class Recommendation(msgspec.Struct, frozen=True):
    """One recommended candidate.

    Attributes:
        id: Its id.
        score: Dot product of query and candidate, over the temperature; see `Answer.basis` for others.
        candidate: Its row of the candidate table.
        rerank_score: The answer of the head by which the list was re-ranked, such as the predicted rating; None where
            it was not.
    """

    id: int | str
    score: float
    candidate: dict[str, Any]
    rerank_score: float | None = None


class Answer(msgspec.Struct, frozen=True):
    """What was found for one request; a sequence of its recommendations.

    Attributes:
        recommendations: The best first.
        basis: What the scores come from. `query`: training knew the id, by events or an embedding of its own.
            `features`: it did not, and other columns, of the request or the query table, or a `history` tell of the
            query. `popularity`: nothing is known; these are the candidates with the most training events, which are
            their scores. `candidate`: similar ones; scores are cosines.
        version: Version id of the bundle.
        notes: What to know of the answer, in sentences, such as that the moment asked for lies beyond what was learned.
    """

    recommendations: list[Recommendation]
    basis: Basis
    version: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.recommendations)

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.recommendations)

    def __getitem__(self, place: int) -> Recommendation:
        return self.recommendations[place]


@dataclass(frozen=True, eq=False)
class Ranked:
    """What was found for one request, the best first.

    Attributes:
        rows: Rows of the candidate table.
        scores: Their scores.
        basis: What they are based on; see `Answer.basis`.
        notes: What to know of them; see `Answer.notes`.
        found: The candidates themselves, where a store found them; there are no `rows` then.
        rerank_scores: The answers of the head that they are in the order of; None where they are in that of the scores.
    """

    rows: IntArray
    scores: FloatArray
    basis: Basis
    notes: tuple[str, ...] = ()
    found: pa.Table | None = None
    rerank_scores: FloatArray | None = None

    def take(self, places: IntArray) -> Ranked:
        """Those at some places, in that order."""
        return replace(
            self,
            rows=self.rows[places] if self.found is None else self.rows,
            scores=self.scores[places],
            found=None if self.found is None else self.found.take(pa.array(places)),
            rerank_scores=None if self.rerank_scores is None else self.rerank_scores[places],
        )

    def ids(self, candidates: pa.Table, candidate_id: str) -> pa.Array:
        """The ids of what was found.

        Args:
            candidates: The catalogue that `rows` are of.
            candidate_id: Name of its id column.
        """
        if self.found is not None:
            return self.found[candidate_id].combine_chunks()
        return candidates[candidate_id].combine_chunks().take(pa.array(self.rows))


def answers_of(ranked: Sequence[Ranked], candidates: pa.Table, candidate_id: str, version: str) -> list[Answer]:
    """What was found, with the candidates' columns.

    Args:
        ranked: What was found for each request.
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
    """The head's answers; None for each where it was not asked."""
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
