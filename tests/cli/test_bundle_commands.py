from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from toy import groups_log, toy_model
from twotower import Category, Normalized, Tower, TwoTower
from twotower.cli.main import app
from twotower.errors import ConfigError, DataError, DataWarning, UnknownCandidateError
from twotower.retrieval import Notes, Retriever


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    log = groups_log(500)
    Retriever.build(toy_model().learn(log), log.candidates, seen=log, notes=Notes(split="none")).save(tmp_path / "shop")
    return tmp_path / "shop"


def run(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if done.exception is not None:
        raise done.exception
    return msgspec.json.decode(done.stdout, type=dict[str, Any])


def test_a_bundle_gets_another_index_and_another_catalogue(trained: Path, tmp_path: Path) -> None:
    old = Retriever.load(trained)
    catalogue = pa.table({"item": [7, 500, 2], "title": ["item number 7", "item number 500", "item number 2"]})
    pq.write_table(catalogue, tmp_path / "new.parquet")
    settings = '{"kind": "hnsw", "neighbours": 8}'
    with pytest.warns(DataWarning, match=r"of 500 events .*: their 'item' is not in the candidate table"):
        said = run(
            "bundle", trained, "--out", tmp_path / "b", "--index", settings, "--candidates", tmp_path / "new.parquet"
        )
    new = Retriever.load(tmp_path / "b")
    assert (said["version"], said["candidates"], said["index"]["kind"]) == (new.version, 3, "hnsw")
    assert new.details.notes == Notes(split="none")
    assert new.history_of(4) == [one for one in old.history_of(4) if one in (7, 2)]
    scores = {one.id: one.score for one in old.recommend({"user": 3}, 30)}
    for one in new.recommend({"user": 3}, 3):
        assert one.id == 500 or one.score == pytest.approx(scores[one.id], rel=1e-5)
    events = {one.id: one.score for one in old.recommend({}, 30)}
    assert {one.id: one.score for one in new.recommend({}, 3)} == {7: events[7], 2: events[2], 500: 0.0}
    with pytest.raises(ConfigError, match="--index 'hsnw'"):
        run("bundle", trained, "--out", tmp_path / "b", "--index", "hsnw")
    pq.write_table(catalogue.slice(0, 0), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="has no rows; expected at least one candidate"):
        run("bundle", trained, "--out", tmp_path / "b", "--candidates", tmp_path / "none.parquet")


def test_candidates_are_added_and_withdrawn_in_place(trained: Path, tmp_path: Path) -> None:
    before = Retriever.load(trained).version
    pq.write_table(pa.table({"item": [500], "title": ["item number 500"]}), tmp_path / "new.parquet")
    said = run("candidates", "add", trained, tmp_path / "new.parquet")
    assert (said["candidates"], said["revision"]) == (31, 1)
    assert said["version"] == Retriever.load(trained).version != before
    assert run("candidates", "withdraw", trained, "500", "3")["candidates"] == 29
    assert {500, 3}.isdisjoint(Retriever.load(trained).candidates["item"].to_pylist())
    with pytest.raises(UnknownCandidateError, match="'500'"):
        run("candidates", "withdraw", trained, "500")
    assert Retriever.load(trained).details.revision == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("new.csv", "title;item\n1984;500\n"),
        ("new.csv", "item,title\n500,1984\n"),
        ("new.jsonl", '{"item":500,"title":"1984"}\n'),
    ],
)
def test_candidates_are_added_from_text(name: str, content: str, trained: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    run("candidates", "add", trained, tmp_path / name)
    added = Retriever.load(trained).candidates.to_pylist()[-1]
    assert added == {"item": 500, "title": "1984"}


def test_added_candidates_of_any_library_are_the_same(trained: Path) -> None:
    retriever = Retriever.load(trained)
    new = pl.DataFrame({"item": [500], "title": pl.Series(["new one"], dtype=pl.Categorical)})
    assert retriever.add(new).version == retriever.add(pa.table({"item": [500], "title": ["new one"]})).version


def saved_with_prices(folder: Path, notes: Notes | None = None) -> Path:
    """A bundle whose candidates have prices, and whose queries have heights."""
    log = groups_log(100)
    prices, heights = (pa.array(np.linspace(1, 9.5, side.num_rows)) for side in (log.candidates, log.queries))
    candidates, queries = log.candidates.append_column("price", prices), log.queries.append_column("height", heights)
    log = replace(log, candidates=candidates, queries=queries)
    query = Tower([Category("user", 4), Normalized("height")], [4])
    model = TwoTower(query, Tower([Category("item", 4), Normalized("price")], [4]))
    Retriever.build(model.learn(log), log.candidates, seen=log, notes=notes).save(folder)
    return folder


@pytest.fixture
def priced(tmp_path: Path) -> Path:
    return saved_with_prices(tmp_path / "priced")


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"data": {"decimal": ",", "delimiter": ":"}}, []),
        ({"data": {"name": "shop"}}, ["--decimal", ",", "--delimiter", ":"]),
        ({"data": {"decimal": ".", "delimiter": "|"}}, ["--decimal", ",", "--delimiter", ":"]),
    ],
)
def test_csv_files_are_read_as_in_training_or_as_told(
    config: dict[str, Any], options: list[str], tmp_path: Path
) -> None:
    bundle = saved_with_prices(tmp_path / "bundle", Notes(config=config))
    (tmp_path / "new.csv").write_text("item:title:price\n500:a:3,5\n501:b:4\n")
    with pytest.warns(DataWarning, match="not in the candidate table"):
        run("bundle", bundle, "--candidates", tmp_path / "new.csv", "--out", tmp_path / "b", *options)
    run("candidates", "add", bundle, tmp_path / "new.csv", *options)
    for folder in (tmp_path / "b", bundle):
        assert Retriever.load(folder).candidates["price"].to_pylist()[-2:] == [3.5, 4.0]
    (tmp_path / "queries.csv").write_text("user:height\n3:4,25\n4:5\n")
    run("recommend", bundle, "--queries", tmp_path / "queries.csv", "--out", tmp_path / "out.jsonl", *options)
    found = [msgspec.json.decode(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    expected = Retriever.load(bundle).recommend_many([{"user": 3, "height": 4.25}, {"user": 4, "height": 5.0}])
    assert [one["candidates"] for one in found] == [[each.id for each in one] for one in expected]


def test_numbers_with_another_decimal_mark_are_refused(tmp_path: Path) -> None:
    bundle = saved_with_prices(tmp_path / "bundle", Notes(config={"data": {"decimal": ","}}))
    (tmp_path / "new.csv").write_text("item;title;price\n500;a;3,5\n501;b;1.299\n")
    with pytest.raises(
        DataError, match=r"row 1 \(line 3 of .*\): '1\.299'; expected a number with the decimal mark ','"
    ):
        run("candidates", "add", bundle, tmp_path / "new.csv")
    with pytest.raises(ConfigError, match=r"decimal='x'; expected '\.' or ','"):
        run("candidates", "add", bundle, tmp_path / "new.csv", "--decimal", "x")


def test_a_wrong_value_of_an_added_candidate_is_named_with_its_line(priced: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("item,title,price\n500,a,3.5\n501,b,cheap\n")
    where = rf"candidates, column 'price', row 1 \(line 3 of {path}\): 'cheap'"
    with pytest.raises(DataError, match=f"the added {where}; expected a number with the decimal mark '.'"):
        run("candidates", "add", priced, path)
    with pytest.raises(DataError, match=f"{where} is string; expected a number"):
        run("bundle", priced, "--candidates", path, "--out", tmp_path / "b")
