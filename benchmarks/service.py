"""The service: latency under load and during bundle swaps, time to serve new candidates, and malformed bodies.

    python benchmarks/service.py load --candidates 100000 --dim 64 --rate 200 --seconds 30
    python benchmarks/service.py load --candidates 1000000 --dim 64 --index hnsw --rate 200 --seconds 30
    python benchmarks/service.py load --candidates 100000 --dim 64 --rerank 200 --rate 100 --seconds 30
    python benchmarks/service.py swap --candidates 100000 --dim 64 --rate 200 --seconds 30 --swaps 20 --corrupt 5
    python benchmarks/service.py added --candidates 100000 --dim 64 --additions 20
    python benchmarks/service.py malformed --requests 10000

The bundle has random id embeddings with a fixed seed: a point in a 16-dimensional space plus a little noise. `twotower
serve` and the client run in separate processes. Requests are sent at fixed times, even if earlier ones have not been
answered; latency counts from the time at which a request was due, so queueing is included. In `swap`, the scores of
every bundle are those of the first times a different power of two, so an answer with scores of another version than it
names is detected. In `added`, candidates are added to the served bundle one at a time, and a matching query asks for
its top k until the candidate appears; the time counts from before `Retriever.add`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import pyarrow as pa
import torch
from measuring import write_report
from rich.console import Console
from rich.table import Table

from twotower import Category, CrossHead, Rerank, Retriever, Tower, TwoTower
from twotower.data import Dataset, from_tables
from twotower.retrieval import Exact, Hnsw
from twotower.serving.served import Served
from twotower.serving.service import Service
from twotower.serving.settings import Settings

LATENT = 16
"""Dimensions of the space that the embeddings are close to."""

SEEN = 50
"""Candidates that a query has seen."""

VARIANTS = 4
"""Number of different bundles to swap."""

ADDED_WITHIN = 60.0
"""Seconds within which an added candidate must be recommended."""

WARM_UP_SECONDS = 2.0
"""Seconds of load before timing starts, in which connections open."""

MEGABYTE = 1 << 20


class Latency(msgspec.Struct, frozen=True):
    """Seconds from when a request was due until its answer was complete."""

    p50: float
    p90: float
    p99: float
    highest: float

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        """Computes the quantiles."""
        p50, p90, p99 = np.quantile(seconds, [0.5, 0.9, 0.99]).tolist()
        return cls(p50, p90, p99, max(seconds))


class Outcome(msgspec.Struct, frozen=True):
    """Results of a client.

    Attributes:
        requests: Number of requests sent.
        errors: Counts of errors by kind.
        mixed: Number of answers whose scores do not belong to the version that they name.
        versions: Number of answers by version.
        latency: Latency of the answers with status 200.
        parts: The same for each part of the time, if asked for; None for a part without answers.
    """

    requests: int
    errors: dict[str, int]
    mixed: int
    versions: dict[str, int]
    latency: Latency
    parts: list[Latency | None] = []


class Expected(msgspec.Struct, frozen=True):
    """Expected answers: each query's best score in the first bundle, and the factor of each version."""

    best: dict[str, float]
    factors: dict[str, float]


def model_of(options: argparse.Namespace) -> tuple[TwoTower, Dataset]:
    """A model of the given size, and the log of its queries; one extra query, never requested, has seen everything."""
    draw = np.random.default_rng(options.seed)
    who = np.repeat(np.arange(options.queries), SEEN)
    candidates = np.arange(options.candidates)
    what = np.concatenate([draw.integers(options.candidates, size=len(who)), candidates])
    who = np.concatenate([who, np.full(len(candidates), options.queries)])
    log = from_tables(
        pa.table({"query": who, "candidate": what}),
        query_id="query",
        candidate_id="candidate",
        queries=pa.table({"query": np.arange(options.queries + 1)}),
        candidates=pa.table({"candidate": candidates, "title": [f"candidate {number}" for number in candidates]}),
        name="drawn",
    )
    query, candidate = Category("query", options.dim), Category("candidate", options.dim)
    torch.manual_seed(options.seed)
    heads = {"ranking": CrossHead(count=2, rank=32)} if options.rerank else {}
    model = TwoTower(Tower([query], []), Tower([candidate], []), heads=heads)
    model.learn(log)
    space = torch.randn(min(LATENT, options.dim), options.dim)
    with torch.no_grad():
        for parameter in (*model.query.parameters(), *model.candidate.parameters()):
            near = torch.randn(len(parameter), len(space)) @ space
            parameter.copy_((near + 0.3 * torch.randn_like(parameter)) / len(space) ** 0.5)
    return model.eval(), log


