"""A client that sends requests to a service at a fixed rate and records every answer, until SIGTERM ends it.

It runs in a process of its own, so that the benchmark's own work does not delay it:

    python benchmarks/recorder.py --port 8000 --out records.jsonl --rate 50 --k 10 --queries 2000
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
from service import Connections, precise_loop

FAVOURITE_EVERY = 5
"""Every fifth request is for query 0, whose best candidates the benchmark changes."""

STARTS_WITHIN = 60.0
"""Seconds within which the client must have its first answer."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One request and its answer.

    Attributes:
        due: When the request was due, by `time.perf_counter`, which all processes share on Linux.
        seconds: Seconds from then until the answer was complete.
        query: The id of the query.
        status: The answer's status; 0 if there was no answer.
        problem: The error code of the answer, or why there was none; empty for status 200.
        version: The version that the answer names.
        ids: The recommended candidates, best first.
        scores: Their scores.
    """

    due: float
    seconds: float
    query: int
    status: int
    problem: str = ""
    version: str = ""
    ids: list[int] = []
    scores: list[float] = []

    @property
    def answered(self) -> float:
        """When the answer was complete."""
        return self.due + self.seconds


class _Found(msgspec.Struct):
    id: int
    score: float


class _Recommendations(msgspec.Struct):
    recommendations: list[_Found]


class Answer(msgspec.Struct):
    """What a record needs of an answer with status 200."""

    version: str
    answers: list[_Recommendations]

    @property
    def found(self) -> dict[int, float]:
        """The recommended candidates of the only query, and their scores."""
        return {one.id: one.score for one in self.answers[0].recommendations}


class _Error(msgspec.Struct):
    code: str


class _Refused(msgspec.Struct):
    error: _Error


def body_of(query: int, k: int, exclude: list[int] | None = None) -> bytes:
    """The body of a request for recommendations."""
    return msgspec.json.encode({"query": {"query": query}, "k": k, "exclude_seen": True, "exclude": exclude or []})


@contextmanager
def recording(port: int, out: Path, rate: float, k: int, queries: int, seed: int) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the client in a new process, from its first answer on; `records_of` reads what it recorded."""
    command = [sys.executable, __file__, "--port", port, "--out", out, "--rate", rate]
    command += ["--k", k, "--queries", queries, "--seed", seed]
    log = out.with_suffix(".log")
    with log.open("wb") as written, subprocess.Popen(list(map(str, command)), stdout=written, stderr=written) as client:
        try:
            _wait_for_first(client, out, log)
            yield client
        finally:
            client.send_signal(signal.SIGTERM)
            client.wait(timeout=60)
    if client.returncode:
        raise SystemExit(f"the client ended with {client.returncode}: {log.read_text()[-2000:]}")


def _wait_for_first(client: subprocess.Popen[bytes], out: Path, log: Path) -> None:
    latest = time.monotonic() + STARTS_WITHIN
    while not out.exists() or not out.stat().st_size:
        if client.poll() is not None or time.monotonic() > latest:
            raise SystemExit(f"the client did not start: {log.read_text()[-2000:]}")
        time.sleep(0.05)


def records_of(out: Path) -> list[Record]:
    """All records, in the order in which requests were due."""
    raw = out.read_bytes()
    read = msgspec.json.Decoder(Record).decode_lines(raw[: raw.rfind(b"\n") + 1])  # the client may be writing a line
    return sorted(read, key=lambda record: record.due)


async def record(options: argparse.Namespace, file: IO[bytes]) -> None:
    """Sends requests at fixed times, even if earlier ones have not been answered, until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    draw = np.random.default_rng(options.seed)

    async def one(query: int, due: float) -> None:
        answer = await _answer_of(connections, query, options.k)
        own = Record(due, time.perf_counter() - due, query, *answer)
        file.write(msgspec.json.encode(own) + b"\n")

    async with Connections(options.port) as connections:
        first = time.perf_counter() + 0.05
        tasks: set[asyncio.Task[None]] = set()
        for number in itertools.count():
            due = first + number / options.rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if ended.is_set():
                break
            query = 0 if number % FAVOURITE_EVERY == 0 else int(draw.integers(options.queries))
            tasks.add(task := asyncio.create_task(one(query, due)))
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)


async def _answer_of(
    connections: Connections, query: int, k: int
) -> tuple[int, str] | tuple[int, str, str, list[int], list[float]]:
    """The fields of a record from `status` on."""
    try:
        status, body = await connections.ask("/v1/recommend", body_of(query, k))
    except (OSError, asyncio.IncompleteReadError) as error:
        return 0, type(error).__name__
    if status != 200:
        return status, msgspec.json.decode(body, type=_Refused).error.code
    answer = msgspec.json.decode(body, type=Answer)
    return status, "", answer.version, list(answer.found), list(answer.found.values())


def main() -> None:
    """Runs the client."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="where to write records, one JSON array per line")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--k", type=int, default=10, help="recommendations per answer")
    parser.add_argument("--queries", type=int, default=2_000, help="the number of queries to choose from")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    gc.disable()  # a full collection takes 0.1 s, which would count as latency
    with options.out.open("wb", buffering=0) as file, asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(record(options, file))


if __name__ == "__main__":
    main()
