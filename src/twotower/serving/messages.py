"""Request bodies and answers of the service, from which the OpenAPI document is generated."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from twotower.model.rerank import MOST_RERANKED
from twotower.retrieval.answers import Basis
from twotower.retrieval.explain import ScoreName
from twotower.retrieval.notes import Curve
from twotower.serving.settings import MAX_CONDITION_LENGTH, MAX_IDS, MAX_K, MAX_QUERIES, MAX_TEXT_LENGTH

Id: TypeAlias = int | str
K: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_K, description="Maximum number of candidates.")]
Diversity: TypeAlias = Annotated[
    float,
    Meta(
        ge=0,
        le=1,
        description="Weight of the difference between recommendations; 0 ignores it. Otherwise, the list is in the "
        "order of maximal marginal relevance.",
    ),
]
Reranked: TypeAlias = Annotated[
    int, Meta(ge=1, le=MOST_RERANKED, description="How many candidates to retrieve and re-rank; at least `k`.")
]
Ids: TypeAlias = Annotated[list[Id], Meta(max_length=MAX_IDS)]
Where: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_CONDITION_LENGTH,
        description='A condition on the candidates\' columns: `year >= 1990 and genres contains "Comedy"`.',
    ),
]
Like: TypeAlias = Annotated[
    str, Meta(max_length=MAX_TEXT_LENGTH, description="Text that the id or title must contain.")
]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=200, description="Maximum number of results.")]
Value: TypeAlias = bool | int | float | str | Annotated[list[int | float | str | None], Meta(max_length=MAX_IDS)] | None
Query: TypeAlias = Annotated[
    dict[str, Value],
    Meta(
        description="Columns of the query by name: its id; its time, in seconds or milliseconds since 1970 or as ISO "
        "8601 text; other columns that the query tower reads; `history`, the ids of candidates that it chose, latest "
        "last; and `exclude`, the ids of candidates to exclude. Nulls are ignored."
    ),
]
Row: TypeAlias = dict[str, Any]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body or parameters of a request; unknown fields are refused."""


class RerankBody(_Body, frozen=True):
    """How many candidates to retrieve, after all filters, and then sort by the bundle's re-ranking head."""

    n: Reranked


class RecommendBody(_Body, frozen=True):
    """A request for recommendations, for `query` or for each of `queries`."""

    query: Query | UnsetType = UNSET
    queries: Annotated[list[Query], Meta(min_length=1, max_length=MAX_QUERIES)] | UnsetType = UNSET
    k: K = 10
    exclude_seen: bool = True
    exclude: Ids = []
    allow: Ids | None = None
    where: Where | None = None
    diversity: Diversity = 0.0
    rerank: (
        Annotated[
            RerankBody | None,
            Meta(description="How many candidates to re-rank; null for none. Default: the bundle's number."),
        ]
        | UnsetType
    ) = UNSET


class ExplainBody(_Body, frozen=True):
    """A request to explain a candidate's retrieval score, or its rerank score, for a query."""

    query: Query
    candidate: Id
    score: ScoreName = "retrieval"


class SimilarParameters(_Body, frozen=True):
    """Query parameters of `similar`."""

    k: K = 10
    where: Where | None = None


class FindParameters(_Body, frozen=True):
    """Query parameters of a list."""

    like: Like = ""
    limit: Limit = 20


class HistoryParameters(_Body, frozen=True):
    """Query parameters of a history."""

    limit: Limit = 50


class NoParameters(_Body, frozen=True):
    """No query parameters."""


class Recommended(msgspec.Struct, frozen=True):
    """One recommended candidate: its id, score, title and row of the candidate table.

    `rerank_score` is the output of the re-ranking head; null if the list was not re-ranked.
    """

    id: Id
    score: float
    title: str
    candidate: Row
    rerank_score: float | None = None


class Recommendations(msgspec.Struct, frozen=True):
    """The recommendations for one query, best first, what they are based on, and notes as sentences."""

    basis: Basis
    recommendations: list[Recommended]
    notes: list[str] = []


class RecommendAnswer(msgspec.Struct, frozen=True):
    """Recommendations for every query, in the order of the request."""

    version: str
    answers: list[Recommendations]


class SimilarAnswer(msgspec.Struct, frozen=True):
    """Candidates whose embeddings point in a similar direction; scores are cosines."""

    version: str
    candidate: Id
    title: str
    recommendations: list[Recommended]


class Share(msgspec.Struct, frozen=True):
    """What one feature adds to a score."""

    name: str
    value: float


class HistoryShare(msgspec.Struct, frozen=True):
    """What one candidate of the query's history adds to a score."""

    id: Id
    title: str
    value: float


class ExplainAnswer(msgspec.Struct, frozen=True):
    """A score and its contributions; all values and the bias add up to the score."""

    version: str
    id: Id
    title: str
    score: float
    bias: float
    query: list[Share]
    candidate: list[Share]
    history: list[HistoryShare]
    method: str


class Found(msgspec.Struct, frozen=True):
    """One query or candidate of a list: its id, its title and its row."""

    id: Id
    title: str
    row: Row


class FoundAnswer(msgspec.Struct, frozen=True):
    """Queries or candidates whose id or title contains a text."""

    version: str
    found: list[Found]


class HistoryAnswer(msgspec.Struct, frozen=True):
    """What a query chose in training, latest first where times are known; `total` counts all choices."""

    version: str
    id: Id
    total: int
    history: list[Found]


class Column(msgspec.Struct, frozen=True):
    """One column, its kind and its values.

    Attributes:
        name: Its name.
        kind: `number`, `text`, `list`, `truth` or `other`.
        lowest: The lowest number.
        highest: The highest number.
        choices: Its distinct values, if there are few.
    """

    name: str
    kind: str
    lowest: float | None = None
    highest: float | None = None
    choices: list[str] = []


class Refused(msgspec.Struct, frozen=True):
    """A new bundle that was refused."""

    at: str
    reason: str


class Metric(msgspec.Struct, frozen=True):
    """Test scores of the model or a baseline, by metric: `all` excludes nothing, `unseen` excludes seen candidates."""

    name: str
    all: dict[str, float]
    unseen: dict[str, float]


class Reranking(msgspec.Struct, frozen=True):
    """The default number of candidates to re-rank, and the model's task that re-ranks them."""

    n: int
    by: str


class ModelAnswer(msgspec.Struct, frozen=True):
    """The bundle being served."""

    version: str
    library: str
    data: str
    query_id: str
    candidate_id: str
    title: str
    queries: int
    candidates: int
    index: str
    recall: float | None
    revision: int
    loaded_at: str
    reads: list[Column]
    reads_history: bool
    columns: list[Column]
    metrics: list[Metric]
    remarks: list[str]
    last_refused: Refused | None
    rerank: Reranking | None = None


class StudyAnswer(msgspec.Struct, frozen=True):
    """Curves of a study's variants, or of the training run if there was no study; empty if neither was stored."""

    version: str
    metric: str
    curves: list[Curve]
    baselines: dict[str, float]
    remarks: list[str]


class ReloadAnswer(msgspec.Struct, frozen=True):
    """The version served after a reload, and whether it changed."""

    version: str
    changed: bool


class HealthAnswer(msgspec.Struct, frozen=True):
    """Status of the service."""

    status: str
    version: str


class ErrorDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request failed: a code for programs, a message for people, and the field it is about."""

    code: str
    message: str
    field: str | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The common shape of all errors."""

    error: ErrorDetails
    version: str