def match_new_candidates(model: TwoTower, retriever: Retriever) -> None:
    """Changes the model so that candidates that training did not see are the best ones for query 0."""
    wish = torch.nn.functional.normalize(retriever.embed([{"query": 0}], [0])[0], dim=0)
    with torch.no_grad():  # row 0 of the table is for candidates that training did not see
        for table in model.candidate.parameters():
            table[0] = wish * table.norm(dim=1).max()


def double_scores(model: TwoTower) -> None:
    """Changes the candidate tower so that every score is doubled."""
    with torch.no_grad():
        for parameter in model.candidate.parameters():
            parameter.mul_(2)


def built(model: TwoTower, log: Dataset, options: argparse.Namespace) -> Retriever:
    """Builds the retriever of a model."""
    index = Hnsw() if options.index == "hnsw" else Exact()
    rerank = Rerank(options.rerank) if options.rerank else None
    return Retriever.build(model, log.candidates, seen=log, index=index, rerank=rerank)


class Server(NamedTuple):
    """The port and the process id of a running service."""

    port: int
    pid: int


def variants_of(folder: Path, options: argparse.Namespace, count: int) -> tuple[list[Path], Expected]:
    """Saves `count` bundles whose scores differ by a factor, and returns their paths and the expected answers."""
    model, log = model_of(options)
    first = built(model, log, options)
    names = [str(number) for number in range(options.queries)]
    asked = [{"query": int(name)} for name in names]
    best = [answer[0].score for answer in first.recommend_many(asked, 1, exclude_seen=True)]
    factors, paths = {}, []
    for number in range(count):
        if number:
            double_scores(model)
            first = built(model, log, options)
        first.save(folder / f"variant-{number}")
        factors[first.version] = 2.0**number
        paths.append(folder / f"variant-{number}")
    return paths, Expected(dict(zip(names, best, strict=True)), factors)


