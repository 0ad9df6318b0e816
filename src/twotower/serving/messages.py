"""Bodies and answers of the service; the OpenAPI description is made of them."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from twotower.model.rerank import MOST_RERANKED
from twotower.retrieval.answers import Basis
from twotower.retrieval.explain import ScoreName
from twotower.retrieval.notes import Curve
from twotower.serving.settings import LARGEST_BATCH, LARGEST_K, LONGEST_CONDITION, LONGEST_LIST, LONGEST_TEXT

Id: TypeAlias = int | str
K: TypeAlias = Annotated[int, Meta(ge=1, le=LARGEST_K, description="How many candidates, at most.")]
Diversity: TypeAlias = Annotated[
    float,
    Meta(
        ge=0,
        le=1,
        description="How much it counts that recommendations are unlike each other: 0 for not at all. The list is "
        "then in the order of maximal marginal relevance.",
    ),
]
Reranked: TypeAlias = Annotated[
    int, Meta(ge=1, le=MOST_RERANKED, description="How many candidates are retrieved and re-ranked; at least `k` are.")
]
Ids: TypeAlias = Annotated[list[Id], Meta(max_length=LONGEST_LIST)]
Where: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST_CONDITION,
        description='A condition on the candidates\' columns: `year >= 1990 and genres contains "Comedy"`.',
    ),
]
Like: TypeAlias = Annotated[str, Meta(max_length=LONGEST_TEXT, description="What the id or title has to contain.")]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=200, description="How many, at most.")]
Value: TypeAlias = (
    bool | int | float | str | Annotated[list[int | float | str | None], Meta(max_length=LONGEST_LIST)] | None
)
Query: TypeAlias = Annotated[
    dict[str, Value],
    Meta(
        description="Columns of the query by name: its id; its time, in seconds since 1970 or as text in ISO 8601; "
        "what else the query tower reads; as `history` the ids of candidates that it chose, the latest last; and as "
        "`exclude` those that it does not want. A null counts as not named."
    ),
]
Row: TypeAlias = dict[str, Any]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request brings; other fields are refused."""


class RerankBody(_Body, frozen=True):
    """How many candidates are retrieved, after all filters, and put in the order of the bundle's re-ranking head."""

    n: Reranked


class RecommendBody(_Body, frozen=True):
    """Asks for recommendations: for `query`, or for each of `queries`."""

    query: Query | UnsetType = UNSET
    queries: Annotated[list[Query], Meta(min_length=1, max_length=LARGEST_BATCH)] | UnsetType = UNSET
    k: K = 10
    exclude_seen: bool = True
    exclude: Ids = []
    allow: Ids | None = None
    where: Where | None = None
    diversity: Diversity = 0.0
    rerank: (
        Annotated[
            RerankBody | None,
            Meta(description="How many candidates to re-rank; null: none. Left out: as many as the bundle says."),
        ]
        | UnsetType
    ) = UNSET


class ExplainBody(_Body, frozen=True):
    """Asks why a candidate has its score of retrieval, or its rerank score, for a query."""

    query: Query
    candidate: Id
    score: ScoreName = "retrieval"


class SimilarParameters(_Body, frozen=True):
    """What the address of `similar` may carry."""

    k: K = 10
    where: Where | None = None


class FindParameters(_Body, frozen=True):
    """What the address of a list may carry."""

    like: Like = ""
    limit: Limit = 20


class HistoryParameters(_Body, frozen=True):
    """What the address of a history may carry."""

    limit: Limit = 50


class NoParameters(_Body, frozen=True):
    """Nothing."""


class Recommended(msgspec.Struct, frozen=True):
    """One recommended candidate: its id, score, title and row of the candidate table.

    `rerank_score` is the answer of the re-ranking head; null where the list was not re-ranked.
    """

    id: Id
    score: float
    title: str
    candidate: Row
    rerank_score: float | None = None


class Recommendations(msgspec.Struct, frozen=True):
    """What was found for one query, the best first, what that is based on, and what to know of it, in sentences."""

    basis: Basis
    recommendations: list[Recommended]
    notes: list[str] = []


class RecommendAnswer(msgspec.Struct, frozen=True):
    """Recommendations of every query asked for, in the order of the request."""

    version: str
    answers: list[Recommendations]


class SimilarAnswer(msgspec.Struct, frozen=True):
    """Candidates whose embeddings point the same way; scores are cosines."""

    version: str
    candidate: Id
    title: str
    recommendations: list[Recommended]


class Share(msgspec.Struct, frozen=True):
    """What one feature, or one candidate of the history, adds to a score."""

    name: str
    value: float


class HistoryShare(msgspec.Struct, frozen=True):
    """What one candidate of the query's history adds to a score."""

    id: Id
    title: str
    value: float


class ExplainAnswer(msgspec.Struct, frozen=True):
    """What a score is made of; all values and the bias add up to it."""

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
    """One query or candidate of a list: its id, what to show for it, and its row."""

    id: Id
    title: str
    row: Row


class FoundAnswer(msgspec.Struct, frozen=True):
    """Queries or candidates whose id or title contains a text."""

    version: str
    found: list[Found]


class HistoryAnswer(msgspec.Struct, frozen=True):
    """What a query has chosen in training, the latest first where times are known; `total` counts all."""

    version: str
    id: Id
    total: int
    history: list[Found]


class Column(msgspec.Struct, frozen=True):
    """One column: what kind of values it has, and which.

    Attributes:
        name: Its name.
        kind: `number`, `text`, `list`, `truth` or `other`.
        lowest: Of numbers.
        highest: Of numbers.
        choices: Its values, where there are few.
    """

    name: str
    kind: str
    lowest: float | None = None
    highest: float | None = None
    choices: list[str] = []


class Refused(msgspec.Struct, frozen=True):
    """A bundle that was offered and refused."""

    at: str
    reason: str


class Metric(msgspec.Struct, frozen=True):
    """Scores of the model or a baseline on test, by metric, with nothing excluded and with what was seen excluded."""

    name: str
    all: dict[str, float]
    unseen: dict[str, float]


class Reranking(msgspec.Struct, frozen=True):
    """How many candidates are re-ranked unless a request says otherwise, and by which task of the model."""

    n: int
    by: str


class ModelAnswer(msgspec.Struct, frozen=True):
    """What is being served."""

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
    """Curves of the variants of a study, or of the one training where there was none; empty where nothing was kept."""

    version: str
    metric: str
    curves: list[Curve]
    baselines: dict[str, float]
    remarks: list[str]


class ReloadAnswer(msgspec.Struct, frozen=True):
    """What is served after a reload, and whether that is another bundle than before."""

    version: str
    changed: bool


class HealthAnswer(msgspec.Struct, frozen=True):
    """How the service is."""

    status: str
    version: str


class ErrorDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request was not answered: a word for programs, a sentence for people, and what it is about."""

    code: str
    message: str
    field: str | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The one shape of all errors."""

    error: ErrorDetails
    version: str
