"""A service whose candidates are in PostgreSQL, under load: new models, changes of candidates, and a killed database.

    python benchmarks/store_load.py --candidates 20000 --dim 32 --rate 50 --seconds 60 --changes 5

A client sends requests at a fixed rate through all phases, even if earlier ones have not been answered; latency counts
from the time at which a request was due. `twotower serve`, the client and PostgreSQL run in separate processes.

1. Quiet.
2. Models are changed: the vectors of other towers are published in the store, and the served bundle is replaced. Every
   model doubles the scores of the one before, so an answer with scores of another version than it names is detected.
3. Candidates are added that match query 0 best, and withdrawn, through the bundle as `twotower candidates` does it.
4. PostgreSQL is killed with SIGKILL in the middle of an upsert, and started again some seconds later.
5. After the restart.

The command fails unless all of this holds: every answer has status 200, or 503 in phase 4. No answer mixes versions.
The first answer after an addition has the new candidate, and none after a withdrawal has the withdrawn one. After the
restart, the answers are those of before, and the store contains every candidate with its last title and embedding; the
interrupted upsert is there as a whole or not at all. It prints its results as Markdown; `--page
docs/how-to/stores.md` also replaces the tables there.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from measuring import write_report
from recorder import Answer, body_of, recording, records_of
from rich.console import Console
from service import ADDED_WITHIN, WARM_UP_SECONDS, built, double_scores, match_new_candidates, model_of, serving
from store_checks import OUTAGE, Contents, Mark, Truth, contents_of, phases_of
from store_report import Change, Edit, Outage, Report, replace_tables

from twotower import Retriever, TwoTower
from twotower.data import Dataset
from twotower.errors import StoreUnavailableError
from twotower.retrieval.publishing import store_at, with_store
from twotower.retrieval.stores import StoreSettings
from twotower.testing.servers import Postgres

SAMPLE = 200
"""Compare the answers to at most this many queries before and after the outage."""

BATCH = 20
"""Candidates per upsert while PostgreSQL is killed."""

WRITING_SECONDS = 0.5
"""Seconds of upserts before the kill."""


@dataclass
class Live:
    """A served bundle whose candidates are in PostgreSQL.

    Attributes:
        options: The command line.
        postgres: The database server.
        settings: The store's settings, before publishing.
        folder: Where the service expects its bundle.
        model: The model of the newest bundle.
        log: The log that the model has learned.
        retriever: The newest bundle.
        truth: What is expected of the service.
        port: The service's port.
    """

    options: argparse.Namespace
    postgres: Postgres
    settings: StoreSettings
    folder: Path
    model: TwoTower
    log: Dataset
    retriever: Retriever
    truth: Truth
    port: int = 0

    def publish(self) -> tuple[float, float]:
        """Publishes the model in the store, then replaces the bundle; returns the seconds of both."""
        bundle = built(self.model, self.log, self.options).bundle
        started = time.perf_counter()
        self.retriever = Retriever(with_store(bundle, self.settings, self.options.parity))
        published = time.perf_counter()
        self.save(2.0 ** len(self.truth.factors))
        return published - started, time.perf_counter() - published

    def save(self, factor: float | None = None) -> None:
        """Replaces the served bundle; its scores are the first model's times the factor, by default the last one."""
        self.truth.factors[self.retriever.version] = self.factor if factor is None else factor
        self.retriever.save(self.folder)

    @property
    def factor(self) -> float:
        """The newest factor."""
        return max(self.truth.factors.values())

    def ask(self, query: int, exclude: Sequence[int] = ()) -> Answer:
        """The service's answer to one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(connection):
            body = body_of(query, self.options.k, list(exclude))
            connection.request("POST", "/v1/recommend", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            read = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the service answered with {answer.status}: {read.decode()}")
        return msgspec.json.decode(read, type=Answer)


@contextmanager
def running_postgres(fsync: str) -> Iterator[Postgres]:
    """Runs PostgreSQL."""
    server = Postgres.create(("max_wal_size=2GB", f"fsync={fsync}"))
    os.environ["PGPASSWORD"] = server.password
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.remove()


def prepared(postgres: Postgres, folder: Path, options: argparse.Namespace) -> Live:
    """Publishes the first model."""
    model, log = model_of(options)
    match_new_candidates(model, built(model, log, options))
    retriever = built(model, log, options)
    queries = np.stack(retriever.query_embeddings()["embedding"].to_numpy())
    new = model.embed_candidates(table_of([options.candidates], "new"))
    candidates = np.concatenate([retriever.index.embeddings.numpy(), new.numpy()])  # [C + 1, d]
    titles = dict(zip(*(retriever.candidates[name].to_pylist() for name in ("candidate", "title")), strict=True))
    truth = Truth(queries, candidates, titles)
    live = Live(options, postgres, store_at(postgres.address, "load"), folder, model, log, retriever, truth)
    live.publish()
    return live


def table_of(ids: Sequence[int], title: str) -> pa.Table:
    """Candidates with this title."""
    return pa.table({"candidate": list(ids), "title": [title] * len(ids)})


def change_models(live: Live, console: Console) -> list[Change]:
    """Publishes other models at equal intervals, and waits for each to take over."""
    changes = []
    for _ in paced(live.options.changes, live.options.seconds):
        double_scores(live.model)
        publish, save = live.publish()
        saved = time.perf_counter()
        while live.ask(0).version != live.retriever.version:
            if time.perf_counter() > saved + ADDED_WITHIN:
                raise SystemExit(f"the new model has not taken over within {ADDED_WITHIN:g} s")
            time.sleep(0.01)
        changes.append(Change(live.retriever.version, publish, save, time.perf_counter() - saved))
        console.print(f"model published in {publish:.2f} s, took over {changes[-1].takeover:.2f} s after it was saved")
    return changes


def edit_candidates(live: Live) -> list[Edit]:
    """Adds two candidates at a time, then withdraws one of them and the best candidate of some query."""
    edits: list[Edit] = []
    options, truth = live.options, live.truth
    for number in paced(options.edits, options.seconds):
        new = [options.candidates + 2 * number, options.candidates + 2 * number + 1]
        started = time.perf_counter()
        live.retriever = live.retriever.add(table_of(new, "new"))
        added = time.perf_counter()
        late = late_answers(live, new, range(options.candidates, new[0]))
        truth.titles |= dict.fromkeys(new, "new")
        live.save()
        best = next(
            one for one in live.ask(number + 1, range(options.candidates, new[1] + 1)).found if one < options.candidates
        )
        begun = time.perf_counter()
        live.retriever = live.retriever.withdraw([new[0], best])
        withdrawn = time.perf_counter()
        truth.withdrawn |= dict.fromkeys([new[0], best], withdrawn)
        for one in (new[0], best):
            del truth.titles[one]
        live.save()
        edits.append(Edit(added - started, late, withdrawn - begun))
    return edits


def late_answers(live: Live, ids: Sequence[int], exclude: Sequence[int]) -> int:
    """How many answers to query 0 lack one of these candidates, until one has all."""
    latest = time.perf_counter() + ADDED_WITHIN
    late = 0
    while not live.ask(0, exclude).found.keys() >= set(ids):
        late += 1
        if time.perf_counter() > latest:
            raise SystemExit(f"the candidates {ids} were not recommended within {ADDED_WITHIN:g} s")
        time.sleep(0.01)
    return late


def paced(count: int, seconds: float) -> Iterator[int]:
    """Counts at equal intervals that take so long in total, or longer if what is done between takes longer."""
    started = time.perf_counter()
    for number in range(count):
        yield number
        time.sleep(max(0.0, started + (number + 1) * seconds / count - time.perf_counter()))


class Written(NamedTuple):
    """How many upserts have returned, and the titles that the interrupted one was to set, by id."""

    upserts: int
    interrupted: dict[int, str]


def upsert_until_down(live: Live) -> Written:
    """Gives the same candidates one new title after the other, until the store is unavailable."""
    known = [one for one in live.truth.titles if one < live.options.candidates]
    ids = np.random.default_rng(live.options.seed).choice(known, BATCH, replace=False).tolist()
    for number in itertools.count():
        title = f"revision {number}"
        try:
            live.retriever.add(table_of(ids, title))
        except StoreUnavailableError:
            break
        live.truth.titles |= dict.fromkeys(ids, title)
    return Written(number, dict.fromkeys(ids, title))


def kill_and_restart(live: Live, marks: list[Mark], records: Path) -> Outage:
    """Kills PostgreSQL in the middle of an upsert, starts it again, and compares what is there."""
    asked = range(min(SAMPLE, live.options.queries))
    before = [live.ask(query) for query in asked]
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(upsert_until_down, live)
        time.sleep(WRITING_SECONDS)
        killed = time.perf_counter()
        live.postgres.kill()
        written = writing.result()
    marks.append(Mark(OUTAGE, killed))
    time.sleep(max(0.0, killed + live.options.down - time.perf_counter()))
    started = time.perf_counter()
    live.postgres.start()
    ready = time.perf_counter()
    recovered = first_answer(records, started)
    marks.append(Mark("after the restart", recovered))
    after = [live.ask(query) for query in asked]
    contents = contents_in(live, written.interrupted)
    different = sum(not same_scores(*both) for both in zip(before, after, strict=True))
    time.sleep(max(0.0, recovered + live.options.seconds - time.perf_counter()))
    times = started - killed, ready - started, recovered - started
    return Outage(*times, written.upserts, contents, len(asked), different)


def first_answer(records: Path, since: float) -> float:
    """When the client got its first answer with status 200 to a request that was due after a time."""
    latest = time.perf_counter() + ADDED_WITHIN
    while time.perf_counter() < latest:
        good = [one.answered for one in records_of(records) if one.status == 200 and one.due >= since]
        if good:
            return min(good)
        time.sleep(0.1)
    raise SystemExit(f"no request was answered within {ADDED_WITHIN:g} s after the restart")


def same_scores(one: Answer, other: Answer) -> bool:
    """Whether two answers have the same scores; which of several candidates with equal scores come may differ."""
    before, after = list(one.found.values()), list(other.found.values())
    return len(before) == len(after) and np.allclose(before, after, rtol=1e-5)


def contents_in(live: Live, interrupted: dict[int, str]) -> Contents:
    """Compares all candidates in the store with the truth."""
    settings: Any = live.retriever.details.store
    patient: StoreSettings = msgspec.structs.replace(settings, timeout=60.0)
    with closing(patient.open(live.retriever.details.towers)) as store:
        (found,) = store.search(live.retriever.embed([{"query": 0}], [0]), max(1, len(store)))
    return contents_of(found, live.truth, 0, live.factor, interrupted)


def measured(options: argparse.Namespace, console: Console) -> Report:
    """Runs all phases."""
    with tempfile.TemporaryDirectory(prefix="twotower-store-") as name, running_postgres(options.fsync) as postgres:
        folder = Path(name)
        console.print(f"publishing {options.candidates:,} × {options.dim} …")
        live = prepared(postgres, folder / "served", options)
        records = folder / "records.jsonl"
        with serving(live.folder, folder / "service.log", options.threads) as server:
            live.port = server.port
            with recording(server.port, records, options.rate, options.k, options.queries, options.seed):
                time.sleep(WARM_UP_SECONDS)
                marks = [Mark("quiet", time.perf_counter())]
                time.sleep(options.seconds)
                marks.append(Mark("models changed", time.perf_counter()))
                changes = change_models(live, console)
                marks.append(Mark("candidates changed", time.perf_counter()))
                edits = edit_candidates(live)
                outage = kill_and_restart(live, marks, records)
                end = time.perf_counter()
        recorded = records_of(records)
    return Report(phases_of(recorded, marks, end, live.truth), changes, edits, outage)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=32, help="embedding dimension")
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--k", type=int, default=10, help="recommendations per answer, at least 2")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a phase, except the outage")
    parser.add_argument("--changes", type=int, default=5, help="changes of models")
    parser.add_argument("--edits", type=int, default=10, help="additions and withdrawals of candidates")
    parser.add_argument("--down", type=float, default=5.0, help="seconds until PostgreSQL is started again")
    parser.add_argument("--fsync", choices=["on", "off"], default="on", help="whether PostgreSQL waits for the disk")
    parser.add_argument("--parity", type=float, default=0.95, help="minimum recall of the store")
    parser.add_argument("--threads", type=int, default=2, help="threads per search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the JSON; default: results/store-load.json beside this script")
    parser.add_argument("--page", type=Path, help="a Markdown page whose tables of this benchmark are replaced")
    parser.set_defaults(index="exact", rerank=0)
    options = parser.parse_args()
    console = Console(width=140)
    report = measured(options, console)
    tables, problems = report.tables(), report.problems()
    console.print("\n\n".join(tables), markup=False, highlight=False, soft_wrap=True)
    used = {name: value for name, value in vars(options).items() if name not in ("out", "page", "index", "rerank")}
    found = {"options": used, **msgspec.structs.asdict(report), "problems": problems}
    console.print(f"written to {write_report('store-load', found, options.out)}")
    if options.page:
        replace_tables(options.page, tables)
    for problem in problems:
        console.print(f"PROBLEM {problem}", markup=False)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
