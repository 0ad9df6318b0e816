"""Refusals of bodies and parameters name the field, its value and what was expected, without the parser's own terms."""

from __future__ import annotations

import msgspec
import pytest

from twotower.serving.bodies import decoded, parameters
from twotower.serving.messages import ExplainBody, FindParameters, NoParameters, RecommendBody, SimilarParameters
from twotower.serving.refusals import Refusal

QUERY = "an object with the query's columns"


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ("[]", None, "the body is []; expected an object"),
        ('{"query": "u1"}', "query", f'query is "u1"; expected {QUERY}'),
        ('{"queries": [{}, 3]}', "queries[1]", f"queries[1] is 3; expected {QUERY}"),
        ('{"queries": {}}', "queries", "queries is {}; expected a list"),
        ('{"queries": []}', "queries", "queries has 0 items; expected at least 1"),
        (
            '{"queries": [{}, {"age": 3, "odd [1].x": [{"a": 1}]}]}',
            "queries[1].odd [1].x[0]",
            'queries[1].odd [1].x[0] is {"a":1}; expected a whole number, a number, text or null',
        ),
        ('{"query": {}, "k": 0}', "k", "k is 0; expected a whole number, at least 1"),
        ('{"query": {}, "k": 5000}', "k", "k is 5000; expected a whole number, at most 1000"),
        ('{"query": {}, "k": "ten"}', "k", 'k is "ten"; expected a whole number'),
        ('{"query": {}, "k": null}', "k", "k is null; expected a whole number"),
        ('{"query": {}, "exclude_seen": 1}', "exclude_seen", "exclude_seen is 1; expected true or false"),
        ('{"query": {}, "exclude": [1, 1.5]}', "exclude[1]", "exclude[1] is 1.5; expected a whole number or text"),
        ('{"query": {}, "where": ""}', "where", "where has 0 characters; expected at least 1"),
        ('{"query": {}, "diversity": 2}', "diversity", "diversity is 2; expected a number, at most 1"),
        ('{"query": {}, "rerank": {}}', "rerank.n", "rerank.n is missing; expected it in rerank"),
        ('{"query": {}, "rerank": {"m": 1}}', "rerank.m", "unknown field 'm' in rerank; expected one of n"),
        (
            '{"query": {}, "exclude_sen": true}',
            "exclude_sen",
            "unknown field 'exclude_sen', did you mean 'exclude_seen'? expected one of query, queries, k, "
            "exclude_seen, exclude, allow, where, diversity, rerank",
        ),
        (
            '{"queries": [{"user": 3, "x": [{"user": 9}], "R": 49}], "queries": 0.5}',
            "queries",
            "queries is repeated; expected it once",
        ),
        ('{"query": {"a": {}, "a": 3}}', "a", "a is repeated; expected it once"),
        ('{"query": {"a": 1e999}}', None, "the body has a number that is out of range; expected at most 1.8e308"),
        ('{"query": {"a": NaN}}', None, "the body is not valid JSON: invalid character at byte 16, 'NaN}}'"),
        ('{"query": 5, "k"', None, "the body is not valid JSON: Input data was truncated"),
        ("", None, "the body is empty; expected a JSON object"),
        ('{"query":' + "[" * 5000, None, "the body is nested too deeply"),
    ],
)
def test_a_body(body: str, field: str | None, message: str) -> None:
    with pytest.raises(Refusal) as caught:
        decoded(body.encode(), msgspec.json.Decoder(RecommendBody))
    assert (caught.value.status, caught.value.field, caught.value.message) == (400, field, message)


def test_a_field_that_is_missing_or_no_choice() -> None:
    decoder = msgspec.json.Decoder(ExplainBody)
    with pytest.raises(Refusal) as caught:
        decoded(b'{"query": {}}', decoder)
    assert (caught.value.field, caught.value.message) == ("candidate", "candidate is missing; expected it in the body")
    with pytest.raises(Refusal) as caught:
        decoded(b'{"query": {}, "candidate": 1, "score": "x"}', decoder)
    assert caught.value.message == 'score is "x"; expected "retrieval" or "rerank"'


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        (SimilarParameters, "k", "-1", 'k is "-1"; expected a whole number, at least 1'),
        (SimilarParameters, "k", "2.5", 'k is "2.5"; expected a whole number'),
        (FindParameters, "likes", "x", "unknown field 'likes', did you mean 'like'? expected one of like, limit"),
        (NoParameters, "x", "1", "unknown field 'x'; expected none"),
    ],
)
def test_a_parameter(kind: type[msgspec.Struct], name: str, value: str, message: str) -> None:
    with pytest.raises(Refusal) as caught:
        parameters([(name, value)], kind)
    assert (caught.value.field, caught.value.message) == (name, message)
