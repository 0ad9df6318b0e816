"""Answers of the service, from which the OpenAPI document is generated."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from twotower.retrieval.answers import Basis
from twotower.retrieval.notes import Curve
from twotower.serving.messages import Id

Row: TypeAlias = dict[str, Any]


class Recommended(msgspec.Struct, frozen=True):
    """One recommended candidate.

    Attributes:
        id: Its id.
        score: Its retrieval score, or the cosine of its similarity.
        title: Its title; its id if it has none.
        candidate: Its row of the candidate table.
        rerank_score: The output of the re-ranking head; null if the list was not re-ranked.
    """

    id: Id
    score: float
    title: str
    candidate: Row
    rerank_score: float | None = None


class Recommendations(msgspec.Struct, frozen=True):
    """The recommendations for one query.

    Attributes:
        basis: What the scores are based on: a known query, its columns alone, or popularity.
        recommendations: The candidates, best first.
        notes: Remarks on the request as sentences, for example that its time is outside the training range.
    """

    basis: Basis
    recommendations: list[Recommended]
    notes: list[str] = []


class RecommendAnswer(msgspec.Struct, frozen=True):
    """Recommendations for every query.

    Attributes:
        version: Version of the bundle that answers.
        answers: The recommendations for each query, in the order of the request.
    """

    version: str
    answers: list[Recommendations]


class SimilarAnswer(msgspec.Struct, frozen=True):
    """Candidates whose embeddings point in a similar direction.

    Attributes:
        version: Version of the bundle that answers.
        candidate: Id of the candidate that they are similar to.
        title: Its title.
        recommendations: The candidates, most similar first; scores are cosines.
    """

    version: str
    candidate: Id
    title: str
    recommendations: list[Recommended]


class Share(msgspec.Struct, frozen=True):
    """What one feature adds to a score.

    Attributes:
        name: Name of the feature.
        value: What it adds.
    """

    name: str
    value: float


class HistoryShare(msgspec.Struct, frozen=True):
    """What one candidate of the query's history adds to a score.

    Attributes:
        id: Id of the candidate.
        title: Its title.
        value: What it adds.
    """

    id: Id
    title: str
    value: float


class ExplainAnswer(msgspec.Struct, frozen=True):
    """A score and its contributions; all values and the bias add up to the score.

    Attributes:
        version: Version of the bundle that answers.
        id: Id of the candidate.
        title: Its title.
        score: The score.
        bias: The score without any features.
        query: Contributions of the query tower's features.
        candidate: Contributions of the candidate tower's features.
        history: Contributions of the candidates in the query's history.
        method: Which parts are exact and which approximate, as a sentence.
    """

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
    """One query or candidate of a list.

    Attributes:
        id: Its id.
        title: Its title; its id if it has none.
        row: Its row of the table.
    """

    id: Id
    title: str
    row: Row


class FoundAnswer(msgspec.Struct, frozen=True):
    """Queries or candidates whose id or title contains a text.

    Attributes:
        version: Version of the bundle that answers.
        found: The queries or candidates.
    """

    version: str
    found: list[Found]


class HistoryAnswer(msgspec.Struct, frozen=True):
    """What a query chose in training.

    Attributes:
        version: Version of the bundle that answers.
        id: Id of the query.
        total: How many choices it made.
        history: The chosen candidates, latest first where times are known; at most `limit`.
    """

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
    """A new bundle that was refused.

    Attributes:
        at: When it was refused, in ISO 8601.
        reason: Why it was refused.
    """

    at: str
    reason: str


class Metric(msgspec.Struct, frozen=True):
    """Test scores of the model or a baseline, by metric.

    Attributes:
        name: `model`, or the name of the baseline.
        all: Scores with nothing excluded.
        unseen: Scores with what the query chose in training excluded.
    """

    name: str
    all: dict[str, float]
    unseen: dict[str, float]


class Reranking(msgspec.Struct, frozen=True):
    """How the bundle re-ranks.

    Attributes:
        n: The default number of candidates to re-rank.
        by: The model's task that re-ranks them.
    """

    n: int
    by: str


class ModelAnswer(msgspec.Struct, frozen=True):
    """The bundle being served.

    Attributes:
        version: Version of the bundle.
        library: Version of twotower.
        data: Name of the data.
        query_id: Column of the query ids.
        candidate_id: Column of the candidate ids.
        title: Column that is displayed for a candidate.
        queries: Number of known queries.
        candidates: Number of candidates.
        index: Kind of the index, or of the store.
        recall: Recall of the index or store against exact search; null if it is exact.
        revision: How many times candidates were added, changed or withdrawn.
        loaded_at: When the bundle was loaded, in ISO 8601.
        reads: Columns that the query tower reads, besides the id, the time and the history.
        reads_history: Whether the query tower reads a history.
        columns: Columns of the candidate table.
        metrics: Test scores of the model and the baselines.
        remarks: Remarks on the scores, as sentences.
        last_refused: The last new bundle that was refused; null if there was none.
        rerank: How the bundle re-ranks; null if it does not.
    """

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
    """Curves of a study's variants, or of the training run if there was no study; empty if neither was stored.

    Attributes:
        version: Version of the bundle that answers.
        metric: The metric of the curves.
        curves: One curve per variant.
        baselines: The same metric for each baseline.
        remarks: Conclusions, as sentences.
    """

    version: str
    metric: str
    curves: list[Curve]
    baselines: dict[str, float]
    remarks: list[str]


class ReloadAnswer(msgspec.Struct, frozen=True):
    """The bundle served after a reload.

    Attributes:
        version: Version of the bundle.
        changed: Whether it changed.
    """

    version: str
    changed: bool


class HealthAnswer(msgspec.Struct, frozen=True):
    """Status of the service.

    Attributes:
        status: `live` or `ready`.
        version: Version of the bundle being served.
    """

    status: str
    version: str


class ErrorDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request failed.

    Attributes:
        code: A code for programs.
        message: What was found and what was expected, for people.
        field: The field it is about, such as `where` or `query.age`, if it is about one.
    """

    code: str
    message: str
    field: str | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The common shape of all errors.

    Attributes:
        error: Why the request failed.
        version: Version of the bundle being served.
    """

    error: ErrorDetails
    version: str
