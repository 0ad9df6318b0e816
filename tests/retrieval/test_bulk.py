"""Recommendations for a whole file: what is asked one by one, whatever is interrupted."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from commands import start_python
from toy import groups_log, toy_model
from twotower.data import from_tables
from twotower.errors import ConfigError, DataError, SavedFolderError
from twotower.retrieval import Retriever, bulk
from twotower.retrieval.answers import Filters
from twotower.retrieval.bulk import recommend_all


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    log = groups_log(400)
    return Retriever.build(toy_model().learn(log), log.candidates, seen=log)


@pytest.fixture
def queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Known, unknown and missing ids, some with a time, in row groups that are no multiples of a part."""
    monkeypatch.setattr(bulk, "PART", 7)
    monkeypatch.setattr(bulk, "BLOCK", 3)
    ids = [*range(40), None, 999, *range(5)]
    times = [None if number % 3 else number for number in range(len(ids))]
    path = tmp_path / "queries.parquet"
    write(pa.table({"user": pa.array(ids, pa.int64()), "at": times}), path)
    return path


EVERYTHING = Filters(exclude_seen=False)


def write(table: pa.Table, path: Path) -> None:
    """Plainly, so that the same values in another order take as many bytes."""
    pq.write_table(table, path, row_group_size=16, compression="none", use_dictionary=False)


def test_a_file_is_answered_as_its_rows_are(retriever: Retriever, queries: Path, tmp_path: Path) -> None:
    filters = Filters(exclude_seen=True, exclude=(3,), where="item != 4")
    assert recommend_all(retriever, queries, tmp_path / "out.parquet", 6, filters=filters) == 47
    answers = pq.read_table(tmp_path / "out.parquet").to_pylist()
    for row, answer in zip(pq.read_table(queries).to_pylist(), answers, strict=True):
        request = {name: value for name, value in row.items() if value is not None}
        alone = retriever.recommend(request, 6, exclude_seen=True, exclude=[3], where="item != 4")
        assert answer["user"] == row["user"]
        assert answer["candidates"] == [one.id for one in alone]
        assert answer["scores"] == pytest.approx([one.score for one in alone], rel=1e-5)
        assert (answer["basis"], answer["version"]) == (alone.basis, retriever.version)
    assert {answer["basis"] for answer in answers} == {"query", "popularity"}
    assert not (tmp_path / "out.parquet.partial").exists()


def test_each_row_of_a_file_may_exclude_for_itself(retriever: Retriever, tmp_path: Path) -> None:
    table = pa.table({"user": [1, 2, 3], "exclude": [[0, 1], None, []]})
    pq.write_table(table, tmp_path / "queries.parquet")
    recommend_all(retriever, tmp_path / "queries.parquet", tmp_path / "out.parquet", 100, filters=EVERYTHING)
    found = pq.read_table(tmp_path / "out.parquet")["candidates"].to_pylist()
    assert [len(row) for row in found] == [28, 30, 30]
    assert not {0, 1} & set(found[0])


def test_a_file_may_be_answered_with_diverse_lists(retriever: Retriever, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [1, 2]}), tmp_path / "queries.parquet")
    diverse = Filters(diversity=0.7)
    recommend_all(retriever, tmp_path / "queries.parquet", tmp_path / "out.parquet", 5, filters=diverse)
    alone = [[one.id for one in retriever.recommend(user, 5, diversity=0.7)] for user in (1, 2)]
    assert pq.read_table(tmp_path / "out.parquet")["candidates"].to_pylist() == alone


def test_an_interrupted_file_goes_on_and_ends_the_same(
    retriever: Retriever, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.parquet"
    recommend_all(retriever, queries, tmp_path / "whole.parquet", 4)
    asked: list[int] = []
    rank = Retriever.rank

    def failing(self: Retriever, requests: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(len(requests))
        if sum(asked) > 25:
            raise KeyboardInterrupt
        return rank(self, requests, *arguments, **options)

    monkeypatch.setattr(Retriever, "rank", failing)
    with pytest.raises(KeyboardInterrupt):
        recommend_all(retriever, queries, out, 4)
    assert not out.exists()
    finished = sorted((tmp_path / "out.parquet.partial").glob("0*.parquet"))
    written = [path.stat().st_mtime_ns for path in finished]
    assert len(finished) == 4  # of 7, 7, 2 and 7 queries
    monkeypatch.setattr(Retriever, "rank", rank)
    with pytest.raises(SavedFolderError, match=r"different k;.*--restart"):
        recommend_all(retriever, queries, out, 5)
    assert [path.stat().st_mtime_ns for path in finished] == written
    recommend_all(retriever, queries, out, 4)
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))