@contextmanager
def serving(bundle: Path, log: Path, threads: int, timeout: float = 10.0) -> Iterator[Server]:
    """Runs a service in a new process."""
    command = [sys.executable, "-m", "twotower", "serve", str(bundle), "--port", "0", "--threads", str(threads)]
    command += ["--timeout", str(timeout)]
    with log.open("wb") as written, subprocess.Popen(command, stdout=written, stderr=written) as process:
        try:
            yield Server(port_of(process, log), process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
    if process.returncode != 0:
        raise SystemExit(f"the service ended with {process.returncode}: {log.read_text()[-2000:]}")


def port_of(process: subprocess.Popen[bytes], log: Path) -> int:
    """Waits until a service listens; its port."""
    while process.poll() is None:
        for line in log.read_bytes().splitlines():
            if b'"listening"' in line:
                return int(msgspec.json.decode(line)["port"])
        time.sleep(0.05)
    raise SystemExit(f"the service did not start: {log.read_text()[-2000:]}")


class Connections:
    """A client that reuses connections and opens a new one if none is free."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for _reader, writer in self.free:
            writer.close()
            await writer.wait_closed()

    async def ask(self, path: str, body: bytes) -> tuple[int, bytes]:
        """The status and body of one answer."""
        while self.free and self.free[-1][0].at_eof():  # the service has closed an idle connection
            self.free.pop()[1].close()
        reader, writer = self.free.pop() if self.free else await asyncio.open_connection("127.0.0.1", self.port)
        head = (
            f"POST {path} HTTP/1.1",
            "host: localhost",
            "content-type: application/json",
            f"content-length: {len(body)}",
        )
        writer.write("\r\n".join((*head, "", "")).encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        read = await reader.readexactly(length)
        self.free.append((reader, writer))
        return int(answer.split(b" ", 2)[1]), read


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop with precise timers; others round up to a millisecond, which would count as latency."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def drive(port: int, expected: Expected, options: argparse.Namespace) -> Outcome:
    """Sends requests at fixed times and checks every answer."""
    rate, seconds, k = options.rate, options.seconds, options.k
    taken: list[tuple[float, float]] = []  # when a request was due, and how long its answer took
    errors: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    mixed = 0
    names = list(expected.best)
    asked = np.random.default_rng(options.seed).choice(names, size=int(rate * (seconds + WARM_UP_SECONDS))).tolist()

    async def one(number: int, due: float) -> None:
        nonlocal mixed
        body = b'{"query":{"query":%s},"k":%d,"exclude_seen":true}' % (asked[number].encode(), k)
        try:
            status, answer = await connections.ask("/v1/recommend", body)
        except (OSError, asyncio.IncompleteReadError) as error:
            errors[type(error).__name__] += 1
            return
        if status != 200:
            errors[str(status)] += 1
            return
        if due >= first + WARM_UP_SECONDS:
            taken.append((due - first - WARM_UP_SECONDS, time.perf_counter() - due))
        read = msgspec.json.decode(answer)
        versions[read["version"]] += 1
        mixed += not _fits(read, asked[number], expected)

    async with Connections(port) as connections:
        first = time.perf_counter() + 0.05
        tasks: set[asyncio.Task[None]] = set()
        for number in range(len(asked)):
            due = first + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.add(task := asyncio.create_task(one(number, due)))
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
    if not taken:
        raise SystemExit(f"no request was answered: {dict(errors)}")
    latency = Latency.of([one for _, one in taken])
    return Outcome(len(asked), dict(errors), mixed, dict(versions), latency, _parts(taken, seconds, options.part))


def _parts(taken: list[tuple[float, float]], seconds: float, length: float | None) -> list[Latency | None]:
    """The latency in each part of `length` seconds."""
    if length is None:
        return []
    parts: list[list[float]] = [[] for _ in range(max(1, round(seconds / length)))]
    for due, one in taken:
        parts[min(int(due / length), len(parts) - 1)].append(one)
    return [Latency.of(part) if part else None for part in parts]


def _fits(answer: dict[str, Any], name: str, expected: Expected) -> bool:
    """Whether the best score matches the version that the answer names."""
    factor = expected.factors.get(answer["version"])
    best = answer["answers"][0]["recommendations"][0]["score"]
    return factor is not None and abs(best / factor / expected.best[name] - 1) < 0.01


def offer(paths: list[Path], target: Path, swaps: int, corrupt: int, pause: float) -> None:
    """Replaces the bundle at `target` again and again; some of the new bundles are damaged."""
    bad = {round((number + 0.5) * swaps / corrupt) for number in range(corrupt)} if corrupt else set()
    for number in range(swaps):
        time.sleep(pause)
        building = target.with_name(f".offered-{number}")
        shutil.copytree(paths[(number + 1) % len(paths)], building)
        if number in bad:
            damage(building, number)
        retired = target.with_name(f".retired-{number}")
        target.rename(retired)
        building.rename(target)
        shutil.rmtree(retired)


def damage(bundle: Path, number: int) -> None:
    """Damages a bundle in one of five ways."""
    largest = max(bundle.rglob("*"), key=lambda path: path.stat().st_size)
    raw = bytearray(largest.read_bytes())
    if number % 5 == 0:
        largest.write_bytes(raw[: len(raw) // 2])
    elif number % 5 == 1:
        largest.unlink()
    elif number % 5 == 2:
        (bundle / "manifest.json").write_bytes(b"{")
    elif number % 5 == 3:
        (bundle / "manifest.json").unlink()
    else:
        raw[len(raw) // 2] ^= 1
        largest.write_bytes(raw)


def loaded(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Runs a service and a client, and swaps bundles meanwhile if requested."""
    with tempfile.TemporaryDirectory(prefix="twotower-service-") as name:
        folder = Path(name)
        console.print(f"building bundles of {options.candidates:,} × {options.dim} …")
        paths, expected = variants_of(folder, options, VARIANTS if options.what == "swap" else 1)
        target, log = folder / "served", folder / "service.log"
        shutil.copytree(paths[0], target)
        (folder / "expected.json").write_bytes(msgspec.json.encode(expected))
        with serving(target, log, options.threads) as server:
            client = start_client(server.port, folder / "expected.json", options, options.seconds)
            if options.what == "swap":
                pause = (options.seconds + WARM_UP_SECONDS) / (options.swaps + 1)
                offers = threading.Thread(target=offer, args=(paths, target, options.swaps, options.corrupt, pause))
                offers.start()
                offers.join()
            outcome = outcome_of(client)
        events = events_of(log)
    table = Table("requests", "p50", "p90", "p99", "highest", "errors", "mixed", "swapped", "refused", show_edge=False)
    times = (f"{1000 * value:.2f} ms" for value in msgspec.structs.astuple(outcome.latency))
    swapped, refused = events["bundle swapped"], events["bundle refused"]
    table.add_row(
        f"{outcome.requests:,}", *times, str(outcome.errors or 0), str(outcome.mixed), str(swapped), str(refused)
    )
    console.print(table)
    return {"outcome": outcome, "swapped": swapped, "refused": refused}


def start_client(
    port: int, expected: Path, options: argparse.Namespace, seconds: float, part: float | None = None
) -> subprocess.Popen[bytes]:
    """Starts a process that sends requests for some seconds and checks the answers."""
    command = [sys.executable, __file__, "client", "--port", port, "--expected", expected, "--seconds", seconds]
    command += ["--rate", options.rate, "--k", options.k, "--seed", options.seed]
    command += [] if part is None else ["--part", part]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE)


