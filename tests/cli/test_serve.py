"""`twotower serve` as a process: it listens, serves, ends cleanly, and refuses what it cannot serve."""

from __future__ import annotations

import os
import signal
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
