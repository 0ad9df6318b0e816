"""`twotower serve --workers N`: processes that share one address and one copy of the bundle."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pyarrow as pa
import pytest

from commands import Forked, run_python, start_python
from twotower import Retriever

WORKERS = 2


class Serving:
    """A service of several workers, and what it logs."""

    def __init__(self, bundle: Path, folder: Path, *options: str) -> None:
        folder.mkdir()
        words = ("-m", "twotower", "serve", bundle, "--port", "0", "--workers", WORKERS, *options)
        self.process: Forked = start_python(*words, folder=folder)
        self.wait_for(lambda: len(self.lines("listening")) == WORKERS)
        self.address = f"http://127.0.0.1:{self.lines('listening')[0]['port']}"

    def lines(self, event: str) -> list[dict[str, object]]:
        found = [line for line in self.process.stderr.read_bytes().splitlines() if line.startswith(b"{")]
        lines: list[dict[str, object]] = [msgspec.json.decode(line) for line in found]
        return [line for line in lines if line["event"] == event]

    def wait_for(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not holds():
            assert self.process.poll() is None, self.process.stderr.read_text()
            assert time.monotonic() < end, self.process.stderr.read_text()
            time.sleep(0.05)

    def ask(self) -> str:
        """The version that answers a connection of its own."""
        answer = httpx.post(f"{self.address}/v1/recommend", json={"query": {"user": 3}}, trust_env=False)
        assert answer.status_code == 200
        return str(answer.json()["version"])

    def children(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(number) for number in found.split()]


@pytest.fixture
def serving(bundle: Path, tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    started: list[Serving] = []

    def start(*options: str) -> Serving:
        started.append(Serving(bundle, tmp_path / "serving", *options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGTERM)
            one.process.wait(60)


def test_workers_map_one_copy_and_count_together_and_end_cleanly(serving: Callable[..., Serving]) -> None:
    service = serving()
    pattern = re.compile(r" (\d+) +(\S*)/copies/\S*/(\w[\w.-]*)$", re.MULTILINE)
    mapped = [set(pattern.findall(Path(f"/proc/{own}/maps").read_text())) for own in service.children()]
    assert len(mapped) == WORKERS
    assert mapped[0] == mapped[1]
    assert {"embeddings.safetensors", "weights.safetensors", "candidates.arrow"} <= {name for _, _, name in mapped[0]}
    (home,) = {home for _, home, _ in mapped[0]}  # one folder that all share
    assert Path(home).is_dir()
    for _ in range(9):
        service.ask()
    counted = httpx.get(f"{service.address}/metrics", trust_env=False).text
    assert 'twotower_requests_total{method="POST",route="/v1/recommend",status="200"} 9.0' in counted
    assert "twotower_bundle{version=" in counted
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(60) == 0
    assert len(service.lines("ended")) == WORKERS
    assert not Path(home).exists()


def test_a_reload_reaches_all_workers(bundle: Path, serving: Callable[..., Serving]) -> None:
    service = serving("--watch", "0")
    new = pa.table({"item": [777], "title": ["new"], "year": [2026], "genres": [["War"]]})
    other = Retriever.load(bundle).add(new)
    other.save(bundle)
    assert service.ask() != other.version
    answer = httpx.post(f"{service.address}/v1/reload", timeout=60, trust_env=False)
    assert answer.json() == {"version": other.version, "changed": True}
    assert {service.ask() for _ in range(12)} == {other.version}
    assert len(service.lines("bundle swapped")) == WORKERS


def test_new_bundles_reach_all_workers_and_one_that_dies_is_replaced(
    bundle: Path, serving: Callable[..., Serving]
) -> None:
    service = serving("--watch", "0.1")
    new = pa.table({"item": [777], "title": ["new"], "year": [2026], "genres": [["War"]]})
    other = Retriever.load(bundle).add(new)
    other.save(bundle)
    service.wait_for(lambda: len(service.lines("bundle swapped")) == WORKERS)
    assert service.ask() == other.version
    victim = service.children()[0]
    os.kill(victim, signal.SIGKILL)
    service.wait_for(lambda: len(service.lines("listening")) == WORKERS + 1)
    assert victim not in service.children()
    assert {service.ask() for _ in range(6)} == {other.version}


def test_workers_end_with_the_process_that_started_them(serving: Callable[..., Serving]) -> None:
    service = serving()
    workers = service.children()
    os.kill(service.process.pid, signal.SIGKILL)
    end = time.monotonic() + 60
    while any(Path(f"/proc/{own}/cmdline").exists() and _runs(own) for own in workers):
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_bundle_that_cannot_be_served_ends_all_workers(bundle: Path) -> None:
    shutil.rmtree(bundle / "model")
    done = run_python("-m", "twotower", "serve", bundle, "--port", "0", "--workers", "2", timeout=60)
    assert done.returncode == 1
    assert f"{bundle}" in done.stderr
    assert "Traceback" not in done.stderr
