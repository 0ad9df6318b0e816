"""The service against its own description, and against bodies that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

schemathesis = pytest.importorskip("schemathesis", reason="needs the extra dev")

from schemathesis.specs.openapi import checks  # noqa: E402

CHECKS = (
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
)
OPERATIONS = (
    ("POST", "/v1/recommend"),
    ("GET", "/v1/similar/{id}"),
    ("POST", "/v1/explain"),
    ("GET", "/v1/model"),
    ("GET", "/v1/queries"),
    ("GET", "/v1/candidates"),
    ("GET", "/v1/history/{id}"),
    ("GET", "/v1/study"),
    ("POST", "/v1/reload"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/metrics"),
)

TAKES_NOTHING = (*(("GET", f"/v1/{name}") for name in ("model", "study")), ("POST", "/v1/reload"), *OPERATIONS[-3:])


@pytest.fixture(scope="module")
def schema(saved_bundle: Path) -> Any:
    from twotower.serving.hosts import Hosts
    from twotower.serving.served import Served
    from twotower.serving.service import Service
    from twotower.serving.settings import Settings

    hosts = Hosts.listening_at("127.0.0.1", ["testserver"])  # as schemathesis calls it
    service = Service(Served(saved_bundle), Settings(watch_seconds=None, hosts=hosts, body_bytes=1 << 27))
    return schemathesis.openapi.from_asgi("/openapi.json", service)


def test_all_operations_are_known(schema: Any) -> None:
    found = {(one.ok().method.upper(), one.ok().path) for one in schema.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_what_the_description_says(schema: Any, method: str, path: str) -> None:
    modes = [schemathesis.GenerationMode.POSITIVE]
    if (method, path) not in TAKES_NOTHING:
        modes.append(schemathesis.GenerationMode.NEGATIVE)

    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    for mode in modes:
        strategy = schema[path][method].as_strategy(generation_mode=mode)
        run_on(strategy, check)


def run_on(strategy: Any, check: Callable[[Any], None]) -> None:
    """Checks some examples, the same ones every time."""
    from hypothesis import given

    quick = settings(
        max_examples=25,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    checked: Callable[[], None] = quick(given(strategy)(check))  # type: ignore[no-untyped-call]
    checked()
