"""What every store promises, whichever way it keeps candidates; and what those beyond the process promise besides."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from twotower.errors import ConfigError, DataError, ParityError, StoreUnavailableError, StoreVersionError
from twotower.retrieval import Exact, ExactIndex, Hnsw
from twotower.retrieval.conditions import Condition
from twotower.retrieval.stores import milvus as milvus_module
from twotower.retrieval.stores import milvus_collections, pgvector
from twotower.retrieval.stores.local import LocalStore
from twotower.retrieval.stores.milvus import Milvus, MilvusStore
from twotower.retrieval.stores.milvus_client import Client
from twotower.retrieval.stores.pgvector import PgVector
from twotower.retrieval.stores.postgres import Connections
from twotower.retrieval.stores.store import Publication, Store, StoreSettings
from twotower.testing import check_store
from twotower.testing.servers import MilvusServer, Postgres
from twotower.testing.stores import catalogue

TOWERS = "0123456789ab"
EMBEDDINGS = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))


def publication(
    embeddings: Tensor = EMBEDDINGS, towers: str = TOWERS, threshold: float | None = 0.9, table: pa.Table | None = None
) -> Publication:
    table = catalogue(range(len(embeddings))) if table is None else table
    return Publication(table, embeddings, "id", towers, embeddings[:20].flip(1), threshold)


@pytest.mark.parametrize("kind", [Exact(), Hnsw(neighbours=8, build=40, search=64)], ids=["exact", "hnsw"])
def test_a_store_in_memory_keeps_what_stores_promise(kind: Exact | Hnsw) -> None:
    check_store(lambda table, embeddings: LocalStore(kind.make(embeddings), table, "id", TOWERS))


def test_a_store_that_fails_its_suite_is_closed() -> None:
    closed = []

    class Short(LocalStore):
        def __len__(self) -> int:
            return 3

        def close(self) -> None:
            closed.append(True)

    with pytest.raises(AssertionError, match="it has 3 candidates"):
        check_store(lambda table, embeddings: Short(ExactIndex(embeddings), table, "id", TOWERS))
    assert closed == [True]


@pytest.fixture(params=["pgvector", "milvus"])
def settings(request: pytest.FixtureRequest, store_name: Callable[[], str]) -> Iterator[PgVector | Milvus]:
    """A store of each kind beyond the process, with nothing in it."""
    if request.param == "pgvector":
        server: Postgres = request.getfixturevalue("postgres")
        yield PgVector(server.address, store_name())
        return
    milvus: MilvusServer = request.getfixturevalue("milvus")
    yield Milvus(milvus.address, store_name())


def test_milvus_lite_keeps_candidates_in_a_file(tmp_path: Path) -> None:
    manager = pytest.importorskip("milvus_lite.server_manager").server_manager_instance
    settings = Milvus(str(tmp_path / "own.db"), "own")
    published, _ = settings.publish(publication())
    before = published.open(TOWERS).search(EMBEDDINGS[:2], 5, [[1, 2], []])
    manager.release_server(settings.address)
    again = published.open(TOWERS).search(EMBEDDINGS[:2], 5, [[1, 2], []])
    assert [one.candidates for one in again] == [one.candidates for one in before]
    manager.release_server(settings.address)


def test_a_store_beyond_the_process_keeps_what_stores_promise(settings: PgVector | Milvus) -> None:
    def make(table: pa.Table, embeddings: Tensor) -> Store:
        published, parity = settings.publish(publication(embeddings, table=table))
        assert parity.recall >= 0.9
        return published.open(TOWERS)

    check_store(make)


def test_other_towers_are_refused(settings: PgVector | Milvus) -> None:
    empty = settings.open(TOWERS)
    with pytest.raises(StoreVersionError, match=f"has none; expected towers {TOWERS}"):
        empty.search(EMBEDDINGS[:1], 3)
    settings.publish(publication())
    assert len(empty.search(EMBEDDINGS[:1], 3)[0].scores) == 3
    other = settings.open("ba9876543210")
    for work in (lambda: other.search(EMBEDDINGS[:1], 3), lambda: other.upsert(catalogue([1]), EMBEDDINGS[:1])):
        with pytest.raises(StoreVersionError, match=f"has vectors of towers {TOWERS}; expected towers ba9876543210"):
            work()


def test_a_new_models_vectors_take_over_while_the_old_ones_still_answer(settings: PgVector | Milvus) -> None:
    settings.publish(publication())
    old = settings.open(TOWERS)
    before = old.search(EMBEDDINGS[:3], 5)
    settings.publish(publication(torch.randn(70, 6), "ba9876543210", None))
    again, anew = old.search(EMBEDDINGS[:3], 5), settings.open("ba9876543210")
    assert [one.candidates for one in again] == [one.candidates for one in before]
    assert [len(old), len(anew), len(settings.open(TOWERS))] == [60, 70, 60]
    assert anew.schema.names == catalogue([]).column_names
    settings.publish(publication(torch.randn(80, 6), "ba9876543210", None))
    assert len(settings.open("ba9876543210")) == 80
    with pytest.raises(StoreVersionError, match="has vectors of towers ba9876543210; expected towers 0123456789ab"):
        old.search(EMBEDDINGS[:3], 5)  # two models later they are gone


def test_what_finds_too_little_does_not_become_live(settings: PgVector | Milvus) -> None:
    settings.publish(publication())
    with pytest.raises(ParityError, match=r"store finds 1\.000 .*; expected at least 1\.5: build a larger"):
        settings.publish(publication(torch.randn(30, 4), threshold=1.5))
    assert len(settings.open(TOWERS)) == 60


def test_what_cannot_be_kept_is_refused_and_the_live_one_stays(settings: PgVector | Milvus) -> None:
    settings.publish(publication())
    table = pa.table({"id": [1, 2], "price": [1.0, float("inf")]})
    with pytest.raises(DataError, match="column 'price' has a number that is not finite"):
        settings.publish(publication(EMBEDDINGS[:2], table=table))
    assert len(settings.open(TOWERS)) == 60
    settings.publish(publication(torch.randn(9, 4)))  # what the failure left is not in the way
    assert len(settings.open(TOWERS)) == 9


def test_ids_may_be_text_and_columns_of_any_name(settings: PgVector | Milvus) -> None:
    ids = ["a'b", 'c"d', "e\\f", "g\nh", "%s", "é"]
    table = pa.table({"the id": ids, 'x "y" %s; --': [1, 2, 3, 4, 5, None], "embedding": ["a"] * 6, "raw": [b"x"] * 6})
    vectors = torch.eye(6)
    published, _ = settings.publish(Publication(table, vectors, "the id", TOWERS, vectors, None))
    store = published.open(TOWERS)
    assert store.schema.names == ["the id", 'x "y" %s; --', "embedding"]
    for place, own in enumerate(ids):
        (found,) = store.search(vectors[place : place + 1], 1)
        assert found.candidates["the id"].to_pylist() == [own]
        (found,) = store.search(vectors[place : place + 1], 9, [[own, "other"]])
        assert sorted(found.candidates["the id"].to_pylist()) == sorted(set(ids) - {own})
    condition = Condition.parse('`x "y" %s; --` > 3 and embedding = "a"', store.schema)
    (found,) = store.search(vectors[:1], 9, condition=condition)
    assert sorted(found.candidates["the id"].to_pylist()) == ["%s", "g\nh"]
    store.withdraw(["a'b", "%s"])
    assert len(store) == 4


def test_many_excluded_leave_exactly_k(settings: PgVector | Milvus) -> None:
    embeddings = torch.randn(1500, 4, generator=torch.Generator().manual_seed(2))
    published, _ = settings.publish(publication(embeddings))
    store = published.open(TOWERS)
    best = (embeddings @ EMBEDDINGS[0]).argsort(descending=True).tolist()
    for out in (best[:700], best[:1495], best):
        (found,) = store.search(EMBEDDINGS[:1], 10, [out])
        assert found.candidates["id"].to_pylist()[:5] == best[len(out) : len(out) + 10][:5]
        assert len(found.scores) == min(10, 1500 - len(out))


@pytest.mark.parametrize("address", ["postgresql://ann:s3cret@db/x", "postgresql://db/x?password=s3cret"])
def test_a_password_in_an_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError, match=r"contains a password.*PGPASSWORD") as refused:
        PgVector(address)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PgVector("mysql://db/x"), "expected postgresql://"),
        (lambda: PgVector("postgresql://[db/x"), "cannot be read as a URL"),
        (lambda: PgVector("postgresql://db/x", "Movies; drop"), "store name .*; expected up to 40 lowercase letters"),
        (lambda: PgVector("postgresql://db/x", build=10), "expected from 2 to 100 neighbours"),
        (lambda: PgVector("postgresql://db/x", timeout=0.0), "expected seconds above 0"),
        (lambda: Milvus("milvus://root:s3cret@db"), "contains a password.*MILVUS_TOKEN"),
        (lambda: Milvus("shop.sqlite"), "expected milvus://"),
        (lambda: Milvus("x.db", search=0), "search from 1 to"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(make: Callable[[], StoreSettings], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_a_server_that_is_away_is_said_so_and_answers_when_it_is_back(
    postgres: Postgres, store_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twotower.retrieval.stores.postgres.PAUSE_SECONDS", 0.0)
    published, _ = PgVector(postgres.address, store_name()).publish(publication())
    store = published.open(TOWERS)
    before = store.search(EMBEDDINGS[:2], 3)
    postgres.kill()
    try:
        with pytest.raises(StoreUnavailableError, match=f"PostgreSQL at {postgres.address} is unavailable") as away:
            store.search(EMBEDDINGS[:2], 3)
        assert postgres.password not in str(away.value)
    finally:
        postgres.start()
    assert [one.candidates for one in store.search(EMBEDDINGS[:2], 3)] == [one.candidates for one in before]
    postgres.stop()  # connections that are kept break while nobody looks
    postgres.start()
    store.upsert(catalogue([99]), 9 * EMBEDDINGS[:1])
    assert store.search(EMBEDDINGS[:1], 1)[0].candidates["id"].to_pylist() == [99]


def test_milvus_that_is_away_is_said_so_and_answers_when_it_is_back(
    milvus: MilvusServer, store_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twotower.retrieval.stores.milvus_client.PAUSE_SECONDS", 0.0)
    published, _ = Milvus(milvus.address, store_name(), timeout=1.0).publish(publication())
    store = published.open(TOWERS)
    before = store.search(EMBEDDINGS[:2], 3)
    milvus.stop()
    try:
        with pytest.raises(StoreUnavailableError, match=f"Milvus at {milvus.address} is unavailable"):
            store.search(EMBEDDINGS[:2], 3)
    finally:
        milvus.start()
    end = time.monotonic() + 30
    while True:
        try:
            again = store.search(EMBEDDINGS[:2], 3)
            break
        except StoreUnavailableError:  # gRPC waits a while before it connects anew
            assert time.monotonic() < end
    assert [one.candidates for one in again] == [one.candidates for one in before]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's table of connections")
def test_each_client_of_milvus_has_a_connection_and_closes_it(tmp_path: Path) -> None:
    server = MilvusServer(tmp_path)
    server.start()
    try:
        clients = [Client(server.address, 10) for _ in range(2)]
        assert [client.repeatable(lambda own: own.list_collections()) for client in clients] == [[], []]
        assert connections(server.port) == 2
        for left, client in zip((1, 0), clients, strict=True):
            client.close()
            end = time.monotonic() + 10
            while connections(server.port) > left and time.monotonic() < end:
                time.sleep(0.01)
            assert connections(server.port) == left
    finally:
        server.stop()


def test_the_token_for_milvus_is_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    pymilvus = pytest.importorskip("pymilvus")
    monkeypatch.setattr(pymilvus, "MilvusClient", lambda *_, token, **__: given.append(token))

    def connect() -> str:
        Client("milvus://db.example:19530", 1)._connected()
        return given[-1]

    monkeypatch.delenv("MILVUS_TOKEN", raising=False)
    assert connect() == ""
    monkeypatch.setenv("MILVUS_TOKEN", "root:Milvus")
    assert connect() == "root:Milvus"
    (tmp_path / "token").write_text("from-a-file\n")
    monkeypatch.setenv("MILVUS_TOKEN_FILE", str(tmp_path / "token"))
    assert connect() == "from-a-file"
    monkeypatch.setenv("MILVUS_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="MILVUS_TOKEN_FILE"):
        connect()


def connections(port: int) -> int:
    """Connections from here to a port of this machine, by Linux's tables of them (state 1 is established)."""
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def test_a_search_that_takes_too_long_is_given_up(postgres: Postgres, store_name: Callable[[], str]) -> None:
    import psycopg

    published, _ = PgVector(postgres.address, store_name(), timeout=0.3).publish(publication())
    store = published.open(TOWERS)
    assert len(store) == 60
    with psycopg.connect(postgres.address) as other:
        other.execute(f"LOCK TABLE {published.name}_1 IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailableError, match="statement timeout"):
            store.search(EMBEDDINGS[:1], 3)
    assert len(store.search(EMBEDDINGS[:1], 3)[0].scores) == 3


def test_readers_see_one_model_or_the_other(postgres: Postgres, store_name: Callable[[], str]) -> None:
    import psycopg

    settings = PgVector(postgres.address, store_name())
    settings.publish(publication())
    settings.publish(publication(torch.randn(70, 4)))
    with psycopg.connect(postgres.address) as other:
        rows: Any = other.execute(f"SELECT count(*) FROM {settings.name}").fetchone()
        assert rows[0] == 70
        live: Any = other.execute(
            "SELECT generation FROM twotower_stores WHERE name = %s AND is_live", [settings.name]
        ).fetchall()
    assert live == [(2,)]


def tables_of(server: Postgres, *statements: str) -> list[Any]:
    """What statements give, each run for itself."""
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(server.address, autocommit=True) as connection:
        cursors = [connection.execute(statement) for statement in statements]
        return cursors[-1].fetchall() if cursors[-1].description else []


def test_tables_of_others_in_the_same_database_stay(postgres: Postgres, store_name: Callable[[], str]) -> None:
    name = store_name()
    tables_of(postgres, f"CREATE TABLE {name}_1 (film text)", f"INSERT INTO {name}_1 VALUES ('Alien')")
    settings = PgVector(postgres.address, name)
    for _ in range(4):
        published, _ = settings.publish(publication())
    assert tables_of(postgres, f"SELECT film FROM {name}_1") == [("Alien",)]
    assert len(published.open(TOWERS)) == len(EMBEDDINGS)


@pytest.mark.parametrize("kind", ["VIEW", "TABLE"])
def test_a_store_does_not_take_the_name_of_a_relation_of_others(
    kind: str, postgres: Postgres, store_name: Callable[[], str]
) -> None:
    name = store_name()
    tables_of(postgres, f"CREATE {kind} {name} AS SELECT 'Alien' AS film")
    with pytest.raises(ConfigError, match=f"relation '{name}' .* another name"):
        PgVector(postgres.address, name).publish(publication())
    assert tables_of(postgres, f"SELECT film FROM {name}") == [("Alien",)]


def test_collections_of_others_in_the_same_database_stay(milvus: MilvusServer, store_name: Callable[[], str]) -> None:
    name = store_name()
    client = pytest.importorskip("pymilvus").MilvusClient(uri=milvus.address.replace("milvus://", "http://"))
    client.create_collection(f"{name}_1", dimension=2)
    client.insert(f"{name}_1", [{"id": 7, "vector": [1.0, 2.0]}])
    for _ in range(4):
        published, _ = Milvus(milvus.address, name).publish(publication())
    assert client.get(f"{name}_1", ids=[7])[0]["id"] == 7
    assert len(published.open(TOWERS)) == len(EMBEDDINGS)
    client.close()


def test_a_store_does_not_take_the_name_of_a_collection_of_others(
    milvus: MilvusServer, store_name: Callable[[], str]
) -> None:
    name = store_name()
    client = pytest.importorskip("pymilvus").MilvusClient(uri=milvus.address.replace("milvus://", "http://"))
    client.create_collection(name, dimension=2)
    with pytest.raises(ConfigError, match=f"collection '{name}' .* another name"):
        Milvus(milvus.address, name).publish(publication())
    assert client.list_collections().count(name) == 1
    client.close()


def test_a_publication_under_way_is_left_alone_until_it_is_abandoned(
    milvus: MilvusServer, store_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Milvus(milvus.address, store_name())
    connection = Client(settings.address, 60.0)
    other = connection.repeatable(
        lambda client: milvus_collections.fill(connection, client, settings.name, 1, publication(), (8, 40))
    )
    settings.publish(publication())
    assert connection.repeatable(lambda client: client.has_collection(other.relation))
    monkeypatch.setattr(milvus_collections, "ABANDONED_SECONDS", 0.0)
    settings.publish(publication())
    assert not connection.repeatable(lambda client: client.has_collection(other.relation))
    connection.close()


@pytest.mark.parametrize("failing", ["fitted_store", "make_live", None])
def test_publishing_closes_the_connections_of_pgvector(
    failing: str | None, postgres: Postgres, store_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = Connections._connected
    made = []

    def recorded(self: Connections, seconds: float) -> Any:
        made.append(connected(self, seconds))
        return made[-1]

    monkeypatch.setattr(Connections, "_connected", recorded)
    published_with(PgVector(postgres.address, store_name()), pgvector, failing, monkeypatch)
    assert len(made) == 2  # the publisher's and the store's, however often that was widened
    assert all(one.closed for one in made)


@pytest.mark.parametrize("failing", ["fitted_store", "make_live", None])
def test_publishing_closes_the_connection_of_milvus(
    failing: str | None, milvus: MilvusServer, store_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, close = Client._made, Client.close
    made, closed = [], []

    def recorded(self: Client) -> Any:
        made.append(make(self))
        return made[-1]

    def closing(self: Client) -> None:
        closed.append(self._client)
        close(self)

    monkeypatch.setattr(Client, "_made", recorded)
    monkeypatch.setattr(Client, "close", closing)
    published_with(Milvus(milvus.address, store_name()), milvus_module, failing, monkeypatch)
    assert len(made) == 1  # however often the search was widened
    assert closed == made


def published_with(
    settings: PgVector | Milvus, module: ModuleType, failing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishes where the recall is too low at any width, where the last step fails, or where nothing fails."""
    if failing == "fitted_store":
        with pytest.raises(ParityError):
            settings.publish(publication(threshold=1.5))
        return
    if failing is None:
        settings.publish(publication())
        return

    def broken(*_: object) -> None:
        raise DataError("broken")

    monkeypatch.setattr(module, failing, broken)
    with pytest.raises(DataError, match="broken"):
        settings.publish(publication())


def test_a_scan_that_breaks_off_is_closed(
    milvus: MilvusServer, store_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = pytest.importorskip("pymilvus.orm.iterator").QueryIterator
    published, _ = Milvus(milvus.address, store_name()).publish(publication())
    store = published.open(TOWERS)
    assert isinstance(store, MilvusStore)
    closed = []

    def broken(_: object) -> None:
        raise DataError("broken")

    monkeypatch.setattr(pages, "next", broken)
    monkeypatch.setattr(pages, "close", lambda _: closed.append(True))
    with pytest.raises(DataError, match="broken"):
        store._on(lambda client, own: store._all(client, own, EMBEDDINGS[0], 3, f"{own.key.stored} not in []"))
    assert closed == [True]
    store.close()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs signals that stop a process")
def test_milvus_that_does_not_answer_is_given_up(tmp_path: Path, store_name: Callable[[], str]) -> None:
    """pymilvus alone would wait for ever for an answer over a connection that stands."""
    server = MilvusServer(tmp_path)
    server.start()
    assert server.process is not None
    try:
        published, _ = Milvus(server.address, store_name(), timeout=1.0).publish(publication())
        store = published.open(TOWERS)
        assert isinstance(store, MilvusStore)
        store.client.repeatable(lambda client: client.has_collection("other"))  # so that the connection stands
        server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreUnavailableError, match=f"Milvus at {server.address} is unavailable"):
            store.search(EMBEDDINGS[:2], 3)
        server.process.send_signal(signal.SIGCONT)
        store.close()
    finally:
        server.process.send_signal(signal.SIGCONT)
        server.stop()


def test_vectors_of_the_same_towers_are_found_again_where_they_were_published_anew(settings: PgVector | Milvus) -> None:
    """Also where the new catalogue is of longer vectors, by which those of the store are lengthened."""
    settings.publish(publication())
    store = settings.open(TOWERS)
    others = [store, settings.open(TOWERS), settings.open(TOWERS)]
    assert [len(one) for one in others] == [60, 60, 60]
    longer = 3 * EMBEDDINGS
    for _ in range(2):  # the first catalogue is gone then
        settings.publish(publication(longer))
    (found,) = others[0].search(EMBEDDINGS[:1], 3)
    assert found.candidates["id"].to_pylist() == (longer @ EMBEDDINGS[0]).topk(3).indices.tolist()
    others[1].upsert(catalogue([99]), 20 * EMBEDDINGS[:1])
    (found,) = others[2].search(EMBEDDINGS[:1], 1)
    assert found.candidates["id"].to_pylist() == [99]
    assert found.scores.tolist() == pytest.approx([20 * float(EMBEDDINGS[0] @ EMBEDDINGS[0])])
    for one in others:
        one.close()
