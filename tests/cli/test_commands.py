"""The command line as a user meets it: each test runs a command in a process of its own, or through `run`."""

from __future__ import annotations

import runpy
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import run_python, start_python
from twotower.cli.study import parse_layers
from twotower.errors import ConfigError
from twotower.experiments.results import read_results

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = """
[data]
interactions = "few.parquet"
candidates = "products.parquet"
query_id = "customer"
candidate_id = "sku"
time = "bought_at"
[training]
epochs = 2
"""


def twotower(*arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_python("-m", "twotower", *arguments)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's files, and a small config beside them."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("make_shop_log.py", "own_log.toml", "own_log.py"):
        shutil.copy(EXAMPLES / name, folder)
    make = runpy.run_path(str(folder / "make_shop_log.py"))["make"]
    make(folder / "shop")
    pq.write_table(pq.read_table(folder / "shop" / "purchases.parquet").slice(0, 3000), folder / "shop" / "few.parquet")
    (folder / "shop" / "tiny.toml").write_text(TINY)
    return folder


@pytest.fixture(scope="module")
def trained(shop: Path) -> Path:
    twotower("train", shop / "own_log.toml", "--out", shop / "model")
    return shop / "model"


def test_the_example_config_trains_evaluates_and_recommends(shop: Path, trained: Path) -> None:
    evaluation = msgspec.json.decode(twotower("evaluate", trained, "--json").stdout, type=dict[str, Any])
    rows = evaluation["rows"]
    assert rows["model"]["all"]["top_10"] > rows["popularity"]["all"]["top_10"] + 0.1
    assert list(rows) == ["model", "popularity", "recent_popularity", "item_knn", "ease", "ials"]  # a split by time
    assert rows["model"]["half_widths"]["all.top_10"] < 0.05
    for by in ("candidate", "history"):
        parts = [part for part in rows["model"]["slices"] if part["by"] == by]
        whole = sum(part["weight"] * part["all"]["top_10"] for part in parts) / sum(part["weight"] for part in parts)
        assert whole == pytest.approx(rows["model"]["all"]["top_10"])
    assert "candidate: head" in twotower("evaluate", trained).stdout
    query = '{"customer": "c0042", "bought_at": -1767607200}'
    wrong = twotower("recommend", trained, "--query", query, expect=3).stderr
    assert "'bought_at' of the query: -1767607200" in wrong
    assert "expected seconds since 1970" in wrong
    answer = msgspec.json.decode(
        twotower("recommend", trained, "--query", "c0042", "-k", 7, "--json").stdout,
        type=dict[str, Any],
    )
    assert answer["basis"] == "query"
    found = [one["id"] for one in answer["recommendations"]]
    assert len(found) == 7
    assert {*answer["recommendations"][0]} == {"id", "score", "candidate", "rerank_score"}
    assert {one["rerank_score"] for one in answer["recommendations"]} == {None}
    every = twotower("recommend", trained, "--query", "c0042", "-k", 1000, "--no-exclude-seen", "--json").stdout
    assert len(msgspec.json.decode(every)["recommendations"]) == 200
    allowed = [part for sku in found[1:3] for part in ("--allow", sku)]
    filters = ("--exclude", found[1], "--where", f"sku != {found[0]}", *allowed, "--json")
    left = msgspec.json.decode(
        twotower("recommend", trained, "--query", '{"customer": "c0042"}', *filters).stdout, type=dict[str, Any]
    )
    assert [one["id"] for one in left["recommendations"]] == found[2:3]
    shown = twotower("recommend", trained, "--query", "{}", "-k", 3).stdout
    assert "no. " in shown
    assert "the most popular" in shown
    assert not (shop / "model.partial").exists()


def test_a_bundle_is_evaluated_from_any_folder_while_its_data_are_there(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shop / "shop", tmp_path / "old")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    twotower("train", "old/tiny.toml", "--out", "model")  # a relative path to a config with relative paths
    monkeypatch.chdir(tmp_path / "elsewhere")
    said = twotower("evaluate", "../model").stdout
    assert "top-10" in said
    assert "test events may have been in its training" not in said
    (tmp_path / "old").rename(tmp_path / "new")
    gone = " ".join(twotower("evaluate", "../model", expect=4).stderr.split())
    assert f"[data] interactions = {tmp_path / 'old' / 'few.parquet'}, which no longer exists" in gone
    assert "twotower evaluate ../model CONFIG.toml" in gone
    moved = twotower("evaluate", "../model", "../new/tiny.toml").stdout
    assert "top-10" in moved
    assert "test events may have been in its training" not in moved


FEATURE = """
import pyarrow as pa
import torch
from twotower import Feature

class Hour(Feature):
    kind = "hour"

    def __init__(self, column: str, dim: int = 4) -> None:
        super().__init__()
        self.column, self.dim, self.width = column, dim, dim
        self.table = torch.nn.Embedding(24, dim)

    def encode(self, column: pa.ChunkedArray) -> torch.Tensor:
        return torch.tensor([int(second or 0) // 3600 % 24 for second in column.to_pylist()])

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        return self.table(encoded)
"""
OWN_FEATURE = """
imports = ["own_features"]
[model]
query = [{kind = "category", column = "customer"}, {kind = "hour", column = "bought_at"}]
layers = [8]
"""


def test_a_feature_of_ones_own_is_imported_where_the_user_names_it(shop: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(shop / "shop", folder)
    (folder / "own_features.py").write_text(FEATURE)
    config = folder / "own.toml"
    config.write_text(OWN_FEATURE + TINY)
    twotower("train", config, "--out", tmp_path / "model")
    query = ("recommend", tmp_path / "model", "--query", '{"customer": "c0042"}')
    unknown = " ".join(twotower(*query, expect=5).stderr.split())  # a bundle names no module that is run
    assert "feature kind 'hour' is unknown" in unknown
    assert "--import MODULE" in unknown
    own = ("--import", folder / "own_features.py")
    assert "score" in twotower(*query, *own).stdout
    assert "top-10" in twotower("evaluate", tmp_path / "model", *own).stdout
    by_workers = ("--layers", "4", "--layers", "8", "--workers", 2, "--epochs", 1, "--out", tmp_path / "study")
    assert "The report" in twotower("study", config, *by_workers).stdout


def test_simulated_data_have_the_size_that_is_asked_for(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[data.simulated]\nqueries = 30\ncandidates = 40\ninteractions = 500\nseed = 3\n")
    by_config = msgspec.json.decode(twotower("data", "describe", config, "--json").stdout)
    by_name = msgspec.json.decode(twotower("data", "describe", "simulated:30,40,500,3", "--json").stdout)
    assert by_config["interactions"] == 500
    assert {**by_config, "name": ""} == {**by_name, "name": ""}


def test_the_example_from_python_does_the_same(shop: Path) -> None:
    evaluation = runpy.run_path(str(shop / "own_log.py"))["main"](shop / "shop")
    assert evaluation.model.all["top_10"] > evaluation.rows["popularity"].all["top_10"] + 0.1
    assert (shop / "shop" / "retriever" / "manifest.json").exists()


def test_a_study_leaves_its_folder_and_names_the_report(shop: Path) -> None:
    out = shop / "study"
    done = twotower("study", shop / "shop" / "tiny.toml", "--layers", "8", "16,8", "--seeds", 2, "--out", out)
    assert f"The report: {out / 'report.html'}" in done.stdout
    assert {path.name for path in out.iterdir()} == {
        *("curves.png", "curves.svg", "experiment.json", "report.html", "results.json", "runs"),
    }
    results = read_results(out / "results.json")
    for sentence in results.verdicts:  # as they are, brackets and all
        assert sentence in " ".join(done.stdout.split())
    assert [(results.variants[run.variant].name, run.seed) for run in results.runs] == [
        *(("[8]", 0), ("[8]", 1), ("[16, 8]", 0), ("[16, 8]", 1)),
    ]
    assert results.runs[0].outcome.scores != results.runs[1].outcome.scores
    assert results.curves_on == "validation"
    assert results.cuts[0].split == "time:0.2"
    assert any("the last 20% of the events are test" in sentence for sentence in results.verdicts)
    assert "candidate tower reads: sku (id), label (words), shelf (labels)" in done.stdout
    assert results.cuts[0].validation > 0
    served = shop / "served"
    twotower("bundle", out, "--run", results.runs[2].key, "--out", served, "--study", out)
    assert "score" in twotower("recommend", served, "--query", "c0001").stdout
    by_name = twotower("bundle", out, "--run", "[16, 8]", "--out", shop / "ambiguous", expect=2).stderr
    assert results.runs[2].key in by_name  # two of that name: say which


def test_json_on_standard_output_is_nothing_but_json(shop: Path) -> None:
    out = shop / "json-study"
    at_random = ("--split", "random:0.2")
    done = twotower("study", shop / "shop" / "tiny.toml", "--layers", "4", *at_random, "--out", out, "--json")
    verdicts = msgspec.json.decode(done.stdout)["verdicts"]
    assert any("including the query's later choices" in sentence for sentence in verdicts)
    assert not any("Split by time" in sentence for sentence in verdicts)
    assert msgspec.json.decode(done.stdout)["variants"][0]["values"] == {"model.layers": [4]}
    assert "top-100" in done.stderr


def test_an_interrupted_study_resumes(shop: Path, tmp_path: Path) -> None:
    out = shop / "interrupted"
    depths = ("--layers", "8", "--layers", "128,128,8")  # the second still runs when the first has finished
    arguments = ("study", shop / "shop" / "tiny.toml", *depths, "--epochs", 15, "--baselines", "none", "--out", out)
    running = start_python("-m", "twotower", *arguments, folder=tmp_path)
    deadline = time.monotonic() + 120
    while not (finished := kept_models(out)) and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.05)
    assert finished
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130
    assert "rerun the command to resume" in running.stderr.read_text()
    assert not (out / "results.json").exists()
    twotower(*arguments)
    assert (out / "results.json").exists()
    assert finished.items() <= kept_models(out).items()


def kept_models(out: Path) -> dict[str, int]:
    """Every finished model of a study, and when it was kept."""
    models = [path for path in (out / "runs").glob("*/outcome.json") if (path.parent / "model").is_dir()]
    return {path.parent.name: path.stat().st_mtime_ns for path in models}


def test_data_can_be_described_and_listed() -> None:
    described = msgspec.json.decode(twotower("data", "describe", "simulated", "--json").stdout)
    assert described["interactions"] == 100_000
    names = [entry["edition"] for entry in msgspec.json.decode(twotower("data", "list", "--json").stdout)]
    assert names[:3] == ["100k", "1m", "10m"]
    assert "embedded" in twotower("data", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["study", "movielens-2m"], 2, "neither a data set"),
        (["study", "--recipe", "best"], 2, "expected tuned or tutorial"),
        (["study", "--layers", "64;32"], 2, "expected comma-separated widths"),
        (["study", "--split", "half"], 2, "expected one of random:SHARE"),
        (["study", "--split-seeds", "-1"], 2, "split seed -1; expected"),
        (["study", "simulated:5,6"], 2, "expected simulated:QUERIES,CANDIDATES,INTERACTIONS[,SEED]"),
        (["study", "--import", "no_such_module"], 2, "No module named 'no_such_module'"),
        (["study", "--seeds", "0"], 2, "seeds"),
        (["study", "--sedes", "1"], 2, "sedes"),
        (["train", "nothing.toml", "--out", "x"], 2, "does not exist"),
        (["study", "--vary", "model.dimm=16"], 2, "[model] has the unknown key 'dimm', did you mean 'dim'?"),
        (["serve", "/nonexistent"], 5, "/nonexistent does not exist; expected a bundle"),
        (["evaluate", "/nonexistent"], 5, "/nonexistent does not exist"),
        (["recommend", "/nonexistent", "--query", "{}"], 5, "/nonexistent does not exist"),
        (["data", "fetch", "netflix"], 2, "cannot be fetched"),
    ],
)
def test_mistakes_have_a_line_and_an_exit_code(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    said = twotower(*arguments, expect=code).stderr
    assert message in " ".join(said.replace("│", " ").split())


STREAMED = """
[data]
name = "shop"
stream = true
interactions = "parts"
test = "test.parquet"
validation = "validation.parquet"
queries = "customers.parquet"
candidates = "products.parquet"
query_id = "customer"
candidate_id = "sku"
time = "bought_at"
[training]
epochs = 3
loss = {kind = "in_batch_softmax"}
"""


def test_a_streamed_log_trains_evaluates_and_recommends(shop: Path) -> None:
    folder = shop / "shop"
    purchases = pq.read_table(folder / "purchases.parquet").slice(0, 8000).sort_by("bought_at")
    cut = [int(len(purchases) * share) for share in (0.7, 0.8)]
    (folder / "parts").mkdir()
    pq.write_table(purchases.slice(0, cut[0]), folder / "parts" / "a.parquet", row_group_size=500)
    pq.write_table(purchases.slice(cut[0], cut[1] - cut[0]), folder / "validation.parquet")
    pq.write_table(purchases.slice(cut[1]), folder / "test.parquet")
    config = folder / "streamed.toml"
    config.write_text(STREAMED)
    assert "5,600 events of" in twotower("prepare", config).stdout
    said = twotower("train", config, "--out", shop / "streamed").stdout
    assert "sku (earlier choices)" in said
    assert f"{cut[0]:,} train, {len(purchases) - cut[1]:,} test; split given" in said
    evaluation = msgspec.json.decode(twotower("evaluate", shop / "streamed", "--json").stdout, type=dict[str, Any])
    assert list(evaluation["rows"]) == ["model", "popularity"]
    assert evaluation["rows"]["model"]["all"]["top_10"] > evaluation["rows"]["popularity"]["all"]["top_10"]
    found = twotower("recommend", shop / "streamed", "--query", "c0042", "--json")
    assert len(msgspec.json.decode(found.stdout)["recommendations"]) == 10
    studied = twotower("study", config, "--layers", "4", "--epochs", 1, "--out", shop / "streamed-study").stdout
    assert "The other baselines are not in the table" in studied
    whole = STREAMED.replace('test = "test.parquet"\nvalidation = "validation.parquet"\n', "")
    config.write_text(whole.replace("epochs = 3", "epochs = 1"))
    tuned = twotower("tune", config, "--trials", 1, "--workers", 1, "--out", shop / "streamed-tuning").stdout
    assert "Split by time (time:0.2)" in tuned
    assert (shop / "streamed-tuning" / "best.toml").exists()
    config.write_text(whole.replace("stream = true", ""))
    assert "has no stream = true" in twotower("prepare", config, expect=2).stderr


def test_a_file_of_queries_is_answered_to_a_file(shop: Path, trained: Path) -> None:
    queries, out = shop / "customers.parquet", shop / "recommended.parquet"
    pq.write_table(pa.table({"customer": ["c0042", "nobody"]}), queries)
    said = twotower("recommend", trained, "--queries", queries, "-k", 7, "--out", out).stdout
    assert "2 queries; written to" in said
    answers = pq.read_table(out).to_pylist()
    assert [len(answer["candidates"]) for answer in answers] == [7, 7]
    assert [answer["basis"] for answer in answers] == ["query", "popularity"]


def test_one_query_or_a_file_but_not_both(shop: Path, trained: Path) -> None:
    both = ("--query", "{}", "--queries", shop / "customers.parquet")
    assert "expected one of them" in twotower("recommend", trained, *both, expect=2).stderr
    assert "expected one of them" in twotower("recommend", trained, expect=2).stderr
    assert "belong together" in twotower("recommend", trained, "--query", "{}", "--out", shop / "no", expect=2).stderr


@pytest.mark.parametrize("query", ["{customer", "[1]", "null", '"c0042'])
def test_a_query_that_is_neither_an_id_nor_a_json_object_is_refused(trained: Path, query: str) -> None:
    said = twotower("recommend", trained, "--query", query, expect=2).stderr
    assert "expected an id, or a JSON object of columns and values" in said
    assert "`" not in said


@pytest.mark.parametrize("command", ["", "study", "train", "evaluate", "recommend", "data"])
def test_help_teaches(command: str) -> None:
    shown = twotower(*([command] if command else []), "--help").stdout
    assert "Usage" in shown
    if not command:
        for name in ("study", "train", "evaluate", "recommend", "data", "Exit codes"):
            assert name in shown


def test_layers_are_read() -> None:
    assert parse_layers("128,64,32") == [128, 64, 32]
    assert parse_layers("none") == []
    for text in ("", "0", "64,,32", "-1"):
        with pytest.raises(ConfigError, match="--layers"):
            parse_layers(text)


def test_what_is_left_out_of_the_data_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who;what\nann;tea\nbob;rum\n")
    (tmp_path / "items.csv").write_text("what\ntea\n")
    (tmp_path / "config.toml").write_text(
        '[data]\ninteractions = "log.csv"\ncandidates = "items.csv"\nquery_id = "who"\ncandidate_id = "what"\n'
        'unknown_candidates = "drop"\n'
    )
    done = twotower("data", "describe", str(tmp_path / "config.toml"), "--json")
    assert done.stderr == (
        "warning: dropped 1 of 2 events (50.0%): their 'what' is not in the candidate table, such as 'rum'\n"
    )
    assert msgspec.json.decode(done.stdout)["dropped"] == 1
