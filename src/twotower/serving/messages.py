"""Bodies and parameters of requests, from which the OpenAPI document is generated."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from twotower.model.rerank import MOST_RERANKED
from twotower.retrieval.explain import ScoreName
from twotower.serving.settings import MAX_CONDITION_LENGTH, MAX_IDS, MAX_K, MAX_QUERIES, MAX_TEXT_LENGTH

Id: TypeAlias = int | str
K: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_K)]
Diversity: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Reranked: TypeAlias = Annotated[int, Meta(ge=1, le=MOST_RERANKED)]
Ids: TypeAlias = Annotated[list[Id], Meta(max_length=MAX_IDS)]
Where: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_CONDITION_LENGTH)]
Like: TypeAlias = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=200)]
Value: TypeAlias = bool | int | float | str | Annotated[list[int | float | str | None], Meta(max_length=MAX_IDS)] | None
Query: TypeAlias = dict[str, Value]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body or parameters of a request; unknown fields are refused."""


class RerankBody(_Body, frozen=True):
    """How many candidates to retrieve, after all filters, and then sort by the bundle's re-ranking head.

    Attributes:
        n: How many candidates to retrieve and re-rank; at least `k`.
    """

    n: Reranked


class RecommendBody(_Body, frozen=True):
    """A request for recommendations, for `query` or for each of `queries`.

    Attributes:
        query: Columns of the query by name: its id; its time, in seconds or milliseconds since 1970 or as ISO 8601
            text; other columns that the query tower reads; `history`, the ids of candidates that it chose, latest last;
            and `exclude`, the ids of candidates to exclude. Nulls are ignored.
        queries: Several queries, each like `query`.
        k: Maximum number of recommendations per query.
        exclude_seen: Exclude what the query chose in training, and its `history`.
        exclude: Ids of candidates to exclude; unknown ids are ignored.
        allow: Ids of the only candidates that may be recommended; null for all.
        where: A condition on the candidates' columns: `year >= 1990 and genres contains "Comedy"`.
        diversity: Weight of the difference between recommendations; 0 ignores it. Otherwise, the list is in the order
            of maximal marginal relevance.
        rerank: How many candidates to re-rank; null for none. Default: the bundle's number.
    """

    query: Query | UnsetType = UNSET
    queries: Annotated[list[Query], Meta(min_length=1, max_length=MAX_QUERIES)] | UnsetType = UNSET
    k: K = 10
    exclude_seen: bool = True
    exclude: Ids = []
    allow: Ids | None = None
    where: Where | None = None
    diversity: Diversity = 0.0
    rerank: RerankBody | UnsetType | None = UNSET


class ExplainBody(_Body, frozen=True):
    """A request to explain a candidate's retrieval score, or its rerank score, for a query.

    Attributes:
        query: Columns of the query by name, as in `RecommendBody`.
        candidate: Id of the candidate.
        score: Which score to explain.
    """

    query: Query
    candidate: Id
    score: ScoreName = "retrieval"


class SimilarParameters(_Body, frozen=True):
    """Query parameters of `similar`.

    Attributes:
        k: Maximum number of candidates.
        where: A condition on the candidates' columns: `year >= 1990`.
    """

    k: K = 10
    where: Where | None = None


class FindParameters(_Body, frozen=True):
    """Query parameters of a list.

    Attributes:
        like: Text that the id or title must contain, in any case; empty for the first rows of the table.
        limit: Maximum number of results.
    """

    like: Like = ""
    limit: Limit = 20


class HistoryParameters(_Body, frozen=True):
    """Query parameters of a history.

    Attributes:
        limit: Maximum number of choices.
    """

    limit: Limit = 50


class NoParameters(_Body, frozen=True):
    """No query parameters."""
