"""Handlers of all endpoints, and `ENDPOINTS`, from which routes and the OpenAPI document are generated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import UNSET

from twotower.errors import ConfigError, DataError, TwoTowerError, UnknownCandidateError
from twotower.retrieval.answers import Answer
from twotower.retrieval.retriever import Retriever
from twotower.serving.answers import (
    ExplainAnswer,
    FoundAnswer,
    HealthAnswer,
    HistoryAnswer,
    HistoryShare,
    ModelAnswer,
    RecommendAnswer,
    Recommendations,
    ReloadAnswer,
    Share,
    SimilarAnswer,
    StudyAnswer,
)
from twotower.serving.description import Titles
from twotower.serving.endpoints import Call, Endpoint
from twotower.serving.engine import Wanted
from twotower.serving.messages import (
    ExplainBody,
    FindParameters,
    HistoryParameters,
    RecommendBody,
    SimilarParameters,
)
from twotower.serving.refusals import Refusal
from twotower.serving.replies import Reply, json_of


async def recommend(call: Call) -> Reply:
    """Recommendations for one or many queries."""
    body: RecommendBody = call.body
    if (body.query is UNSET) == (body.queries is UNSET):
        raise Refusal(400, "invalid", "expected either `query` or `queries`", "query")
    queries = [body.query] if body.queries is UNSET else body.queries
    allow = None if body.allow is None else tuple(body.allow)
    wanted = Wanted(
        k=body.k,
        exclude_seen=body.exclude_seen,
        exclude=tuple(body.exclude),
        allow=allow,
        where=body.where,
        diversity=body.diversity,
        rerank="default" if body.rerank is UNSET else None if body.rerank is None else body.rerank.n,
    )
    try:
        reply, bases = await call.backend.engine.recommend(queries, wanted, _recommended)  # type: ignore[arg-type]
    except (ConfigError, DataError) as error:
        raise _refused(error, many=body.queries is not UNSET) from error
    call.backend.metrics.based_on(bases)
    return Reply(reply)


def _recommended(retriever: Retriever, found: list[Answer]) -> tuple[bytes, list[str]]:
    """The answer as JSON, encoded in the engine's thread, and the basis of each of its parts."""
    titles = Titles(retriever)
    answers = [Recommendations(one.basis, titles.recommended(one.recommendations), list(one.notes)) for one in found]
    return json_of(RecommendAnswer(retriever.version, answers)), [one.basis for one in found]


def _refused(error: TwoTowerError, *, many: bool = False) -> Refusal:
    """The refusal that names the part of the request that an error is about.

    Args:
        error: The error.
        many: Whether the request has a list of queries.
    """
    field = error.field or "query"
    if field == "query":
        place = f"queries[{error.row}]" if many and error.row is not None else "queries" if many else "query"
        field = place if error.column is None else f"{place}.{error.column}"
    return Refusal(400, "invalid", str(error), field)


async def similar(call: Call) -> Reply:
    """Candidates whose embeddings are close to that of one candidate."""
    parameters: SimilarParameters = call.parameters
    candidate_id = call.id

    def found(retriever: Retriever) -> bytes:
        titles = Titles(retriever)
        (candidate,) = titles.candidates([retriever.ids.value(retriever.candidate_row(candidate_id))])
        answer = retriever.similar(candidate.id, parameters.k, where=parameters.where)
        named = titles.recommended(answer.recommendations)
        return json_of(SimilarAnswer(retriever.version, candidate.id, candidate.title, named))

    return Reply(await _found(call, found))


async def explain(call: Call) -> Reply:
    """Contributions of features and history items to a score."""
    body: ExplainBody = call.body

    def found(retriever: Retriever) -> bytes:
        titles = Titles(retriever)
        (candidate,) = titles.candidates([retriever.ids.value(retriever.candidate_row(body.candidate))])
        explanation = retriever.explain(body.query, candidate.id, body.score)
        chosen = titles.candidates([one.id for one in explanation.history])
        return json_of(
            ExplainAnswer(
                version=retriever.version,
                id=candidate.id,
                title=candidate.title,
                score=explanation.score,
                bias=explanation.bias,
                query=[Share(one.feature, one.value) for one in explanation.query],
                candidate=[Share(one.feature, one.value) for one in explanation.candidate],
                history=[
                    HistoryShare(one.id, shown.title, one.value)
                    for one, shown in zip(explanation.history, chosen, strict=True)
                ],
                method=explanation.method,
            )
        )

    return Reply(await _found(call, found))


