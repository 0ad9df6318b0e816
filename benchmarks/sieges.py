"""Concurrent writers and readers of one bundle, damage to a served one, and its end under load, for `torture.py`."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from scenarios import Scenario

from twotower import Retriever, editing
from twotower.errors import SavedFolderError
from twotower.serving.served import Served

WRITERS, READERS, ADDITIONS = 2, 6, 3

CLIENTS = 6
"""Clients of a service that is stopped."""


@dataclass(frozen=True)
class Siege:
    """One kind of stress test.

    Attributes:
        command: The command under test, as named in the table.
        name: What is done to it.
        times: Number of runs.
        run: Runs it with a seed in a folder that `make_template` filled; returns the problem, or None.
    """

    command: str
    name: str
    times: int
    run: Callable[[Path, int], str | None]


def _writers_and_readers(root: Path, seed: int) -> str | None:
    """Writers add candidates to the same bundle concurrently; readers load it until all have finished."""
    del seed
    shop, done = root / "shop", root / "done"
    before = set(Retriever.load(shop).candidates["item"].to_pylist())

    def write(number: int) -> None:
        for item in _items(number):
            with editing(shop) as retriever:
                retriever.add(pa.table({"item": [item]})).save(shop)

    def read(number: int) -> None:
        del number
        while not done.exists():
            Retriever.load(shop)

    writers = [_forked(write, number) for number in range(WRITERS)]
    readers = [_forked(read, number) for number in range(READERS)]
    codes = [os.waitpid(child, 0)[1] for child in writers]
    done.touch()
    codes += [os.waitpid(child, 0)[1] for child in readers]
    if any(codes):
        return f"of {WRITERS} writers and {READERS} readers some failed: {codes}"
    found = set(Retriever.load(shop).candidates["item"].to_pylist())
    expected = before | {item for number in range(WRITERS) for item in _items(number)}
    return None if found == expected else f"candidates {sorted(found)}; expected {sorted(expected)}"


def _items(writer: int) -> list[int]:
    return [100 * (writer + 1) + number for number in range(ADDITIONS)]


def _forked(work: Callable[[int], None], number: int) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(number)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def _truncated_while_served(root: Path, seed: int) -> str | None:
    """Truncates a file of a served bundle in place: the loaded bundle must keep answering, and a reload be refused."""
    draw, shop = random.Random(seed), root / "shop"
    served = Served(shop)
    before = served.retriever().recommend({"user": 3}, 5)
    path = draw.choice(sorted(path for path in shop.rglob("*") if path.is_file()))
    os.truncate(path, draw.randrange(path.stat().st_size))
    time.sleep(0.001)
    try:
        if served.reload():
            return f"with {path.name} truncated, the bundle was swapped in"
    except SavedFolderError:
        pass
    else:
        return f"with {path.name} truncated, the bundle was not refused"
    return None if served.retriever().recommend({"user": 3}, 5) == before else "the answers have changed"


def _stopped_under_load(root: Path, seed: int) -> str | None:
    """Sends SIGTERM to a service while clients ask it: every request that was sent must be answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scenario = Scenario("", lambda root: ["serve", root / "shop", "--port", port], lambda _: "")
    service = _forked(lambda _: sys.exit(scenario.run(root)), 0)
    with ThreadPoolExecutor(CLIENTS) as pool:
        answered = list[int]()
        clients = [pool.submit(_asked_until_refused, port, answered) for _ in range(CLIENTS)]
        while len(answered) < 10 * CLIENTS and not any(client.done() for client in clients):
            time.sleep(0.01)
        time.sleep(random.Random(seed).random())
        os.kill(service, signal.SIGTERM)
        problems = [problem for client in clients if (problem := client.result())]
    code = os.waitstatus_to_exitcode(os.waitpid(service, 0)[1])
    return problems[0] if problems else None if code == 0 else f"the service ended with {code}"


def _asked_until_refused(port: int, answered: list[int]) -> str | None:
    """Asks a service until it refuses connections; returns what went wrong before. Notes each answer in `answered`."""
    body, headers = b'{"query": {"user": 3}, "k": 5}', {"content-type": "application/json"}
    answers, began = 0, time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while True:
        try:
            connection.request("POST", "/v1/recommend", body, headers)
            answer = connection.getresponse()
            if answer.status != 200 or not answer.read().endswith(b"}"):
                return f"answer {answers} has status {answer.status}"
            answers += 1
            answered.append(answers)
        except ConnectionRefusedError:
            connection.close()
            if answers:
                return None
            if time.monotonic() - began > 60:
                return "the service did not start"
            time.sleep(0.01)  # it is starting
        except (OSError, http.client.HTTPException) as error:
            return f"after {answers} answers: {error!r}"


SIEGES = (
    Siege("candidates add", f"{WRITERS} writers, {READERS} readers", 20, _writers_and_readers),
    Siege("serve", "bundle truncated in place", 100, _truncated_while_served),
    Siege("serve", "SIGTERM under load", 20, _stopped_under_load),
)
