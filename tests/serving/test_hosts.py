"""Which hosts and origins the service answers to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from twotower.errors import ConfigError
from twotower.serving.hosts import Hosts

Clients = Callable[..., Any]


@pytest.mark.parametrize(
    ("listening", "allowed", "answered", "refused"),
    [
        ("127.0.0.1", [], ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1:8", "[::1]:8"], ["evil.example"]),
        ("127.0.0.1", [], ["127.0.0.1"], ["10.0.0.1"]),
        ("localhost", [], ["localhost", "127.0.0.1"], ["localhost.evil.example", "evil.example"]),
        ("::1", [], ["[::1]", "localhost", "[0:0:0:0:0:0:0:1]:80"], ["[::2]", "::1"]),
        ("10.0.0.1", [], ["10.0.0.1", "10.0.0.1:80"], ["localhost", "10.0.0.2", "evil.example"]),
        ("0.0.0.0", [], ["10.0.0.1", "[fd00::1]:8", "localhost"], ["evil.example", "10.0.0.1.evil.example"]),
        ("::", [], ["10.0.0.1", "localhost"], ["evil.example"]),
        ("shop.example", [], ["shop.example:80", "10.0.0.1"], ["evil.example", "localhost"]),
        ("0.0.0.0", ["shop.example"], ["shop.example", "SHOP.example.:80"], ["api.shop.example"]),
        ("127.0.0.1", ["*.shop.example"], ["a.shop.example", "a.b.shop.example"], ["shop.example", "ashop.example"]),
        ("127.0.0.1", ["[fd00::1]", "10.0.0.9"], ["[fd00::1]:80", "10.0.0.9"], ["10.0.0.8"]),
        ("127.0.0.1", ["*"], ["evil.example"], []),
        ("127.0.0.1", [], [], ["", ":80", "localhost:x", "a@localhost", "localhost/x", "[localhost]", "localhost x"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_which_hosts_are_answered(listening: str, allowed: list[str], answered: list[str], refused: list[str]) -> None:
    hosts = Hosts.listening_at(listening, allowed)
    assert [one for one in answered if not hosts.allow(one)] == []
    assert [one for one in refused if hosts.allow(one)] == []


@pytest.mark.parametrize(
    "host", ["http://shop.example", "shop.example:80", "", "shop/x", "*.", "a.*.b", "*shop.example"]
)
def test_what_is_no_host_cannot_be_allowed(host: str) -> None:
    with pytest.raises(ConfigError, match=r"--allowed-host .* expected a name or an address without scheme and port"):
        Hosts.listening_at("127.0.0.1", [host])


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_no_page_reaches_it_by_a_rebound_name(saved_bundle: Path, client_of: Clients) -> None:
    client = client_of(saved_bundle)
    rebound = {"host": "evil.example:8000"}
    for path in ("/", "/page.js", "/openapi.json", "/v1/model", "/metrics", "/v2/health/ready", "/v1/nothing"):
        answer = client.get(path, headers=rebound)
        assert error_of(answer) == (421, "wrong_host")
        assert "evil.example:8000" in answer.json()["error"]["message"]
        assert "--allowed-host" in answer.json()["error"]["message"]
    answer = client.post("/v1/recommend", json={"query": {"user": 3}}, headers=rebound)
    assert error_of(answer) == (421, "wrong_host")
    twice = client.get("/v1/model", headers=[("host", "localhost"), ("host", "evil.example")])
    assert error_of(twice) == (400, "invalid")
    text = client.get("/metrics").text
    assert 'twotower_refused_requests_total{reason="host"} 9.0' in text
    assert 'twotower_requests_total{method="GET",route="none",status="421"} 7.0' in text


def test_names_that_are_allowed_are_answered(saved_bundle: Path, client_of: Clients) -> None:
    client = client_of(saved_bundle, hosts=Hosts.listening_at("0.0.0.0", ["shop.example"]))
    for host in ("shop.example", "10.1.2.3:8000", "localhost"):
        assert client.get("/v1/model", headers={"host": host}).status_code == 200
    assert client.get("/v1/model", headers={"host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "https://proxied.example"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "https://localhost"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://localhost"}, 403),
    ],
    ids=str,
)
def test_reloading_is_not_for_pages_of_other_origins(
    saved_bundle: Path, client_of: Clients, headers: dict[str, str], status: int
) -> None:
    client = client_of(saved_bundle)
    answer = client.post("/v1/reload", headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert error_of(answer) == (403, "cross_origin")
        assert 'twotower_refused_requests_total{reason="origin"} 1.0' in client.get("/metrics").text


def test_pages_of_other_origins_can_neither_ask_nor_read(saved_bundle: Path, client_of: Clients) -> None:
    """A JSON body needs leave from the service, which it never gives; without one, answers are not theirs to read."""
    client = client_of(saved_bundle)
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for answer in (client.request("OPTIONS", "/v1/recommend", headers=asked), client.get("/v1/model", headers=asked)):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    simple = client.post("/v1/recommend", content="{}", headers={"content-type": "text/plain"})
    assert simple.status_code == 415
