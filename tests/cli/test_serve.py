"""`twotower serve` as a process: it listens, serves, ends cleanly, and refuses what it cannot serve."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from commands import Forked, run_python, start_python
from toy import groups_log, toy_model
from twotower import Retriever


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = groups_log(events=200)
    folder = tmp_path_factory.mktemp("serve") / "toy.tower"
    Retriever.build(toy_model().learn(log).eval(), log.candidates, seen=log).save(folder)
    return folder


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in log.read_bytes().splitlines() if line.startswith(b"{")]


def listening(process: subprocess.Popen[bytes] | Forked, log: Path) -> str:
    while True:
        for line in lines_of(log):
            if line["event"] == "listening":
                return f"http://127.0.0.1:{line['port']}"
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)


def test_it_serves_with_its_token_and_ends_cleanly(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {**os.environ, "TWOTOWER_TOKEN": "sesame"}
    command = [sys.executable, "-m", "twotower", "serve", str(bundle), "--port", "0"]
    with (
        log.open("wb") as written,
        subprocess.Popen(command, stderr=written, env=environment) as process,
    ):
        address = listening(process, log)
        with httpx.Client(base_url=address, headers={"authorization": "Bearer sesame"}, trust_env=False) as client:
            assert httpx.get(f"{address}/v1/model", trust_env=False).status_code == 401
            answer = client.post("/v1/recommend", json={"query": {"user": 3}, "k": 2})
            assert len(answer.json()["answers"][0]["recommendations"]) == 2
            assert "connection" not in answer.headers
            process.send_signal(signal.SIGTERM)
            while client.get("/v2/health/ready").status_code == 200:
                time.sleep(0.01)
            last = client.post("/v1/recommend", json={"query": {"user": 3}})
            assert (last.status_code, last.headers["connection"]) == (200, "close")
        assert process.wait(60) == 0
    assert [line["event"] for line in lines_of(log) if line["event"] != "request"] == ["listening", "draining", "ended"]


def test_sigterm_under_load_fails_no_request(bundle: Path, tmp_path: Path) -> None:
    process = start_python("-m", "twotower", "serve", bundle, "--port", 0, folder=tmp_path)
    address = listening(process, process.stderr)
    started, statuses = threading.Semaphore(0), set[int]()

    def ask() -> str:
        """Asks until the service no longer listens; returns how that showed."""
        with httpx.Client(base_url=address, trust_env=False) as client:
            while True:
                try:
                    statuses.add(client.post("/v1/recommend", json={"query": {"user": 3}}).status_code)
                except httpx.TransportError as error:
                    return str(error)
                started.release()

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask) for _ in range(8)]
        for _ in range(16):
            started.acquire()
        process.send_signal(signal.SIGTERM)
        assert all("refused" in client.result(60) for client in clients)
    assert process.wait(60) == 0
    assert statuses == {200}


LINE, HOST = b"GET /v2/health/live HTTP/1.1\r\n", b"host: localhost\r\n"
WHOLE = LINE + HOST + b"\r\n"
CHUNKED = LINE + HOST + b"transfer-encoding: chunked\r\n\r\n0\r\n"


def all_of(address: str, *parts: bytes) -> bytes:
    """All that a connection gives until the service ends it, while it is sent one part after the other."""
    host, port = address.removeprefix("http://").split(":")
    found = b""
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(0.05)
            while received := connection.recv(1 << 16):
                found += received
        except ConnectionError:  # it was ended before all was sent
            pass
    return found


@pytest.fixture(scope="module")
def impatient(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service that waits for a second."""
    folder = tmp_path_factory.mktemp("impatient")
    process = start_python("-m", "twotower", "serve", bundle, "--port", 0, "--timeout", 1, folder=folder)
    yield listening(process, process.stderr)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("parts", "answered", "then"),
    [
        ([], 0, 0),
        ([LINE, HOST], 0, 408),
        ([WHOLE, LINE[:1]], 1, 408),
        ([WHOLE + WHOLE + LINE], 2, 408),
        ([b"\r\n"], 0, 0),
        ([WHOLE, b"\r\n"], 1, 0),
        ([LINE + HOST + b"content-length: 10\r\n\r\n", b"x"], 1, 0),
        ([CHUNKED, b"x: y\r\n"], 1, 0),
        ([LINE + b"x: " + b"y" * 200_000 + b"\r\n\r\n"], 0, 431),
        ([LINE, *[b"x-%d: %s\r\n" % (number, b"y" * 10_000) for number in range(8)]], 0, 431),
        ([LINE + b"x: ", *[b"y" * 9000] * 8], 0, 431),
        ([CHUNKED, *[b"x-%d: %s\r\n" % (number, b"y" * 10_000) for number in range(8)]], 1, 431),
        ([CHUNKED + b"x: ", *[b"y" * 9000] * 8], 1, 431),
    ],
    ids=lambda value: str(len(value)) if isinstance(value, list) else str(value),
)
def test_nobody_holds_a_connection_by_a_request_that_does_not_end(
    impatient: str, parts: list[bytes], answered: int, then: int
) -> None:
    found = all_of(impatient, *parts)
    assert found.count(b"HTTP/1.1 200 OK\r\n") == answered
    assert found.count(b"HTTP/1.1 ") == answered + bool(then)
    if then:
        head, _, body = found[found.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % then)
        assert b"content-security-policy: " in head
        assert b"x-request-id: " in head
        error = msgspec.json.decode(body)["error"]
        code, said = (
            ("timeout", "took longer than 1 s") if then == 408 else ("head_too_large", "longer than 65536 bytes")
        )
        assert error["code"] == code
        assert said in error["message"]
        metrics = httpx.get(f"{impatient}/metrics", trust_env=False).text
        assert f'twotower_requests_total{{method="other",route="none",status="{then}"}}' in metrics


