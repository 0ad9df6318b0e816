"""A bundle whose candidates are in a store: the same answers, changes at once, and 503 while it is unavailable."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from serving_fixtures import Client
from twotower import Retriever
from twotower.cli.main import app
from twotower.errors import ConfigError, DataError, StoreUnavailableError
from twotower.model.saving import model_version
from twotower.retrieval.bundle import Bundle, with_version
from twotower.retrieval.publishing import at_address, store_at, with_store
from twotower.serving.logs import JsonLines, log
from twotower.testing.servers import MilvusServer, Postgres

ASKED: list[dict[str, Any]] = [{"user": 3}, {"user": 5}, {"city": "Ulm"}, {"history": [1, 2, 3]}, {}]


def run(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return msgspec.json.decode(done.stdout, type=dict[str, Any])


@pytest.fixture(params=["pgvector", "milvus"])
def address(request: pytest.FixtureRequest) -> str:
    server: Postgres | MilvusServer = request.getfixturevalue(
        "postgres" if request.param == "pgvector" else request.param
    )
    return server.address


@pytest.fixture
def stored(bundle: Path, address: str, store_name: Callable[[], str]) -> Path:
    """A bundle whose candidates are in a store."""
    said = run("bundle", bundle, "--out", bundle, "--store", address, "--store-name", store_name())
    assert said["parity"]["recall"] >= 0.95
    assert said["store"]["address"] == address
    return bundle


@pytest.fixture
def in_postgres(bundle: Path, postgres: Postgres, store_name: Callable[[], str]) -> Path:
    run("bundle", bundle, "--out", bundle, "--store", postgres.address, "--store-name", store_name())
    return bundle


def found(retriever: Retriever, **filters: Any) -> list[Any]:
    answers = retriever.recommend_many(ASKED, 7, **filters)
    return [(one.basis, [(own.id, round(own.score, 4), own.candidate) for own in one]) for one in answers]


def test_a_store_gives_the_answers_of_an_exact_index(stored: Path, retriever: Retriever) -> None:
    other = Retriever.load(stored)
    filters: list[dict[str, Any]] = [
        {},
        {"exclude_seen": False},
        {"exclude": [1, 2, 999], "where": "year >= 1992"},
        {"allow": [4, 5, 6, 7, 999], "where": "not genres contains 'Comedy'"},
        {"allow": []},
        {"where": "title contains 'NUMBER 2'"},
    ]
    for own in filters:
        assert found(other, **own) == found(retriever, **own)
    assert other.similar(3, 4).recommendations == retriever.similar(3, 4).recommendations
    with pytest.raises(ConfigError, match="character 1: found 'yeer'"):
        other.recommend(3, where="yeer > 3")
    with pytest.raises(DataError, match="expected an id, which is a whole number"):
        other.recommend(3, exclude=["x"])


def test_candidates_are_found_as_soon_as_they_are_added(stored: Path, tmp_path: Path) -> None:
    serving = Retriever.load(stored)
    best = serving.recommend({"user": 3}, 1, exclude_seen=False)[0]
    changed = pa.table(
        {"item": [best.id, 99], "title": ["new title", "new"], "year": [1, 2], "genres": [["War"], None]}
    )
    pq.write_table(changed, tmp_path / "new.parquet")
    run("candidates", "add", stored, tmp_path / "new.parquet")
    assert serving.recommend({"user": 3}, 1, exclude_seen=False)[0].candidate["title"] == "new title"
    (own,) = serving.recommend({"user": 3}, 5, where="title = 'new'")
    assert own.candidate == {"item": 99, "title": "new", "year": 2, "genres": None}
    assert len(serving.recommend({"user": 3}, 5, where="title = 'new'", exclude=[99])) == 0  # which its bundle lacks
    run("candidates", "withdraw", stored, best.id)
    assert best.id not in [one.id for one in serving.recommend({"user": 3}, 40, exclude_seen=False)]
    assert Retriever.load(stored).candidates.num_rows == 30


def test_columns_that_a_store_cannot_keep_come_from_the_bundle(
    bundle: Path, postgres: Postgres, store_name: Callable[[], str], tmp_path: Path
) -> None:
    pairs = pa.array([[float(number), 2.0] for number in range(30)], pa.list_(pa.float32(), 2))
    table = pa.table({"item": range(30), "title": ["a"] * 30, "pair": pairs})
    pq.write_table(table, tmp_path / "new.parquet")
    run(
        *("bundle", bundle, "--out", bundle, "--candidates", tmp_path / "new.parquet", "--parity", 0),
        *("--store", f'{{"kind": "pgvector", "address": "{postgres.address}", "neighbours": 8}}'),
        *("--store-name", store_name()),
    )
    (own,) = Retriever.load(bundle).recommend({"user": 3}, 1, exclude_seen=False)
    assert own.candidate == table.to_pylist()[int(own.id)]


def test_bulk_recommendations_come_from_a_store_too(stored: Path, tmp_path: Path, retriever: Retriever) -> None:
    pq.write_table(pa.table({"user": [3, 5, 900]}), tmp_path / "queries.parquet")
    done = CliRunner().invoke(
        app,
        [
            "recommend",
            str(stored),
            "--queries",
            str(tmp_path / "queries.parquet"),
            "--out",
            str(tmp_path / "out.parquet"),
        ],
    )
    assert done.exit_code == 0, done.output
    expected = [[own.id for own in retriever.recommend({"user": user})] for user in (3, 5, 900)]
    assert pq.read_table(tmp_path / "out.parquet")["candidates"].to_pylist() == expected


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the service logs."""
    written: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(JsonLines().format(record))

    handler = Keeping()
    log.addHandler(handler)
    yield written
    log.removeHandler(handler)