def outcome_of(client: subprocess.Popen[bytes]) -> Outcome:
    """Waits for a client, and returns its results."""
    said, _ = client.communicate()
    if client.returncode:
        raise SystemExit(f"the client ended with {client.returncode}")
    return msgspec.json.decode(said, type=Outcome)


def events_of(log: Path) -> Counter[str]:
    """How often each event is in a service's log."""
    lines = [line for line in log.read_bytes().splitlines() if line.startswith(b"{")]
    return Counter(msgspec.json.decode(line)["event"] for line in lines)


def added(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Adds candidates to the bundle of a service one by one, and queries it until each is recommended."""
    with tempfile.TemporaryDirectory(prefix="twotower-service-") as name:
        target = Path(name) / "served"
        model, log = model_of(options)
        match_new_candidates(model, built(model, log, options))
        retriever = built(model, log, options)
        retriever.save(target)
        seconds, saving = [], []
        with serving(target, Path(name) / "service.log", options.threads) as (port, _):
            for number in range(options.additions):
                new = pa.table({"candidate": [options.candidates + number], "title": [f"new candidate {number}"]})
                started = time.perf_counter()
                retriever = retriever.add(new)
                retriever.save(target)
                saving.append(time.perf_counter() - started)
                others = range(options.candidates, options.candidates + number)
                latest = started + ADDED_WITHIN
                asyncio.run(_until_given(port, options.candidates + number, options.k, others, latest))
                seconds.append(time.perf_counter() - started)
    table = Table("candidates added", "adding and saving, p50", "until recommended, p50", "highest", show_edge=False)
    times = (f"{value:.2f} s" for value in (float(np.median(saving)), float(np.median(seconds)), max(seconds)))
    table.add_row(str(options.additions), *times)
    console.print(table)
    return {"saving": saving, "seconds": seconds}


async def _until_given(port: int, candidate: int, k: int, others: range, latest: float) -> None:
    """Requests recommendations for query 0, excluding the others, until a candidate is in its top k."""
    body = b'{"query":{"query":0},"k":%d,"exclude":%s}' % (k, msgspec.json.encode(list(others)))
    async with Connections(port) as connections:
        while time.perf_counter() < latest:
            status, answer = await connections.ask("/v1/recommend", body)
            if status != 200:
                raise SystemExit(f"the service answered with {status}: {answer.decode()}")
            given = msgspec.json.decode(answer)["answers"][0]["recommendations"]
            if candidate in [one["id"] for one in given]:
                return
            await asyncio.sleep(0.01)
    raise SystemExit(f"candidate {candidate} was not recommended within {ADDED_WITHIN:g} s")


class Malformed:
    """Random malformed request bodies, with a fixed seed."""

    SOUND = (
        b'{"query":{"query":3},"k":5,"exclude_seen":true,"exclude":[1,2],"allow":[1,2,3],"where":"title = \\"x\\""}',
        b'{"queries":[{"query":1},{"query":"2"},{}],"k":3}',
    )
    ODD = (
        b"null", b"true", b"-1", b"1e400", b"-0", b"NaN", b"Infinity", b"1" * 400, b"9223372036854775808", b'""',
        b'"\\ud800"', b'"\\u0000"', b'"\xff\xfe"', b"[]", b"{}", b"[[[[]]]]", b"[" * 5000, b'{"a":' * 3000, b"0.5",
        b'{"query":{"query":1}}', b'"' + b"x" * 3000 + b'"', b"[1,\"a\",null,2.5]", b'{"k":1,"k":2}',
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)

    def body(self) -> bytes:
        """The next body."""
        sound = self.SOUND[int(self.draw.integers(len(self.SOUND)))]
        ways = (self._cut, self._noise, self._swapped, self._swapped, self._swapped, self._twice)
        return ways[int(self.draw.integers(len(ways)))](sound)

    def _odd(self) -> bytes:
        return self.ODD[int(self.draw.integers(len(self.ODD)))]

    def _cut(self, sound: bytes) -> bytes:
        return sound[: int(self.draw.integers(len(sound)))]

    def _noise(self, sound: bytes) -> bytes:
        raw = bytearray(sound)
        for place in self.draw.integers(len(raw), size=3):
            raw[int(place)] = int(self.draw.integers(256))
        return bytes(raw)

    def _swapped(self, sound: bytes) -> bytes:
        """Replaces one value."""
        values: dict[str, msgspec.Raw] = msgspec.json.decode(sound, type=dict[str, msgspec.Raw])
        names = [*values, "unknown", "query"]
        values[names[int(self.draw.integers(len(names)))]] = msgspec.Raw(self._odd())
        return b"{" + b",".join(b'"%s":%s' % (name.encode(), bytes(value)) for name, value in values.items()) + b"}"

    def _twice(self, sound: bytes) -> bytes:
        return sound[:-1] + b',"k":' + self._odd() + b',"query":{"query":' + self._odd() + b"}}"


def malformed(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Sends malformed bodies to a service in this process, and reports status codes and memory growth."""
    with tempfile.TemporaryDirectory(prefix="twotower-service-") as name:
        built(*model_of(options), options).save(Path(name) / "served")
        service = Service(Served(Path(name) / "served"), Settings(watch_seconds=None))
        found = asyncio.run(_send_malformed(service, options.requests, Malformed(options.seed)))
    table = Table("status", "requests", show_edge=False)
    for status, count in sorted(found["statuses"].items()):
        table.add_row(status, f"{count:,}")
    console.print(table)
    grown, slowest = found["grown_bytes"] / MEGABYTE, found["slowest"]
    console.print(f"memory after the first tenth: {grown:+.1f} MiB; the slowest took {1000 * slowest:.1f} ms")
    return found


async def _send_malformed(service: Service, requests: int, bodies: Malformed) -> dict[str, Any]:
    statuses: Counter[str] = Counter()
    slowest, early = 0.0, 0
    service.start()
    try:
        for number in range(requests):
            started = time.perf_counter()
            path = "/v1/explain" if number % 10 == 9 else "/v1/recommend"
            statuses[str(await status_of(service, path, bodies.body()))] += 1
            slowest = max(slowest, time.perf_counter() - started)
            if number == requests // 10:
                early = _resident()
    finally:
        service.close()
    return {"statuses": dict(statuses), "slowest": slowest, "grown_bytes": _resident() - early}


async def status_of(service: Service, path: str, body: bytes) -> int:
    """The status of the answer to one body, without using the network."""
    status = 0
    inbox = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return inbox.pop() if inbox else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
        "server": None,
    }
    await service(scope, receive, send)
    return status