def test_a_long_body_and_requests_close_behind_one_another_are_answered(impatient: str) -> None:
    body = b'{"query": {"user": 3}, "exclude": [%s 1]}' % (b"1, " * 9000)
    head = b"POST /v1/recommend HTTP/1.1\r\ncontent-type: application/json\r\nhost: localhost\r\n"
    sent = head + b"content-length: %d\r\n\r\n" % len(body) + body
    whole = sent[20:] + WHOLE + sent + LINE + HOST
    found = all_of(impatient, sent[:20], whole, b"connection: close\r\n\r\n")
    assert found.count(b"HTTP/1.1 200 OK\r\n") == found.count(b"HTTP/1.1 ") == 4


MANY = b'{"queries": [%s {"user": 3}], "k": 30, "exclude_seen": false}' % (b'{"user": 3},' * 255)
POST = b"POST /v1/recommend HTTP/1.1\r\ncontent-type: application/json\r\n" + HOST
LARGE = POST + b"content-length: %d\r\n\r\n" % len(MANY) + MANY
"""A request whose answer has some 700 KB."""


def asking(address: str) -> socket.socket:
    """A connection whose end here holds little, so that what is not read waits in the service."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    connection.settimeout(30)
    connection.connect((host, int(port)))
    return connection


def test_who_asks_for_much_and_does_not_read_is_cut_off_and_others_are_answered(impatient: str) -> None:
    with asking(impatient) as connection:
        connection.setblocking(False)
        ended = select.poll()
        ended.register(connection, 0)  # errors and hanging up are told in any case
        unsent = LARGE * 40
        deadline = time.monotonic() + 60
        while not ended.poll(50) and time.monotonic() < deadline:
            with suppress(BlockingIOError, ConnectionError):  # the service takes no more, or has ended it
                unsent = unsent[connection.send(unsent) :]
            assert httpx.get(f"{impatient}/v2/health/live", trust_env=False).status_code == 200
        assert ended.poll(0)
    metrics = httpx.get(f"{impatient}/metrics", trust_env=False).text
    assert 'twotower_refused_requests_total{reason="unread"} 1.0' in metrics


def test_who_reads_slowly_gets_all(impatient: str) -> None:
    with asking(impatient) as connection:
        connection.sendall(LARGE * 5 + LINE + HOST + b"connection: close\r\n\r\n")
        found = b""
        while part := connection.recv(1 << 18, socket.MSG_WAITALL):
            found += part
            time.sleep(0.15)
    assert found.count(b"HTTP/1.1 200 OK\r\n") == 6
    assert found.count(b'"basis":"query"') == 5 * 256


def test_a_thousand_idle_connections_keep_nobody_from_an_answer(impatient: str) -> None:
    host, port = impatient.removeprefix("http://").split(":")
    with ExitStack() as opened:
        for _ in range(1000):
            opened.enter_context(socket.create_connection((host, int(port)), timeout=30))
        answer = httpx.post(f"{impatient}/v1/recommend", json={"query": {"user": 3}}, trust_env=False)
        assert answer.status_code == 200


def test_a_port_that_is_taken_is_refused_before_anything_is_announced(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_python("-m", "twotower", "serve", bundle, "--port", port)
    assert done.returncode == 2
    assert f"port {port} of 127.0.0.1 is in use by another program" in done.stderr
    assert "serves" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.tower"], 5, "missing.tower does not exist"),
        (["BUNDLE", "--token-file", "missing"], 2, "--token-file missing"),
        (["BUNDLE", "--engine", "tensorflow"], 2, "expected torch or onnx"),
        (["BUNDLE", "--engine", "onnx"], 2, "no ONNX towers"),
    ],
)
def test_what_cannot_be_served_is_said(
    bundle: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    given = [str(bundle) if one == "BUNDLE" else one for one in arguments]
    done = run_python("-m", "twotower", "serve", *given, cwd=tmp_path)
    assert done.returncode == code
    assert said in done.stderr


def test_what_is_no_request_and_what_asks_for_another_protocol_are_answered(impatient: str) -> None:
    found = all_of(impatient, b"no request at all\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 400 ")
    asked = LINE + HOST + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n"
    found = all_of(impatient, asked, LINE)
    assert found.startswith(b"HTTP/1.1 200 OK\r\n")
    assert found.count(b"HTTP/1.1 408 ") == 1
