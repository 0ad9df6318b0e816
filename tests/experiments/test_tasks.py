"""Tasks in configs: trained, measured and kept in bundles, with retrieval and without it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from toy_ratings import rated
from twotower import Rerank
from twotower.cli.main import app
from twotower.errors import ConfigError
from twotower.evaluation import evaluate
from twotower.experiments.orders import identity_of
from twotower.experiments.plans import StudyPlan, grid
from twotower.experiments.study import run_study
from twotower.experiments.train import train
from twotower.recipes.config import Config
from twotower.retrieval import Retriever
from twotower.tasks import Ranking, Rating, Retrieval, predict

CONFIG = """
baselines = ["popularity"]
[data]
query_id = "user"
candidate_id = "item"
time = "at"
[split]
rule = "random:0.2"
[model]
inputs = "log"
layers = [8]
dim = 8
[training]
epochs = 3
batch_size = 128
"""

RATING = """
[[tasks]]
kind = "rating"
target = "stars"
weight = 0.5
head = {kind = "stack", layers = [8]}
"""

RETRIEVAL = """
[[tasks]]
kind = "retrieval"
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = rated(1200)
    columns = {"user": pa.array(log.query_index), "item": pa.array(log.candidate_index)}
    table = pa.table(columns | {name: log.interactions[name] for name in ("at", "stars")})
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    pq.write_table(table, path)
    return path


def config_of(path: Path, *tasks: str) -> Config:
    settings = tomllib.loads("\n".join((CONFIG, *tasks)))
    settings["data"]["interactions"] = str(path)
    return msgspec.convert(settings, Config)


def test_a_bundle_has_the_head_and_says_how_each_task_did(path: Path, tmp_path: Path) -> None:
    config = config_of(path, RETRIEVAL, RATING)
    trained = train(config, tmp_path / "bundle")
    assert trained.evaluation.model.all["top_10"] > 0
    assert trained.evaluation.task("rating").model.metrics["rmse"] > 0
    loaded = Retriever.load(tmp_path / "bundle")
    assert loaded.details.notes.evaluation is not None
    assert loaded.details.notes.evaluation.task("rating") == trained.evaluation.task("rating")
    parts = config.parts()
    tasks = config.resolved_recipe(parts.train, parts.validation).trainer.tasks
    assert isinstance(tasks[0], Retrieval)
    assert isinstance(tasks[1], Rating)
    again = evaluate(loaded.model, parts.test, parts.train, baselines=["popularity"], tasks=tasks)
    assert again.task("rating").model.metrics == pytest.approx(trained.evaluation.task("rating").model.metrics)
    assert len(predict(loaded.model, parts.test, "rating")) == len(parts.test)


def test_a_config_without_retrieval_is_judged_by_its_own_metric(path: Path, tmp_path: Path) -> None:
    config = config_of(path, RATING)
    parts = config.parts()
    assert config.resolved_recipe(parts.train, parts.validation).trainer.monitor == "rating.rmse"
    trained = train(config, tmp_path / "bundle")
    assert trained.evaluation.rows == {}
    notes = Retriever.load(tmp_path / "bundle").details.notes
    assert notes.history is not None
    assert notes.history.monitor == "rating.rmse"
    assert set(notes.history.epochs[0].losses) == {"rating"}


def test_tasks_that_cannot_be_are_refused_when_the_config_is_read(path: Path) -> None:
    for task, message in (
        ('[[tasks]]\nkind = "rates"', "task kind 'rates' is unknown; expected one of ranking, rating, retrieval"),
        ('[[tasks]]\nkind = "rating"', "missing required field `target`"),
        ('[[tasks]]\nkind = "rating"\ntarget = "stars"\nlos = "huber"', "unknown field `los`"),
        ('[[tasks]]\nkind = "rating"\ntarget = "stars"\nweight = 0', "weight=0.0; expected a number above 0"),
    ):
        with pytest.raises((ConfigError, msgspec.ValidationError), match=message):
            config_of(path, task)


