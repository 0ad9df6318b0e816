"""Studies as they run: on the pool, kept in the store, resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from toy import groups_log
from twotower.data import Dataset
from twotower.errors import ConfigError, TwoTowerError
from twotower.experiments.plans import StudyPlan, grid
from twotower.experiments.report.terminal import results_table
from twotower.experiments.results import Study
from twotower.experiments.study import _columns_of, _cuts, run_study
from twotower.model import load_model
from twotower.recipes.config import Config, DataConfig, ModelConfig

QUIET = Console(quiet=True)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    log = groups_log(600)
    for name, table in (("log", log.interactions), ("items", log.candidates)):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    data = DataConfig(
        interactions=str(tmp_path / "log.parquet"),
        candidates=str(tmp_path / "items.parquet"),
        query_id="user",
        candidate_id="item",
        time="at",
    )
    named = ("popularity", "item_knn")
    training = {"epochs": 2, "batch_size": 64}
    return Config(data=data, model=ModelConfig(inputs="log", dim=4), training=training, baselines=named)


def plan_of(config: Config, workers: int = 2, **others: Any) -> StudyPlan:
    usual: dict[str, Any] = {"split_seeds": [42], "seeds": [0], "variants": grid({"model.layers": [[4], [8, 4]]})}
    return StudyPlan(config=config, workers=workers, **(usual | others))


def study_of(plan: StudyPlan, out: Path) -> Study:
    return run_study(plan, out, command="study", console=QUIET)


def folders(out: Path) -> dict[str, int]:
    """Every run's folder, and when its outcome was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (out / "runs").glob("*/outcome.json")}


def test_side_by_side_gives_what_one_after_the_other_does(config: Config, tmp_path: Path) -> None:
    alone, beside = (study_of(plan_of(config, workers), tmp_path / f"{workers}") for workers in (1, 2))
    assert [variant.name for variant in beside.variants] == ["[4]", "[8, 4]"]
    assert [run.key for run in beside.runs] == [run.key for run in alone.runs]
    assert [run.outcome.losses for run in beside.runs] == [run.outcome.losses for run in alone.runs]
    assert [run.outcome.scores for run in beside.runs] == [run.outcome.scores for run in alone.runs]
    assert beside.comparisons == alone.comparisons
    model = load_model(tmp_path / "2" / "runs" / beside.runs[0].key / "model")
    assert model.parameter_count == beside.runs[0].outcome.parameters


def test_nothing_is_computed_twice_and_another_study_in_the_folder_trains_what_is_new(
    config: Config, tmp_path: Path
) -> None:
    first = study_of(plan_of(config), tmp_path / "out")
    before = folders(tmp_path / "out")
    assert len(before) == 2 * 2 + 2 + 1  # searches and models; baselines on test, popularity on validation
    again = study_of(plan_of(config), tmp_path / "out")
    assert folders(tmp_path / "out") == before
    assert (again.runs, again.baselines) == (first.runs, first.baselines)
    wider = study_of(plan_of(config, seeds=[0, 1], variants=grid({"model.layers": [[4]]})), tmp_path / "out")
    after = folders(tmp_path / "out")
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2
    assert [run.seed for run in wider.runs] == [0, 1]


def test_what_an_interruption_has_finished_is_not_run_again(config: Config, tmp_path: Path) -> None:
    """A study whose second variant fails has kept the first, and ends as one that was never interrupted."""
    rates = [0.01, 1e30]
    hot = grid({"training.optimizer": [{"kind": "adagrad", "learning_rate": rate} for rate in rates]})
    with pytest.raises(TwoTowerError, match="training has diverged"):
        study_of(plan_of(config, workers=1, variants=hot), tmp_path / "cut")
    before = folders(tmp_path / "cut")
    assert before
    assert not (tmp_path / "cut" / "results.json").exists()
    resumed = study_of(plan_of(config, variants=hot[:1]), tmp_path / "cut")
    whole = study_of(plan_of(config, variants=hot[:1]), tmp_path / "whole")
    assert before.items() <= folders(tmp_path / "cut").items()
    assert [run.outcome.losses for run in resumed.runs] == [run.outcome.losses for run in whole.runs]
    assert [run.outcome.scores for run in resumed.runs] == [run.outcome.scores for run in whole.runs]
    assert resumed.comparisons == whole.comparisons