def test_finished_parts_of_another_source_bundle_or_filter_are_not_gone_on_from(
    retriever: Retriever, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rank = tmp_path / "out.parquet", Retriever.rank
    asked: list[int] = []

    def failing(self: Retriever, *arguments: Any, **options: Any) -> Any:
        asked.append(1)
        if len(asked) > 9:
            raise KeyboardInterrupt
        return rank(self, *arguments, **options)

    monkeypatch.setattr(Retriever, "rank", failing)
    with pytest.raises(KeyboardInterrupt):
        recommend_all(retriever, queries, out, 4)
    monkeypatch.setattr(Retriever, "rank", rank)
    with pytest.raises(SavedFolderError, match="different filters;"):
        recommend_all(retriever, queries, out, 4, filters=Filters(exclude_seen=False))
    with pytest.raises(SavedFolderError, match="different bundle;"):
        recommend_all(retriever.withdraw([3]), queries, out, 4)
    before, table = queries.stat().st_size, pq.read_table(queries)
    rows = [*range(1, 16), 0, *range(16, len(table))]  # the same values in another order: size and footer are the same
    write(table.take(rows), queries)
    assert queries.stat().st_size == before
    with pytest.raises(SavedFolderError, match="different queries;"):
        recommend_all(retriever, queries, out, 4)


KILLED = """
import sys
from pathlib import Path
from twotower.retrieval import Retriever, bulk
bulk.PART, bulk.BLOCK = 7, 3
bulk.recommend_all(Retriever.load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), 4)
"""


def test_a_killed_command_goes_on(retriever: Retriever, queries: Path, tmp_path: Path) -> None:
    retriever.save(tmp_path / "bundle")
    table = pa.concat_tables([pq.read_table(queries)] * 30)
    pq.write_table(table, queries, row_group_size=999)
    out = tmp_path / "out.parquet"
    process = start_python("-c", KILLED, tmp_path / "bundle", queries, out, folder=tmp_path)
    finished = tmp_path / "out.parquet.partial" / "000003.parquet"
    while not finished.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    written = finished.stat().st_mtime_ns
    loaded = Retriever.load(tmp_path / "bundle")
    recommend_all(loaded, queries, tmp_path / "whole.parquet", 4)
    kept: list[int] = []
    join = bulk._join

    def noting(*rest: Any) -> None:
        kept.append(finished.stat().st_mtime_ns)
        join(*rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "_join", noting)
        recommend_all(loaded, queries, out, 4)
    assert kept == [written]
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))


