"""A small bundle, and clients of a service over it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyarrow as pa
import pytest

from toy import groups_log
from twotower import Category, History, Retriever, Tower, TwoTower
from twotower.data import from_tables
from twotower.evaluation import Evaluation, Scores
from twotower.evaluation.history import TrainingHistory
from twotower.retrieval import Notes
from twotower.serving.served import Served
from twotower.serving.service import Service
from twotower.serving.settings import Settings
from twotower.training import AdamW, Trainer

HOSTILE = '<img src=x id=a_b onerror="document.title=1"><script>document.title=2</script>'
"""A title that is markup."""


@pytest.fixture(scope="session")
def saved_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 40 queries and 30 candidates, of which number 7 has a hostile title."""
    plain = groups_log()
    numbers = list(range(30))
    log = from_tables(
        pa.table({"user": plain.query_index, "item": plain.candidate_index, "at": plain.times}),
        query_id="user",
        candidate_id="item",
        time="at",
        queries=pa.table({"user": list(range(40)), "city": ["Ulm" if n % 2 else "Bonn" for n in range(40)]}),
        candidates=pa.table(
            {
                "item": numbers,
                "title": [HOSTILE if n == 7 else f"item number {n}" for n in numbers],
                "year": [1990 + n % 5 for n in numbers],
                "genres": [["War"] if n % 3 else ["War", "Comedy"] for n in numbers],
            }
        ),
        name="toy",
    )
    model = TwoTower(
        Tower([Category("user", 8), Category("city", 4), History("item", "user", "at", length=5, dim=8)], [8]),
        Tower([Category("item", 8)], [8]),
    )
    history = Trainer(epochs=3, batch_size=256, optimizer=AdamW(0.02)).fit(model, log)
    epochs = [
        msgspec.structs.replace(one, validation=Scores({"top_10": one.epoch / 10}, {"top_10": 0.0}))
        for one in history.epochs
    ]
    notes = Notes(
        evaluation=Evaluation({"model": Scores({"top_10": 0.4}, {"top_10": 0.5})}, ["It is good."], "top_10"),
        history=TrainingHistory("all.top_10", epochs),
    )
    folder = tmp_path_factory.mktemp("served") / "toy.tower"
    Retriever.build(model, log.candidates, seen=log, notes=notes).save(folder)
    return folder


@pytest.fixture
def bundle(saved_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of one's own, which a test may change."""
    return Path(shutil.copytree(saved_bundle, tmp_path / "toy.tower"))


@pytest.fixture(scope="session")
def retriever(saved_bundle: Path) -> Retriever:
    return Retriever.load(saved_bundle)


class Client:
    """Asks a service of this process, without a network."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._loop = asyncio.new_event_loop()
        transport = httpx.ASGITransport(service, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        service.start()

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return self._loop.run_until_complete(self._client.request(method, path, **arguments))

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return self.request("GET", path, **arguments)

    def post(self, path: str, **arguments: Any) -> httpx.Response:
        return self.request("POST", path, **arguments)

    def close(self) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self.service.close()


@pytest.fixture
def client_of() -> Iterator[Callable[..., Client]]:
    """Makes clients of services in this process, which are ended with the test."""
    opened = []

    def make(bundle: Path, **settings: Any) -> Client:
        client = Client(Service(Served(bundle), Settings(**({"watch_seconds": None} | settings))))
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()