def test_any_key_can_vary_and_shares_of_train_are_part_of_each_other(config: Config, tmp_path: Path) -> None:
    variants = grid({"model.dim": [4, 8], "split.train_share": [0.5, 1.0]}, {"narrow": {"model": {"layers": [4]}}})
    study = study_of(plan_of(config, variants=variants, split_seeds=[1, 2]), tmp_path / "out")
    assert [variant.name for variant in study.variants] == [
        "narrow, dim 4, train share 0.5",
        "narrow, dim 4, train share 1",
        "narrow, dim 8, train share 0.5",
        "narrow, dim 8, train share 1",
    ]
    assert study.varied["split.train_share"] == [0.5, 1.0]
    assert sorted((cut.seed, cut.changes["split.train_share"], cut.train, cut.test) for cut in study.cuts) == [
        (1, 0.5, 240, 120), (1, 1.0, 480, 120), (2, 0.5, 240, 120), (2, 1.0, 480, 120),
    ]  # fmt: skip
    assert len(study.runs) == 8
    half, quarter = (
        msgspec.structs.replace(config, split=msgspec.structs.replace(config.split, train_share=share)).parts()
        for share in (0.5, 0.25)
    )
    assert isinstance(half.train, Dataset)
    assert isinstance(quarter.train, Dataset)
    assert set(quarter.train.times) < set(half.train.times)
    assert (quarter.test.times == half.test.times).all()


def test_a_study_on_validation_never_reads_test(config: Config, tmp_path: Path) -> None:
    split = msgspec.structs.replace(config.split, on="validation")
    study = study_of(plan_of(msgspec.structs.replace(config, split=split)), tmp_path / "out")
    (cut,) = study.cuts
    assert (cut.train, cut.test) == (384, 96)
    assert any("validation part" in sentence for sentence in study.verdicts)
    parts = config.parts()
    inner = msgspec.structs.replace(config, split=split).parts()
    assert not set(inner.test.times) & set(parts.test.times)
    for run in study.runs:
        kept = max(run.outcome.curve, key=lambda point: point.all["top_100"])
        assert run.outcome.scores.all["top_100"] == pytest.approx(kept.all["top_100"])


def test_a_study_without_baselines_has_a_report(config: Config, tmp_path: Path) -> None:
    bare = msgspec.structs.replace(config, baselines="none")
    study = study_of(plan_of(bare), tmp_path / "bare")
    assert study.baselines == []
    assert results_table(study).row_count == 2
    assert "beats" not in " ".join(study.verdicts)
    assert (tmp_path / "bare" / "report.html").exists()


def test_a_folder_of_something_else_is_refused_before_anything_is_read(config: Config, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    missing = msgspec.structs.replace(config, data=DataConfig(interactions="nowhere.parquet"))
    with pytest.raises(ConfigError, match=r"is not a study \(it contains thesis\.tex\)"):
        study_of(plan_of(missing), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_variant_that_no_config_can_have_is_named(config: Config) -> None:
    wrong = plan_of(config, variants=grid({"model.dim": ["wide"]}))
    with pytest.raises(ConfigError, match=r"variant dim wide: \[model\] dim = 'wide'; expected a whole number"):
        list(wrong.runs())
    with pytest.raises(ConfigError, match=r"split_seeds = .*all different"):
        plan_of(config, split_seeds=[1, 1])


def test_each_training_of_a_study_is_logged_under_its_name(config: Config, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    logged = msgspec.structs.replace(config, loggers=({"kind": "tensorboard", "folder": str(tmp_path / "logs")},))
    first = study_of(plan_of(logged), tmp_path / "out")
    names = {"[4]", "[4], on all of train", "[8, 4]", "[8, 4], on all of train"}
    assert {path.name for path in (tmp_path / "logs").iterdir()} == names
    assert [run.key for run in study_of(plan_of(config), tmp_path / "out").runs] == [run.key for run in first.runs]


def test_what_each_variant_reads_is_said(config: Config) -> None:
    alike = plan_of(config, split_seeds=[42, 43])
    lines = _columns_of(alike, _cuts(list(alike.runs())).values())
    assert lines[0].startswith("query tower reads: user (id), at (20 buckets, ")
    assert sum("tower reads" in line for line in lines) == 2
    variants = grid({"model.inputs": ["log", "tutorial"], "model.layers": [[4], [8]]})
    plan = plan_of(config, variants=variants)
    lines = _columns_of(plan, _cuts(list(plan.runs())).values())
    assert [line for line in lines if "query tower reads" in line] == [
        "inputs log, [4]; inputs log, [8]: query tower reads: user (id), at (20 buckets, standardised, time between "
        "events, counts of events)",
        "inputs tutorial, [4]; inputs tutorial, [8]: query tower reads: user (id), at (1000 buckets, standardised)",
    ]