def test_the_service_says_that_the_store_is_away_and_answers_when_it_is_back(
    in_postgres: Path,
    postgres: Postgres,
    client_of: Callable[..., Client],
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("twotower.retrieval.stores.postgres.PAUSE_SECONDS", 0.0)
    client = client_of(in_postgres)
    before = client.post("/v1/recommend", json={"query": {"user": 3}})
    assert before.status_code == 200
    postgres.kill()
    try:
        away = client.post("/v1/recommend", json={"query": {"user": 3}})
        assert (away.status_code, away.json()["error"]["code"], away.headers["retry-after"]) == (
            503,
            "store_unavailable",
            "1",
        )
        assert str(postgres.port) not in away.text
        assert client.post("/v1/recommend", json={"query": {}}).status_code == 200  # by popularity
        assert client.get("/v2/health/ready").status_code == 200
        second = client_of(in_postgres)  # starts, and waits for its store
        assert second.post("/v1/recommend", json={"query": {"user": 3}}).status_code == 503
        assert "twotower_store_failures_total 1.0" in client.get("/metrics").text
    finally:
        postgres.start()
    for one in (client, second):
        assert one.post("/v1/recommend", json={"query": {"user": 3}}).json() == before.json()
    said = "\n".join(lines)
    assert "is unavailable" in said
    kept = b"".join(path.read_bytes() for path in in_postgres.rglob("*") if path.is_file())
    assert postgres.password not in said + away.text + before.text + client.get("/v1/model").text
    assert postgres.password.encode() not in kept
    assert client.get("/v1/model").json()["index"] == "pgvector"


def test_a_wrong_password_is_not_shown(
    in_postgres: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGPASSWORD", "wrong-secret")
    with pytest.raises(StoreUnavailableError, match="password authentication failed") as refused:
        Retriever.load(in_postgres).recommend({"user": 3})
    assert "wrong-secret" not in str(refused.value)
    monkeypatch.delenv("PGPASSWORD")
    file = tmp_path / "pgpass"
    file.write_text(f"*:*:*:*:{postgres.password}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert len(Retriever.load(in_postgres).recommend({"user": 3})) == 10


def test_a_model_of_other_towers_takes_over_without_a_failed_or_mixed_answer(
    in_postgres: Path, postgres: Postgres, client_of: Callable[..., Client], tmp_path: Path
) -> None:
    old = Retriever.load(in_postgres)
    other = with_store(of_other_towers(Retriever.load(in_postgres).bundle), old.details.store, 0.9)  # type: ignore[arg-type]
    expected = {one.version: one.recommend({"user": 3}, 5) for one in (old, Retriever(other))}
    assert len(expected) == 2
    client = client_of(in_postgres)
    ended = threading.Event()
    answers: list[Any] = []

    def swap() -> None:
        Retriever(other).save(in_postgres)
        client.service.served.reload()
        ended.set()

    swapping = threading.Thread(target=swap)
    swapping.start()
    while not ended.is_set() or len(answers) < 5 or len({one["version"] for one in answers}) < 2:
        answer = client.post("/v1/recommend", json={"query": {"user": 3}, "k": 5})
        assert answer.status_code == 200
        answers.append(answer.json())
    swapping.join()
    assert answers[-1]["version"] == other.details.version
    for one in answers:
        own = one["answers"][0]["recommendations"]
        assert [round(found["score"], 4) for found in own] == [
            round(found.score, 4) for found in expected[one["version"]]
        ]


def test_a_service_keeps_its_vectors_when_a_publication_is_interrupted_and_repeated(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = Retriever.load(stored)
    before, settings = found(serving), serving.details.store
    Retriever(of_other_towers(Retriever.load(stored).bundle)).save(tmp_path / "next")
    publish = ("bundle", tmp_path / "next", "--out", stored, "--store", settings.address, "--store-name", settings.name)  # type: ignore[union-attr]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Retriever, "save", interrupted)  # the vectors are live, and the bundle is not replaced
        with pytest.raises(AssertionError):
            run(*publish)
    assert found(serving) == before
    run(*publish)
    assert found(serving) == before
    assert Retriever.load(stored).version != serving.version


def of_other_towers(bundle: Bundle) -> Bundle:
    """A bundle whose towers have other weights."""
    model = bundle.model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    details = msgspec.structs.replace(bundle.details, towers=model_version(model), store=None)
    index = bundle.details.index.make(model.embed_candidates(bundle.candidates))
    return with_version(
        Bundle(model, bundle.candidates, bundle.queries, bundle.seen, bundle.popularity, index, details)
    )


def test_the_address_of_a_store_may_be_another_where_it_is_served(in_postgres: Path, postgres: Postgres) -> None:
    moved = postgres.address.replace("127.0.0.1", "localhost")
    other = Retriever.load(in_postgres, store=moved)
    assert other.version == Retriever.load(in_postgres).version
    assert len(other.recommend({"user": 3})) == 10
    with pytest.raises(ConfigError, match="is not the same kind as"):
        Retriever.load(in_postgres, store="./x.db")


def test_what_is_no_store_is_refused(retriever: Retriever) -> None:
    with pytest.raises(ConfigError, match="has no store"):
        at_address(retriever.bundle, "./x.db")
    with pytest.raises(ConfigError, match=r"store 'db/x'; expected postgresql://"):
        store_at("mysql://ann:secret@db/x")
    with pytest.raises(ConfigError, match="store kind 'redis' is unknown"):
        store_at('{"kind": "redis"}')
    with pytest.raises(ConfigError, match="the store is not a JSON object"):
        store_at("{")


def test_a_store_is_dropped_where_none_is_asked_for(in_postgres: Path, tmp_path: Path) -> None:
    assert run("bundle", in_postgres, "--out", tmp_path / "plain")["store"] is None
    shutil.rmtree(in_postgres)
    assert len(Retriever.load(tmp_path / "plain").recommend({"user": 3})) == 10
