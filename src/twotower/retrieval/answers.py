"""What is asked of a retriever besides the queries, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from twotower.retrieval.index import IntArray

FloatArray = npt.NDArray[np.float32]

Basis: TypeAlias = Literal["query", "features", "popularity", "candidate"]


class Filters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may be found; see `Retriever.recommend`.

    Attributes:
        exclude_seen: Leave out what a query has chosen.
        exclude: Ids to leave out.
        allow: The only ids that may be found; None for all.
        where: A condition on the candidates' columns.
    """

    exclude_seen: bool = False
    exclude: tuple[int | str, ...] = ()
    allow: tuple[int | str, ...] | None = None
    where: str | None = None

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
    """

    id: int | str
    score: float
    candidate: dict[str, Any]


class Answer(msgspec.Struct, frozen=True):
    """What was found for one request; a sequence of its recommendations.

    Attributes:
        recommendations: The best first.
        basis: What they are based on. `query`: the id is known. `features`: it is not, and the request brings a
            history or another column that the query tower reads. `popularity`: nothing is known; these are the
            candidates with the most training events, which are their scores. `candidate`: similar ones; scores are
            cosines.
        version: Version id of the bundle.
    """

    recommendations: list[Recommendation]
    basis: Basis
    version: str

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
    """

    rows: IntArray
    scores: FloatArray
    basis: Basis
