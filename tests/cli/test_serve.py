"""`twotower serve` as a process: it listens, serves, ends cleanly, and refuses what it cannot serve."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from toy import groups_log, toy_model
from twotower import Retriever


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = groups_log(events=200)
    folder = tmp_path_factory.mktemp("serve") / "toy.tower"
    Retriever.build(toy_model().learn(log).eval(), log.candidates, seen=log).save(folder)
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "twotower", "serve", *map(str, arguments)]


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in log.read_bytes().splitlines() if line.startswith(b"{")]


def listening(process: subprocess.Popen[bytes], log: Path) -> str:
    while True:
        for line in lines_of(log):
            if line["event"] == "listening":
                return f"http://127.0.0.1:{line['port']}"
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)


def test_it_serves_with_its_token_and_ends_cleanly(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {**os.environ, "TWOTOWER_TOKEN": "sesame"}
    with (
        log.open("wb") as written,
        subprocess.Popen(command(bundle, "--port", 0), stderr=written, env=environment) as process,
    ):
        address = listening(process, log)
        with httpx.Client(base_url=address, headers={"authorization": "Bearer sesame"}, trust_env=False) as client:
            assert httpx.get(f"{address}/v1/model", trust_env=False).status_code == 401
            answer = client.post("/v1/recommend", json={"query": {"user": 3}, "k": 2})
            assert len(answer.json()["answers"][0]["recommendations"]) == 2
            process.send_signal(signal.SIGTERM)
            while client.get("/v2/health/ready").status_code == 200:
                time.sleep(0.01)
            assert client.post("/v1/recommend", json={"query": {"user": 3}}).status_code == 200
        assert process.wait(60) == 0
    assert [line["event"] for line in lines_of(log) if line["event"] != "request"] == ["listening", "draining", "ended"]


def answer_to(address: str, *parts: bytes) -> bytes:
    """All that a connection gives until the service ends it, while it is sent one part after the other."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.01)
        found = b""
        while received := connection.recv(1 << 16):
            found += received
        return found


def test_a_head_that_does_not_end_is_not_waited_for(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    line = b"GET /v2/health/live HTTP/1.1\r\n"
    started = command(bundle, "--port", 0, "--timeout", 1)
    with log.open("wb") as written, subprocess.Popen(started, stderr=written) as process:
        address = listening(process, log)
        assert answer_to(address) == b""
        whole = line + b"host: x\r\n\r\n"
        for parts, answered in (([line, b"host: x\r\n"], 0), ([whole, line[:1]], 1), ([whole + whole + line], 2)):
            found = answer_to(address, *parts)
            assert found.count(b"HTTP/1.1 200 OK") == answered
            head, _, body = found[found.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert b"content-security-policy: " in head
            error = msgspec.json.decode(body)["error"]
            assert error["code"] == "timeout"
            assert "head of the request took longer than 1 s" in error["message"]
        long = answer_to(address, line, *[b"x-%d: %s\r\n" % (number, b"y" * 8000) for number in range(9)])
        assert long.startswith(b"HTTP/1.1 431 ")
        assert b"longer than 65536 bytes" in long
        metrics = httpx.get(f"{address}/metrics", trust_env=False).text
        assert 'twotower_requests_total{method="other",route="none",status="408"} 3.0' in metrics
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.tower"], 5, "missing.tower cannot be read"),
        (["BUNDLE", "--token-file", "missing"], 2, "--token-file missing"),
        (["BUNDLE", "--engine", "tensorflow"], 2, "expected torch or onnx"),
        (["BUNDLE", "--engine", "onnx"], 2, "no towers as ONNX"),
    ],
)
def test_what_cannot_be_served_is_said(
    bundle: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    given = [str(bundle) if one == "BUNDLE" else one for one in arguments]
    done = subprocess.run(command(*given), capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == code
    assert said in done.stderr