def test_a_config_may_name_what_is_monitored_and_every_task_of_ours(path: Path) -> None:
    ranking = '[[tasks]]\nkind = "ranking"\ntarget = "stars"\nsampled = 3\n'
    config = config_of(path, RETRIEVAL, ranking, RATING)
    config = msgspec.structs.replace(config, training={"monitor": "rating.mae"})
    parts = config.parts()
    trainer = config.resolved_recipe(parts.train, parts.validation).trainer
    assert trainer.monitor == "rating.mae"
    assert isinstance(trainer.tasks[1], Ranking)


def test_a_study_has_a_table_and_verdicts_for_each_task_and_needs_retrieval(path: Path, tmp_path: Path) -> None:
    def plan_of(config: Config) -> StudyPlan:
        variants = grid({"model.layers": [[8]]}, {})
        return StudyPlan(config=config, variants=variants, split_seeds=[42], seeds=[0, 1], workers=1)

    console = Console(quiet=True)
    out = tmp_path / "study"
    study = run_study(plan_of(config_of(path, RETRIEVAL, RATING)), out, command="study", console=console)
    assert any(sentence.startswith("Rating: [8]") for sentence in study.verdicts)
    report = (out / "report.html").read_text()
    assert "matrix factorisation with biases" in report
    assert "<h2>Other tasks</h2>" in report
    with pytest.raises(ConfigError, match="a study compares models by their ranks"):
        run_study(plan_of(config_of(path, RATING)), tmp_path / "other", command="study", console=console)


def test_a_config_says_what_a_bundle_re_ranks_and_training_what_that_adds(path: Path, tmp_path: Path) -> None:
    config = msgspec.structs.replace(config_of(path, RETRIEVAL, RATING), rerank=Rerank(10), baselines="none")
    trained = train(config, tmp_path / "bundle")
    loaded = Retriever.load(tmp_path / "bundle")
    assert loaded.details.rerank == Rerank(10, "rating")
    assert loaded.recommend(3, 5)[0].rerank_score is not None
    stages = trained.evaluation.rerank
    assert stages is not None
    assert (stages.n, stages.by) == (10, "rating")
    assert loaded.details.notes.evaluation is not None
    assert loaded.details.notes.evaluation.rerank == stages
    assert stages.notes[0] in " ".join(str(trained.evaluation).split())
    shown = CliRunner().invoke(app, ["evaluate", str(tmp_path / "bundle"), "--json"])
    assert shown.exit_code == 0, shown.output
    measured = msgspec.json.decode(shown.stdout)["rerank"]
    assert measured["rows"]["re-ranked"]["all"] == pytest.approx(stages.rows["re-ranked"].all)


def test_runs_without_re_ranking_keep_their_keys(path: Path) -> None:
    config = config_of(path, RETRIEVAL, RATING)
    assert "rerank" not in identity_of(config)
    assert identity_of(msgspec.structs.replace(config, rerank=Rerank(10)))["rerank"] == {"n": 10, "by": None}


@pytest.mark.parametrize(
    ("tasks", "rerank", "message"),
    [
        ((RATING,), {"n": 10}, r"\[\[tasks\]\] has no retrieval; expected retrieval and a rating or ranking task"),
        ((RETRIEVAL,), {"n": 10}, "the model has no head to re-rank by"),
        ((RETRIEVAL, RATING), {"n": 10, "by": "clicks"}, "by='clicks'; expected one of the tasks rating"),
        ((RETRIEVAL, RATING), {"n": 0}, "n=0; expected from 1 to 1000"),
        ((RETRIEVAL, RATING), {"m": 10}, "unknown field `m`"),
    ],
    ids=["no retrieval", "no head", "another task", "none", "unknown key"],
)
def test_a_rerank_that_nothing_can_do_is_refused(
    path: Path, tasks: tuple[str, ...], rerank: dict[str, object], message: str
) -> None:
    settings = tomllib.loads("\n".join((CONFIG, *tasks))) | {"rerank": rerank}
    settings["data"]["interactions"] = str(path)
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(settings, Config)