def _resident() -> int:
    """Resident memory of this process in bytes; its peak if the system does not report it."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "swap", "added", "malformed", "client"], help="client: internal")
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64, help="embedding dimension")
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--index", choices=["exact", "hnsw"], default="exact")
    parser.add_argument("--rerank", type=int, default=0, help="candidates re-ranked by a head; 0: retrieval only")
    parser.add_argument("--k", type=int, default=10, help="recommendations per answer")
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--corrupt", type=int, default=5, help="number of damaged bundles")
    parser.add_argument("--additions", type=int, default=20, help="candidates added one by one")
    parser.add_argument("--threads", type=int, default=2, help="threads per search")
    parser.add_argument("--requests", type=int, default=10_000, help="malformed requests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the JSON; default: results/service-WHAT.json beside this script")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--expected", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "client":
        expected = msgspec.json.decode(options.expected.read_bytes(), type=Expected)
        gc.disable()  # a full collection takes 0.1 s, which would count as latency
        with asyncio.Runner(loop_factory=precise_loop) as runner:
            outcome = runner.run(drive(options.port, expected, options))
        sys.stdout.write(msgspec.json.encode(outcome).decode())
        return
    console = Console(width=120)
    measure = {"load": loaded, "swap": loaded, "added": added, "malformed": malformed}[options.what]
    found = measure(options, console)
    used = {name: getattr(options, name) for name in ("candidates", "dim", "queries", "index", "k", "threads", "seed")}
    if options.what in ("load", "swap"):
        used |= {"rate": options.rate, "seconds": options.seconds}
    used |= {"rerank": options.rerank} if options.rerank else {}
    name = f"service-{options.what}" + ("-hnsw" if options.index == "hnsw" else "")
    name += "-rerank" if options.rerank else ""
    console.print(f"written to {write_report(name, {**used, **found}, options.out)}")


if __name__ == "__main__":
    main()
