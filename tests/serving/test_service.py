"""What the service answers, and how it refuses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from twotower import Retriever

Clients = Callable[..., Any]


@pytest.fixture
def client(saved_bundle: Path, client_of: Clients) -> Any:
    return client_of(saved_bundle)


def refusal(answer: Any) -> tuple[int, str, str | None]:
    """Status, code and field, of an answer in the one shape of errors."""
    read = answer.json()
    assert set(read) == {"error", "version"}
    assert set(read["error"]) <= {"code", "message", "field"}
    assert read["error"]["message"]
    return answer.status_code, read["error"]["code"], read["error"].get("field")


def test_it_answers_what_the_bundle_answers(client: Any, retriever: Retriever) -> None:
    body = {"query": {"user": 3}, "k": 4, "exclude": [1, 2, 999], "where": "year >= 1992"}
    answer = client.post("/v1/recommend", json=body)
    expected = retriever.recommend({"user": 3}, 4, exclude_seen=True, exclude=[1, 2], where="year >= 1992")
    assert answer.status_code == 200
    read = answer.json()
    assert read["version"] == retriever.version
    (only,) = read["answers"]
    assert only["basis"] == "query"
    assert [one["id"] for one in only["recommendations"]] == [one.id for one in expected]
    assert [one["candidate"] for one in only["recommendations"]] == [one.candidate for one in expected]
    assert [one["score"] for one in only["recommendations"]] == pytest.approx([one.score for one in expected])
    assert only["recommendations"][0]["title"] == expected[0].candidate["title"]


@pytest.mark.parametrize("value", [True, 1.5, [1], "x"])
def test_what_cannot_be_an_id_is_refused_wherever_it_comes_in(client: Any, value: Any) -> None:
    for query in ({"user": value}, {"user": value, "history": [1]}):
        answer = client.post("/v1/recommend", json={"queries": [{"user": 1}, query]})
        assert refusal(answer) == (400, "invalid", "queries[1].user")
        assert "expected an id, which is a whole number" in answer.json()["error"]["message"]
        assert refusal(client.post("/v1/explain", json={"query": query, "candidate": 1}))[0] == 400
    if value != "x":
        for body in ({"exclude": [value]}, {"allow": [value]}, {"query": {"history": [value]}}):
            assert refusal(client.post("/v1/recommend", json={"query": {"user": 1}} | body))[0] == 400
        assert refusal(client.post("/v1/explain", json={"query": {"user": 1}, "candidate": value}))[0] == 400


def test_a_null_is_not_named_and_times_are_read_as_people_write_them(client: Any) -> None:
    def ids(query: dict[str, Any], basis: str = "query") -> list[int]:
        (answer,) = client.post("/v1/recommend", json={"query": query}).json()["answers"]
        assert answer["basis"] == basis
        return [one["id"] for one in answer["recommendations"]]

    plain = ids({"user": 3})
    for column in ("at", "city", "history"):
        assert ids({"user": 3, column: None}) == plain
    assert ids({"user": 3, "at": "1970-01-01T00:10:00Z"}) == ids({"user": 3, "at": 600})
    assert ids({"user": 3, "at": 1_700_000_000_000}) == ids({"user": 3, "at": 1_700_000_000})  # as in a log
    negative = client.post("/v1/recommend", json={"query": {"user": 3, "at": -5}})
    assert refusal(negative) == (400, "invalid", "query.at")
    assert "'at' of the query: -5" in negative.json()["error"]["message"]


def test_many_queries_are_answered_in_their_order(client: Any) -> None:
    queries = [{"user": 1}, {"user": 2}, {"user": 999}, {"history": [3, 8]}, {}]
    read = client.post("/v1/recommend", json={"queries": queries, "k": 3, "exclude_seen": False}).json()
    assert [one["basis"] for one in read["answers"]] == ["query", "query", "popularity", "features", "popularity"]
    for query, answer in zip(queries, read["answers"], strict=True):
        alone = client.post("/v1/recommend", json={"query": query, "k": 3, "exclude_seen": False}).json()
        assert [one["id"] for one in alone["answers"][0]["recommendations"]] == [
            one["id"] for one in answer["recommendations"]
        ]


def test_an_allow_list_leaves_only_what_it_names(client: Any) -> None:
    body = {"query": {"user": 3}, "allow": [4, 9, 999], "exclude_seen": False}
    (answer,) = client.post("/v1/recommend", json=body).json()["answers"]
    assert sorted(one["id"] for one in answer["recommendations"]) == [4, 9]


def test_each_of_several_queries_may_exclude_for_itself(client: Any) -> None:
    body = {"queries": [{"user": 3}, {"user": 3, "exclude": [4, 9]}], "k": 100, "exclude_seen": False}
    first, second = client.post("/v1/recommend", json=body).json()["answers"]
    found = [[one["id"] for one in answer["recommendations"]] for answer in (first, second)]
    assert found[1] == [candidate for candidate in found[0] if candidate not in (4, 9)]


def test_a_list_may_be_diverse(client: Any, retriever: Retriever) -> None:
    body = {"query": {"user": 3}, "k": 6, "diversity": 0.6}
    (answer,) = client.post("/v1/recommend", json=body).json()["answers"]
    own = [one.id for one in retriever.recommend(3, 6, diversity=0.6)]
    assert [one["id"] for one in answer["recommendations"]] == own
    assert own != [one.id for one in retriever.recommend(3, 6)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"query": {"user": 1}, "k": 0}', "k"),
        (b'{"query": {"user": 1}, "k": 1001}', "k"),
        (b'{"query": {"user": 1}, "k": "ten"}', "k"),
        (b'{"query": {"user": 1}, "limit": 5}', "limit"),
        (b'{"query": {"user": {"id": 1}}}', "query.user"),
        (b'{"query": {"planet": "Mars"}}', "query.planet"),
        (b'{"query": {"history": "war"}}', "query.history"),
        (b'{"query": {"history": ["war"]}}', "query.history"),
        (b'{"queries": [{"user": 1}, {"user": 2, "at": -5}]}', "queries[1].at"),
        (b'{"queries": [{"user": 1}, {"planet": "Mars"}]}', "queries[1].planet"),
        (b'{"query": {"user": 1}, "where": "year >"}', "where"),
        (b'{"query": {"user": 1}, "where": "planet = 1"}', "where"),
        (b'{"query": {"user": 1}, "where": ""}', "where"),
        (b'{"query": {"user": 1}, "exclude": ["war"]}', "exclude"),
        (b'{"query": {"user": 1}, "allow": ["war"]}', "allow"),
        (b'{"query": {"user": 1}, "diversity": 1.1}', "diversity"),
        (b'{"query": {"user": 1, "exclude": 3}}', "query.exclude"),
        (b'{"query": {"user": 1}, "queries": []}', "queries"),
        (b'{"query": {"user": 1}, "queries": [{}]}', "query"),
        (b"{}", "query"),
        (b"[]", None),
    ],
)
def test_a_request_that_cannot_be_used_is_told_why(client: Any, body: bytes, field: str | None) -> None:
    answer = client.post("/v1/recommend", content=body, headers={"content-type": "application/json"})
    assert refusal(answer) == (400, "invalid", field)


@pytest.mark.parametrize("body", [b"", b"{", b'{"query": {"user": NaN}}', b'"\xff"', b"[" * 100_000, b'{"a":' * 9000])
def test_what_is_no_json_is_refused(client: Any, body: bytes) -> None:
    answer = client.post("/v1/recommend", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert refusal(answer)[1] in ("not_json", "invalid")


def test_a_body_has_to_be_json_and_short(client: Any, saved_bundle: Path, client_of: Clients) -> None:
    assert refusal(client.post("/v1/recommend", content=b"{}"))[:2] == (415, "unsupported_media_type")
    small = client_of(saved_bundle, body_bytes=100)
    headers = {"content-type": "application/json"}
    assert refusal(small.post("/v1/recommend", content=b" " * 101, headers=headers))[:2] == (413, "too_large")

    async def chunks() -> AsyncIterator[bytes]:  # of which no length is said
        yield b" " * 60
        yield b" " * 60

    assert refusal(small.post("/v1/recommend", content=chunks(), headers=headers))[:2] == (413, "too_large")
    assert small.post("/v1/recommend", json={"query": {"user": 1}}).status_code == 200


def test_addresses_that_are_not_there_and_other_methods(client: Any) -> None:
    assert refusal(client.get("/v1/nothing"))[:2] == (404, "not_found")
    answer = client.get("/v1/recommend")
    assert refusal(answer)[:2] == (405, "method_not_allowed")
    assert answer.headers["allow"] == "OPTIONS, POST"
    assert client.request("OPTIONS", "/v1/model").headers["allow"] == "GET, HEAD, OPTIONS"
    head = client.request("HEAD", "/v1/model")
    assert (head.status_code, head.content) == (200, b"")


def test_similar_candidates(client: Any, retriever: Retriever) -> None:
    read = client.get("/v1/similar/7", params={"k": 3, "where": "year > 1990"}).json()
    expected = retriever.similar(7, 3, where="year > 1990")
    assert [one["id"] for one in read["recommendations"]] == [one.id for one in expected]
    assert (read["candidate"], read["title"]) == (7, retriever.candidates["title"][7].as_py())
    assert refusal(client.get("/v1/similar/999")) == (404, "unknown_candidate", "candidate")
    assert refusal(client.get("/v1/similar/a/b"))[:2] == (404, "unknown_candidate")
    assert refusal(client.get("/v1/similar/7?k=0")) == (400, "invalid", "k")
    assert refusal(client.get("/v1/similar/7?k=1&k=2")) == (400, "invalid", "k")
    assert refusal(client.get("/v1/similar/7?where=year")) == (400, "invalid", "where")
    assert refusal(client.get("/v1/similar/7?colour=red")) == (400, "invalid", "colour")


def test_what_the_page_needs(client: Any, retriever: Retriever) -> None:
    found = client.get("/v1/queries?like=3&limit=3").json()["found"]
    assert [one["id"] for one in found] == [3, 13, 23]
    assert found[0]["row"] == {"user": 3, "city": "Ulm"}
    assert [one["id"] for one in client.get("/v1/candidates?like=NUMBER 2").json()["found"]] == [2, *range(20, 30)]
    history = client.get("/v1/history/3?limit=2").json()
    assert (history["id"], history["total"]) == (3, len(retriever.history_of(3)))
    assert [one["id"] for one in history["history"]] == retriever.history_of(3)[:2]
    assert refusal(client.get("/v1/history/999"))[:2] == (404, "unknown_query")
    study = client.get("/v1/study").json()
    assert (study["metric"], study["curves"]) == (
        "top_10",
        [{"name": "validation", "points": [[1.0, 0.1], [2.0, 0.2], [3.0, 0.3]]}],
    )


def test_the_model_says_what_can_be_filtered(client: Any, retriever: Retriever) -> None:
    model = client.get("/v1/model").json()
    assert (model["version"], model["candidates"], model["queries"]) == (retriever.version, 30, 40)
    columns = {column["name"]: column for column in model["columns"]}
    assert (columns["year"]["kind"], columns["year"]["lowest"], columns["year"]["highest"]) == ("number", 1990, 1994)
    assert (columns["genres"]["kind"], columns["genres"]["choices"]) == ("list", ["Comedy", "War"])
    assert [(column["name"], column["choices"]) for column in model["reads"]] == [("city", ["Bonn", "Ulm"])]
    assert model["metrics"] == [{"name": "model", "all": {"top_10": 0.4}, "unseen": {"top_10": 0.5}}]


def test_a_token_is_asked_for(saved_bundle: Path, client_of: Clients) -> None:
    client = client_of(saved_bundle, token="open-sesame")
    for path in ("/v1/model", "/metrics"):
        assert refusal(client.get(path))[:2] == (401, "unauthorized")
        for wrong in ("Bearer open", "Bearer", "Basic open-sesame", "open-sesame"):
            assert client.get(path, headers={"authorization": wrong}).status_code == 401
        assert client.get(path, headers={"authorization": "Bearer open-sesame"}).status_code == 200
    for path in ("/", "/page.js", "/v2/health/live", "/v2/health/ready", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_metrics_count_requests_and_fallbacks(client: Any, retriever: Retriever) -> None:
    client.post("/v1/recommend", json={"queries": [{"user": 1}, {}]})
    client.get("/v1/nothing")
    text = client.get("/metrics").text
    assert 'twotower_requests_total{method="POST",route="/v1/recommend",status="200"} 1.0' in text
    assert 'twotower_requests_total{method="GET",route="none",status="404"} 1.0' in text
    assert 'twotower_answers_total{basis="popularity"} 1.0' in text
    assert f'twotower_bundle{{version="{retriever.version}"}} 1.0' in text
    assert 'twotower_request_seconds_count{route="/v1/recommend"} 1.0' in text


def test_a_line_of_the_log_says_nothing_of_who_asked(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "twotower.serving")
    answer = client.post("/v1/recommend", json={"query": {"user": 31}}, headers={"x-request-id": "mine"})
    client.get("/v1/history/31")
    assert answer.headers["x-request-id"] == "mine"
    first, second = (record.fields for record in caplog.records if record.getMessage() == "request")  # type: ignore[attr-defined]
    assert (first["path"], first["status"], first["request"]) == ("/v1/recommend", 200, "mine")
    assert second["path"] == "/v1/history/{id:path}"
    assert "31" not in (str(first["path"]) + str(second["path"]))


def test_a_client_that_sends_its_body_too_slowly_is_given_up(saved_bundle: Path, client_of: Clients) -> None:
    client = client_of(saved_bundle, seconds=0.1)

    async def body() -> AsyncIterator[bytes]:
        yield b'{"query": '
        await asyncio.sleep(60)

    answer = client.post("/v1/recommend", content=body(), headers={"content-type": "application/json"})
    assert refusal(answer)[:2] == (408, "timeout")
    assert answer.headers["connection"] == "close"


def test_a_request_that_is_not_answered_in_time_is_told_to_come_again(saved_bundle: Path, client_of: Clients) -> None:
    client = client_of(saved_bundle, seconds=0.1)

    async def never(*arguments: object) -> None:
        await asyncio.sleep(60)

    client.service.engine.recommend = never
    answer = client.post("/v1/recommend", json={"query": {}})
    assert refusal(answer)[:2] == (503, "overloaded")
    assert answer.headers["retry-after"] == "1"
    assert "connection" not in answer.headers


def test_while_it_ends_it_is_not_ready(client: Any) -> None:
    assert client.get("/v2/health/ready").json()["status"] == "ready"
    client.service.backend.draining = True
    assert refusal(client.get("/v2/health/ready"))[:2] == (503, "draining")
    assert client.get("/v2/health/live").status_code == 200


def test_every_answer_keeps_browsers_from_elsewhere(client: Any) -> None:
    for path in ("/", "/v1/model", "/v1/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_description_says_what_each_parameter_and_each_field_is(client: Any) -> None:
    found = msgspec.json.decode(client.get("/openapi.json").content)
    operations = [one for methods in found["paths"].values() for one in methods.values()]
    said = {one["name"]: one["description"] for operation in operations for one in operation.get("parameters", ())}
    for name, schema in found["components"]["schemas"].items():
        assert "Attributes" not in schema["description"]
        said |= {name: schema["description"]}
        said |= {f"{name}.{field}": one["description"] for field, one in schema["properties"].items()}
    assert {"id", "like", "limit", "where", "RecommendBody.k", "RecommendBody.rerank", "Curve.points"} <= set(said)
    assert [name for name, says in said.items() if not says.endswith(".")] == []


def test_the_description_has_the_limits(client: Any) -> None:
    found = msgspec.json.decode(client.get("/openapi.json").content)
    fields = found["components"]["schemas"]["RecommendBody"]["properties"]
    assert (fields["k"]["minimum"], fields["k"]["maximum"]) == (1, 1000)
    assert found["components"]["schemas"]["RecommendBody"]["additionalProperties"] is False
    assert set(found["paths"]) >= {"/v1/recommend", "/v1/similar/{id}", "/v2/health/ready"}
