"""Fuzz targets: seeds, dictionary words, and a function of bytes that may raise only twotower's own errors.

Nothing here needs atheris, so the tests can run the seeds and the inputs of former findings.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_bundles import BundleTarget, catalogue

from twotower import Category, Retriever, Tower, TwoTower
from twotower.data import Dataset, RandomSplit, from_tables, simulated, stream_parquet
from twotower.errors import TwoTowerError
from twotower.model.layers import MAX_WIDTH
from twotower.recipes.config import read_config
from twotower.recipes.recipe import recipe
from twotower.retrieval.conditions import matching_rows
from twotower.serving.endpoints import Endpoint
from twotower.serving.routes import ENDPOINTS
from twotower.serving.served import Served
from twotower.serving.service import Service
from twotower.serving.settings import Settings

ROLES: dict[str, Any] = {"query_id": "u", "candidate_id": "i", "time": "t", "weight": "w"}
WIDE = 9_999
"""Models with larger numbers are not built: layers with a million units are valid, but take gigabytes."""


@dataclass(frozen=True)
class Target:
    """One target to fuzz.

    Attributes:
        run: Runs an input; whatever it raises is a finding.
        seeds: Inputs to start from.
        words: Tokens for the fuzzer's dictionary.
        largest: Maximum length of an input in bytes.
        close: Stops background work.
    """

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    largest: int = 1 << 12
    close: Callable[[], None] = lambda: None


def conditions(folder: Path) -> Target:
    """Conditions over columns of every type."""
    del folder
    table = catalogue()

    def run(given: bytes) -> None:
        with suppress(TwoTowerError):
            matching_rows(table, given.decode("utf-8", "replace"))

    seeds = [
        b'year > 1990 and genres contains "war"', b"not (price <= 1.5 or title is null)", b"`item` in [1, 2, 3]",
        b'title != "item 3"', b"shown = true", b'day >= "1994-06-30" and at < 1e9', b"sizes contains 3 or small = 1",
    ]  # fmt: skip
    words = b"and or not in is null true false contains = != < <= > >= ( ) [ ] , ` \" ' \\ 1e309 -0 9223372036854775808"
    return Target(run, seeds, [*words.split(), *(name.encode() for name in table.column_names)], 400)


def bodies(folder: Path) -> Target:
    """Bodies and query strings of every endpoint of the HTTP service; a status of 500 or above is a finding."""
    log = served_log()
    model = TwoTower(Tower([Category("user", 4), Category("city", 4)], [4]), Tower([Category("item", 4)])).learn(log)
    Retriever.build(model.eval(), log.candidates, seen=log).save(folder / "bundle")
    service = Service(Served(folder / "bundle"), Settings(watch_seconds=None))
    service.start()
    loop = asyncio.new_event_loop()
    transport = httpx.ASGITransport(service, raise_app_exceptions=True)
    client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
    asked = [endpoint for endpoint in ENDPOINTS if endpoint.path != "/v1/reload"]

    def run(given: bytes) -> None:
        if given:
            endpoint, rest = asked[given[0] % len(asked)], given[1:]
            asking = client.request(endpoint.method, address(endpoint, rest), **body(endpoint, rest))
            answer = loop.run_until_complete(asking)
            assert answer.status_code < 500, answer.text
            if answer.headers.get("content-type", "").startswith("application/json"):
                msgspec.json.decode(answer.content)

    def close() -> None:
        loop.run_until_complete(client.aclose())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        service.close()

    seeds = [
        bytes([number]) + seed
        for number, endpoint in enumerate(asked)
        for seed in (SEED_QUERIES if endpoint.body is None else SEED_BODIES)
    ]
    names = b'"query" "queries" "user" "city" "k" "where" "exclude" "allow" "diversity" "exclude_seen" "candidate"'
    return Target(run, seeds, [*names.split(), b"null", b"true", b"1e999", b"k=", b"q=", b"&"], 1000, close)


SEED_BODIES = (
    b'{"query": {"user": 3}, "k": 5, "where": "year > 1992", "exclude": [1, 2]}',
    b'{"queries": [{"user": 3, "city": "Ulm"}, {"user": 99}], "exclude_seen": false, "diversity": 0.5}',
    b'{"query": {"user": 3}, "candidate": 4}',
    b'{"query": 7, "allow": [1, 5], "k": 1000}',
)
SEED_QUERIES = (b"k=5", b"q=item&k=3", b"user=3", b"")


def address(endpoint: Endpoint, given: bytes) -> str:
    """The URL of a request; if the endpoint takes no body, the input becomes the query string."""
    path = endpoint.path.replace("{candidate}", "3").replace("{query}", "3").replace("{id}", "3")
    return path if endpoint.body is not None or not given else f"{path}?{quote(given, safe='=&%+')}"


def body(endpoint: Endpoint, given: bytes) -> dict[str, Any]:
    """The request body, if the endpoint takes one."""
    if endpoint.body is None:
        return {}
    return {"content": given, "headers": {"content-type": "application/json"}}


def served_log() -> Dataset:
    """A log over `catalogue`."""
    draw = np.random.default_rng(0)
    items = catalogue()
    users = pa.table({"user": range(20), "city": ["Ulm", "Bonn"] * 10})
    log = pa.table({"user": draw.integers(20, size=200), "item": draw.integers(items.num_rows, size=200)})
    return from_tables(log, query_id="user", candidate_id="item", candidates=items, queries=users)


def configs(folder: Path) -> Target:
    """TOML configs: reads them, resolves the recipe and builds the model."""
    data, path = simulated(20, 30, 200), folder / "config.toml"
    base = recipe("tuned", data, RandomSplit())

    def run(given: bytes) -> None:
        if b"imports" in given:
            return
        path.write_bytes(given)
        with suppress(TwoTowerError):
            config = read_config(path)
            if not WIDE < largest(msgspec.to_builtins(config.model)) <= MAX_WIDTH:
                config.resolved_recipe(data)
                config.model.build(data, base)

    words = (
        b'[data] [split] [model] [training] [tune] [[tasks]] name = "simulated" interactions query_id layers dim kind'
    )
    return Target(run, SEED_CONFIGS, [*words.split(), b"nan", b"inf", b"-1", b"1979-05-27"], 600)


def largest(settings: Any) -> float:
    """The largest number in nested settings."""
    if isinstance(settings, dict | list):
        return max(map(largest, settings.values() if isinstance(settings, dict) else settings), default=0)
    return settings if isinstance(settings, int | float) else 0


SEED_CONFIGS = (
    b'[data]\nname = "simulated"\n[model]\nlayers = [16, 8]\ntemperature = 0.1\nlearn_temperature = true\n',
    b'[data]\ninteractions = "log.csv"\nquery_id = "u"\ncandidate_id = "i"\ntime = "t"\n[split]\nrule = "time:0.1"\n',
    b'[data]\nname = "simulated"\n[training]\nepochs = 2\nloss = {kind = "in_batch_softmax", uniform = 10}\n'
    b'optimizer = {kind = "adamw", learning_rate = 0.1}\nmonitor = "unseen.top_10"\nks = [5, 10]\n',
    b'[data]\nname = "simulated"\n[[model.query]]\nkind = "category"\ncolumn = "user_id"\ndim = 4\n',
    b'[data]\nname = "simulated"\n[[tasks]]\nkind = "retrieval"\n[[tasks]]\nkind = "rating"\ntarget = "stars"\n',
    b'[data]\nname = "simulated"\n[tune]\n"model.dim" = {low = 4, high = 64}\n[variants.a]\n"model.dim" = 4\n',
)  # fmt: skip


def csv_logs(folder: Path) -> Target:
    """CSV files as logs."""
    path = folder / "log.csv"

    def run(given: bytes) -> None:
        path.write_bytes(given)
        read_log(path)

    seeds = [
        b"u,i,t,w\n1,a,5,1.0\n2,b,6,0.5\n1,b,7,2\n",
        b'u;i;t;w\nann;"tea; black";2024-05-31T18:00:00;1\nbob;rum;2024-06-01;1\n',
        b"\xef\xbb\xbfu\ti\tt\tw\r\n007\tx\t1e3\t0\r\n8\ty\t2000\t1\r\n",
    ]
    words = [b"u", b"i", b"t", b"w", b'""', b"\r\n", b"nan", b"1e999", b"-1", b"2024-02-30", b"\xff\xfe", b"\x1f\x8b"]
    return Target(run, seeds, words, 600)


def parquet_logs(folder: Path) -> Target:
    """Parquet files as logs, in memory and streamed: with changed bytes, or with columns of any type and value."""
    path = folder / "log.parquet"
    made = io.BytesIO()
    pq.write_table(log_table([0, 0, 0, 0], bytes(range(40))), made)

    def run(given: bytes) -> None:
        if not given:
            return
        if given[0] % 2:  # the input replaces some bytes of a valid file
            raw = bytearray(made.getvalue())
            place = int.from_bytes(given[1:3], "little") % len(raw)
            raw[place : place + len(given) - 3] = given[3:]
            path.write_bytes(raw)
        else:
            try:
                pq.write_table(log_table(list(given[1:5].ljust(4, b"\0")), given[5:]), path)
            except (pa.ArrowException, ValueError, TypeError, OverflowError, NotImplementedError):
                return
        read_log(path)
        with suppress(TwoTowerError):
            stream_parquet(path, **ROLES)

    seeds = [b"\0" + bytes([kind, kind, kind, kind]) + bytes(range(40)) for kind in range(len(KINDS))]
    return Target(run, [*seeds, b"\1\4\0PAR1", b"\1\x10\2\xff\xff\xff\xff"], (), 200)


KINDS: Sequence[Callable[[list[int]], pa.Array]] = (
    lambda values: pa.array(values, pa.int64()),
    lambda values: pa.array([str(value) for value in values]),
    lambda values: pa.array([None if value > 200 else value - 128 for value in values], pa.int16()),
    lambda values: pa.array(values, pa.uint64()),
    lambda values: pa.array([value * 1e300 if value % 7 else float("nan") for value in values]),
    lambda values: pa.array([value % 2 == 0 for value in values]),
    lambda values: pa.array(values, pa.timestamp("ns", "UTC")),
    lambda values: pa.array(values, pa.date32()),
    lambda values: pa.array([str(value % 3) for value in values]).dictionary_encode(),
    lambda values: pa.array([[value] * (value % 3) for value in values]),
    lambda values: pa.array([{"a": value} for value in values]),
    lambda values: pa.array([bytes([value]) for value in values]),
    lambda values: pa.nulls(len(values)),
    lambda values: pa.array(values, pa.decimal128(20, 3)),
    lambda values: pa.array(values, pa.duration("s")),
    lambda values: pa.array(values, pa.time64("us")),
    lambda values: pa.array(values, pa.float16()),
    lambda values: pa.array([2**63 + value for value in values], pa.uint64()),
    lambda values: pa.array([-(2**62) - value for value in values], pa.timestamp("us")),
    lambda values: pa.array([str(value) for value in values], pa.large_string()),
)
"""Columns of various types, built from numbers from 0 to 255."""


def log_table(kinds: list[int], content: bytes) -> pa.Table:
    """A log whose columns have the given types, with values from the input."""
    rows = len(content) // 4
    columns = [KINDS[kind % len(KINDS)](list(content[rows * n : rows * (n + 1)])) for n, kind in enumerate(kinds)]
    return pa.table(dict(zip(ROLES.values(), columns, strict=True)))


def read_log(path: Path) -> None:
    """Reads a log from a file; it must either be refused or have valid events."""
    with suppress(TwoTowerError):
        log = from_tables(path, **ROLES)
        assert len(log) > 0
        assert 0 < log.weights.sum() < np.inf
        assert np.isfinite(log.times).all()


def bundles(folder: Path) -> Target:
    """Bundles with changed files and a rebuilt manifest: checksums agree, contents are untrusted."""
    target = BundleTarget(folder)
    return Target(target.run, target.seeds(), (), 64)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "bundles": bundles,
    "conditions": conditions,
    "bodies": bodies,
    "configs": configs,
    "csv": csv_logs,
    "parquet": parquet_logs,
}
"""Targets by name; each is created with its own working folder."""
