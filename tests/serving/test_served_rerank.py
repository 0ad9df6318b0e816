"""The service re-ranks as a request asks for, says so, and explains the order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving_fixtures import Client
from two_stages import two_stage_log, two_stage_model
from twotower import Rerank, Retriever


@pytest.fixture(scope="module")
def reranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, log = tmp_path_factory.mktemp("served") / "reranked.tower", two_stage_log()
    Retriever.build(two_stage_model(), log.candidates, seen=log, rerank=Rerank(12)).save(folder)
    return folder


def asked(client: Client, **body: Any) -> list[dict[str, Any]]:
    answer = client.post("/v1/recommend", json={"query": {"user": 3}, "k": 5} | body)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["answers"][0]["recommendations"]
    return found


def test_a_request_says_how_many_are_re_ranked(reranked: Path, client_of: Callable[..., Client]) -> None:
    client, retriever = client_of(reranked), Retriever.load(reranked)
    for given, n in (({}, 12), ({"rerank": {"n": 6}}, 6), ({"rerank": None}, None)):
        found, expected = asked(client, **given), retriever.recommend({"user": 3}, 5, rerank=n)
        assert [one["id"] for one in found] == [one.id for one in expected]
        assert [one["score"] for one in found] == pytest.approx([one.score for one in expected])
        answers = [one.rerank_score for one in expected]
        assert [one["rerank_score"] for one in found] == (answers if n is None else pytest.approx(answers))
    assert client.get("/v1/model").json()["rerank"] == {"n": 12, "by": "rating"}


@pytest.mark.parametrize(
    ("rerank", "field"),
    [
        ({"n": 0}, "rerank.n"),
        ({"n": 1001}, "rerank.n"),
        ({}, "rerank.n"),
        (5, "rerank"),
        ({"n": 5, "by": "x"}, "rerank.by"),
    ],
)
def test_what_is_no_rerank_is_refused(
    reranked: Path, client_of: Callable[..., Client], rerank: object, field: str
) -> None:
    answer = client_of(reranked).post("/v1/recommend", json={"query": {"user": 3}, "rerank": rerank})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


def test_a_bundle_without_a_head_refuses_and_one_with_it_explains(
    reranked: Path, bundle: Path, client_of: Callable[..., Client]
) -> None:
    plain = client_of(bundle)
    answer = plain.post("/v1/recommend", json={"query": {"user": 3}, "rerank": {"n": 5}})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "rerank")
    assert [one["rerank_score"] for one in asked(plain, rerank=None)] == [None] * 5
    assert plain.get("/v1/model").json()["rerank"] is None
    refused = plain.post("/v1/explain", json={"query": {"user": 3}, "candidate": 5, "score": "rerank"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "score")
    client = client_of(reranked)
    best = asked(client)[0]
    body = {"query": {"user": 3}, "candidate": best["id"], "score": "rerank"}
    found = client.post("/v1/explain", json=body).json()
    parts = [one["value"] for part in ("query", "candidate", "history") for one in found[part]]
    assert found["score"] == pytest.approx(best["rerank_score"], abs=1e-5)
    assert found["bias"] + sum(parts) == pytest.approx(found["score"], abs=1e-5)


def test_openapi_describes_it(reranked: Path, client_of: Callable[..., Client]) -> None:
    schemas = client_of(reranked).get("/openapi.json").json()["components"]["schemas"]
    assert "null for none. Default: the bundle's number" in str(schemas["RecommendBody"]["properties"]["rerank"])
    assert schemas["RerankBody"]["properties"]["n"]["maximum"] == 1000
    assert "rerank_score" in schemas["Recommended"]["properties"]