async def _found(call: Call, found: Callable[[Retriever], bytes]) -> bytes:
    """What a function finds in the retriever; what it refuses becomes the answer."""
    try:
        answer: bytes = await call.backend.engine.run(found)
    except UnknownCandidateError:
        raise
    except (ConfigError, DataError) as error:
        raise _refused(error) from error
    return answer


async def find_queries(call: Call) -> Reply:
    """Queries whose id contains a text."""
    parameters: FindParameters = call.parameters
    loaded = call.backend.served.current
    found = await asyncio.to_thread(loaded.description.find_queries, parameters.like, parameters.limit)
    return Reply(json_of(FoundAnswer(loaded.version, found)))


async def find_candidates(call: Call) -> Reply:
    """Candidates whose id or title contains a text."""
    parameters: FindParameters = call.parameters
    loaded = call.backend.served.current
    found = await asyncio.to_thread(loaded.description.find_candidates, parameters.like, parameters.limit)
    return Reply(json_of(FoundAnswer(loaded.version, found)))


async def history(call: Call) -> Reply:
    """What a query chose in training."""
    loaded = call.backend.served.current
    retriever, name = loaded.retriever, loaded.retriever.details.query_id
    row = retriever.requests.row({name: call.id})
    if row is None:
        raise Refusal(404, "unknown_query", f"{name} {call.id!r} is not among the queries of this bundle", "id")
    query_id = retriever.requests.ids.value(row)
    chosen = retriever.history_of(query_id)
    shown = loaded.description.candidates(chosen[: call.parameters.limit])
    return Reply(json_of(HistoryAnswer(loaded.version, query_id, len(chosen), shown)))


async def model(call: Call) -> Reply:
    """The served bundle: version, columns, scores next to the baselines."""
    served = call.backend.served
    loaded = served.current
    return Reply(json_of(loaded.description.model(loaded.at, served.last_refused)))


async def study(call: Call) -> Reply:
    """Curves of the study that the model comes from, or of its training."""
    return Reply(json_of(call.backend.served.current.description.study))


async def reload(call: Call) -> Reply:
    """Loads, checks and warms up the bundle that is now at the path, and serves it; a bad one is refused."""
    served = call.backend.served
    try:
        changed = await asyncio.shield(asyncio.to_thread(served.reload_all))
    except TwoTowerError as error:
        raise Refusal(422, "bundle_refused", str(error)) from error
    return Reply(json_of(ReloadAnswer(served.current.version, changed)))


async def live(call: Call) -> Reply:
    """Whether the process answers at all."""
    return Reply(json_of(HealthAnswer("live", call.backend.served.current.version)))


async def ready(call: Call) -> Reply:
    """Whether to send requests here; not while the service is shutting down."""
    if call.backend.draining:
        raise Refusal(503, "draining", "the service is shutting down; use another one")
    return Reply(json_of(HealthAnswer("ready", call.backend.served.current.version)))


async def metrics(call: Call) -> Reply:
    """Counts and durations in Prometheus's format."""
    return Reply(call.backend.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")


ENDPOINTS = (
    Endpoint("POST", "/v1/recommend", recommend, "Recommend", RecommendAnswer, RecommendBody, refusals=(413, 415)),
    Endpoint(
        "GET",
        "/v1/similar/{id:path}",
        similar,
        "Similar candidates",
        SimilarAnswer,
        parameters=SimilarParameters,
        refusals=(404,),
        id_of="candidate",
    ),
    Endpoint("POST", "/v1/explain", explain, "Explain a score", ExplainAnswer, ExplainBody, refusals=(404, 413, 415)),
    Endpoint("GET", "/v1/model", model, "Describe the served bundle", ModelAnswer),
    Endpoint("GET", "/v1/queries", find_queries, "Find queries", FoundAnswer, parameters=FindParameters),
    Endpoint("GET", "/v1/candidates", find_candidates, "Find candidates", FoundAnswer, parameters=FindParameters),
    Endpoint(
        "GET",
        "/v1/history/{id:path}",
        history,
        "History of a query",
        HistoryAnswer,
        parameters=HistoryParameters,
        refusals=(404,),
        id_of="query",
    ),
    Endpoint("GET", "/v1/study", study, "Curves of the study or the training run", StudyAnswer),
    Endpoint(
        "POST",
        "/v1/reload",
        reload,
        "Reload the bundle from its path",
        ReloadAnswer,
        refusals=(403, 422),
        changes=True,
    ),
    Endpoint("GET", "/v2/health/live", live, "Liveness", HealthAnswer, guarded=False),
    Endpoint("GET", "/v2/health/ready", ready, "Readiness", HealthAnswer, guarded=False),
    Endpoint("GET", "/metrics", metrics, "Metrics for Prometheus", None),
)