def test_parts_that_could_not_be_deleted_do_not_keep_the_command_from_running_again(
    retriever: Retriever, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.parquet"
    with monkeypatch.context() as faulty:
        faulty.setattr(os, "unlink", _refused)
        recommend_all(retriever, queries, out)
    first = out.read_bytes()
    recommend_all(retriever, queries, out)
    assert out.read_bytes() == first
    assert not (tmp_path / "out.parquet.partial").exists()


def _refused(*arguments: object, **more: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_file_that_is_refused_at_once_leaves_nothing_and_may_be_corrected(
    retriever: Retriever, tmp_path: Path
) -> None:
    path, out = tmp_path / "queries.csv", tmp_path / "out.parquet"
    path.write_text("user\nnobody\n")
    with pytest.raises(DataError, match="row 0: "):
        recommend_all(retriever, path, out)
    assert not (tmp_path / "out.parquet.partial").exists()
    path.write_text("user\n3\n")
    assert recommend_all(retriever, path, out) == 1


def test_what_is_left_of_another_job_is_left_behind_only_when_asked(
    retriever: Retriever, queries: Path, tmp_path: Path
) -> None:
    out, left = tmp_path / "out.parquet", tmp_path / "out.parquet.partial"
    left.mkdir()
    (left / "job.json").write_text('{"bundle": "b", "queries": "q", "k": 3, "filters": {}}')
    with pytest.raises(SavedFolderError, match="different bundle, queries, k;"):
        recommend_all(retriever, queries, out, 4)
    assert recommend_all(retriever, queries, out, 4, restart=True) == 47
    assert not left.exists()


@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_of_ones_own_beside_the_file_is_never_touched(
    retriever: Retriever, queries: Path, tmp_path: Path, restart: bool
) -> None:
    mine = tmp_path / "out.parquet.partial" / "job.json"
    mine.parent.mkdir()
    mine.write_text('{"my": "job"}')
    with pytest.raises(ConfigError, match=r"out\.parquet\.partial already exists and is not unfinished work"):
        recommend_all(retriever, queries, tmp_path / "out.parquet", 4, restart=restart)
    assert mine.read_text() == '{"my": "job"}'


def test_other_formats_say_the_same(retriever: Retriever, queries: Path, tmp_path: Path) -> None:
    for suffix in (".parquet", ".jsonl", ".csv"):
        for _ in range(2):  # the second replaces what the first wrote
            assert recommend_all(retriever, queries, tmp_path / f"out{suffix}", 3) == 47
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == rows
    table = csv.read_csv(tmp_path / "out.csv").to_pylist()
    assert [(one["user"], one["rank"], one["candidate"], one["basis"], one["version"]) for one in table] == [
        (row["user"], rank, candidate, row["basis"], row["version"])
        for row in rows
        for rank, candidate in enumerate(row["candidates"], start=1)
    ]
    assert [one["score"] for one in table] == pytest.approx([score for row in rows for score in row["scores"]])


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_file_that_is_not_such_an_answer_is_never_replaced(
    retriever: Retriever, queries: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"mine{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"user": [1], "candidates": [[2]], "scores": [[0.5]]}), out)
    else:
        out.write_text('{"user": 1}\n' if suffix == ".jsonl" else "user,rank\n1,1\n")
    before = out.read_bytes()
    with pytest.raises(ConfigError, match=f"mine{suffix} already exists and is not a file of such recommendations"):
        recommend_all(retriever, queries, out, 4)
    assert out.read_bytes() == before
    out.write_bytes(b"")
    recommend_all(retriever, queries, out, 4)


@pytest.mark.parametrize("link", [None, "symlink_to", "hardlink_to"])
def test_the_file_of_queries_is_never_replaced(
    retriever: Retriever, queries: Path, tmp_path: Path, link: str | None
) -> None:
    recommend_all(retriever, queries, tmp_path / "before.parquet", 1)  # one that would be recognised
    ids = tmp_path / "ids.parquet"
    table = pq.read_table(tmp_path / "before.parquet")
    pq.write_table(table.select(["user"]).replace_schema_metadata(table.schema.metadata), ids)
    out = ids if link is None else tmp_path / "linked.parquet"
    if link is not None:
        getattr(out, link)(ids)
    before = ids.read_bytes()
    with pytest.raises(ConfigError, match="is the --queries file"):
        recommend_all(retriever, ids, out, 4)
    assert ids.read_bytes() == before


def test_a_link_stays_and_what_it_points_to_is_replaced(retriever: Retriever, queries: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    out = tmp_path / "out.parquet"
    out.symlink_to(tmp_path / "there" / "real.parquet")
    (tmp_path / "loop.parquet").symlink_to(tmp_path / "loop.parquet")
    with pytest.raises(ConfigError, match="is a link in a loop of links"):
        recommend_all(retriever, queries, tmp_path / "loop.parquet", 4)
    for _ in range(2):
        recommend_all(retriever, queries, out, 4)
        assert out.is_symlink()
        assert len(pq.read_table(tmp_path / "there" / "real.parquet")) == 47


def test_endings_and_places_that_cannot_be_written_are_refused_at_once(
    retriever: Retriever, queries: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for out, expected in {
        tmp_path / "out.txt": "expected a name that ends in .parquet, .csv or .jsonl",
        tmp_path / "out": "expected a name that ends in",
        tmp_path / "file" / "out.csv": "cannot be written",
        tmp_path / f"{'x' * 300}.csv": "cannot be written",
        Path("/proc/out.csv"): "cannot be written",
        tmp_path: "expected a name that ends in",
    }.items():
        with pytest.raises(ConfigError, match=expected):
            recommend_all(retriever, queries, out, 4)


def test_a_file_without_ids_is_numbered(retriever: Retriever, tmp_path: Path) -> None:
    pq.write_table(pa.table({"at": [1, 2, 3]}), tmp_path / "times.parquet")
    recommend_all(retriever, tmp_path / "times.parquet", tmp_path / "out.parquet", 2)
    answers = pq.read_table(tmp_path / "out.parquet")
    assert answers["row"].to_pylist() == [0, 1, 2]
    assert set(answers["basis"].to_pylist()) == {"popularity"}


def test_an_empty_file_has_an_empty_answer(retriever: Retriever, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": pa.array([], pa.int64())}), tmp_path / "none.parquet")
    assert recommend_all(retriever, tmp_path / "none.parquet", tmp_path / "out.parquet") == 0
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def test_wrong_files_are_refused_and_what_was_there_stays(retriever: Retriever, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    pq.write_table(pa.table({"user": [1]}), tmp_path / "good.parquet")
    recommend_all(retriever, tmp_path / "good.parquet", out)
    before = out.read_bytes()
    pq.write_table(pa.table({"user": [1], "colour": ["red"]}), tmp_path / "column.parquet")
    with pytest.raises(ConfigError, match=r"column\.parquet: column 'colour' is not a query column; expected"):
        recommend_all(retriever, tmp_path / "column.parquet", out)
    (tmp_path / "text.parquet").write_text("user\n1\n")
    with pytest.raises(DataError, match=r"text\.parquet cannot be read as Parquet"):
        recommend_all(retriever, tmp_path / "text.parquet", out)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        recommend_all(retriever, tmp_path / "nowhere.parquet", out)
    pq.write_table(pa.table({"user": [1, 2, 3, 4], "at": [1.0, 2.0, 3.0, np.inf]}), tmp_path / "times.parquet")
    with pytest.raises(DataError, match=r"times\.parquet, row 3: .*at"):
        recommend_all(retriever, tmp_path / "times.parquet", out)
    with pytest.raises(ConfigError, match=r"^condition, character 1"):  # of the filters, no row of the file
        recommend_all(retriever, tmp_path / "good.parquet", out, filters=Filters(where="planet = 1"), restart=True)
    with pytest.raises(DataError, match=r"^item 'war' is str"):
        recommend_all(retriever, tmp_path / "good.parquet", out, filters=Filters(exclude=("war",)), restart=True)
    assert out.read_bytes() == before


@pytest.mark.parametrize("name", ["queries.csv", "queries.csv.gz", "queries.jsonl"])
def test_queries_may_be_text(name: str, retriever: Retriever, tmp_path: Path) -> None:
    lines = "user;at\n1;7\n999;\n;\n" if "csv" in name else '{"user":1,"at":7}\n{"user":999}\n{"user":null}\n'
    content = lines.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    write(pa.table({"user": [1, 999, None], "at": [7, None, None]}), tmp_path / "queries.parquet")
    for path in (name, "queries.parquet"):
        assert recommend_all(retriever, tmp_path / path, tmp_path / f"{path}.parquet", 5) == 3
    told, plain = (pq.read_table(tmp_path / f"{path}.parquet") for path in (name, "queries.parquet"))
    assert told.equals(plain)


def test_queries_may_be_of_any_type_of_text(tmp_path: Path) -> None:
    log = groups_log(200)
    texts = {"user": pa.array([str(one) for one in range(40)])}
    named = from_tables(
        log.interactions.set_column(0, "user", log.interactions["user"].cast(pa.string())),
        query_id="user",
        candidate_id="item",
        time="at",
        queries=pa.table(texts),
        candidates=log.candidates,
    )
    other = Retriever.build(toy_model().learn(named), named.candidates, seen=named)
    ids = pa.array(["3", None, "5"]).dictionary_encode()
    pq.write_table(pa.table({"user": ids}), tmp_path / "q.parquet")
    assert recommend_all(other, tmp_path / "q.parquet", tmp_path / "out.parquet", 2) == 3
    answers = pq.read_table(tmp_path / "out.parquet")
    assert answers.schema.field("user").type == pa.string()
    assert answers["user"].to_pylist() == ["3", None, "5"]
