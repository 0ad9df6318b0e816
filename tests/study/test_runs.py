"""Runs of a study side by side, in processes of their own."""

from __future__ import annotations

import os
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from twotower.study.results import Study
from twotower.study.runner import StudyPlan, run_study
from twotower.study.tables import results_table

from toy import groups_log
from twotower.data import Dataset
from twotower.errors import TwoTowerError
from twotower.evaluation import beside
from twotower.study import runner, runs
from twotower.recipes.config import Config, DataConfig, ModelConfig
from twotower.training.callbacks import Line, ProgressBar


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
    return Config(data=data, model=ModelConfig(inputs="log"), training={"epochs": 2, "batch_size": 64})


def study_of(config: Config, workers: int, out: Path) -> Study:
    plan = StudyPlan(config=config, depths=[[4], [8, 4]], seeds=1, workers=workers)
    return run_study(plan, config.data.load(), out, command="study", console=Console(quiet=True))


def test_side_by_side_gives_what_one_after_the_other_does(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StudyPlan, "threads", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = study_of(config, 1, tmp_path / "alone")
    finally:
        torch.set_num_threads(threads)
    beside = study_of(config, 2, tmp_path / "beside")
    assert [run.layers for run in beside.runs] == [[4], [8, 4]]
    assert [run.losses for run in beside.runs] == [run.losses for run in alone.runs]
    assert [run.final for run in beside.runs] == [run.final for run in alone.runs]


def test_a_study_without_baselines_has_a_report(config: Config, tmp_path: Path) -> None:
    study = study_of(msgspec.structs.replace(config, baselines="none"), 1, tmp_path / "bare")
    assert study.baselines == study.curve_baselines == {}
    assert results_table(study).row_count == 2
    assert "beats" not in " ".join(study.verdicts)
    assert (tmp_path / "bare" / "report.html").exists()


def test_what_learns_for_long_is_measured_once_and_not_again_after_an_interruption(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Curves on a validation part have those baselines alone that learn in no time."""
    measured: list[tuple[str, int]] = []
    measure_baseline = beside.measure_baseline

    def counted(name: str, test: Dataset, train: Dataset, *rest: Any) -> Any:
        measured.append((name, len(train)))
        return measure_baseline(name, test, train, *rest)

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(beside, "measure_baseline", counted)
    named = msgspec.structs.replace(config, baselines=("popularity", "item_knn", "ease"))
    with monkeypatch.context() as patched:
        patched.setattr(runner, "finished_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            study_of(named, 1, tmp_path / "study")
    assert measured == [("popularity", 480), ("item_knn", 480), ("ease", 480), ("popularity", 384)]
    measured.clear()
    again = study_of(msgspec.structs.replace(named, baselines=("popularity", "ease")), 1, tmp_path / "study")
    assert measured == [("popularity", 384)]  # in no time
    assert (list(again.baselines), list(again.curve_baselines)) == (["popularity", "ease"], ["popularity"])
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == [
        *("curves.png", "curves.svg", "models", "report.html", "results.json")
    ]


def jobs_of(config: Config, folder: Path) -> list[runs.Job]:
    return [runs.Job(config, runs.Planned([width], 0, f"[{width}]"), str(folder), 1) for width in (2, 4, 8)]


def test_an_error_of_a_run_is_the_commands(config: Config, tmp_path: Path) -> None:
    """At such a rate training diverges."""
    hot = msgspec.structs.replace(
        config, training=config.training | {"optimizer": {"kind": "adagrad", "learning_rate": 1e30}}
    )
    with pytest.raises(TwoTowerError, match="training has diverged"):
        runs.run_side_by_side(jobs_of(hot, tmp_path), 2, ProgressBar(Console(quiet=True)), print)


def dies(raw: bytes, out: Connection) -> None:
    os._exit(9)


def test_a_run_whose_process_dies_does_not_hang_the_command(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "work", dies)
    with pytest.raises(TwoTowerError, match=r"the run \[8\] ended with code 9"):  # the widest is the first
        runs.run_side_by_side(jobs_of(config, tmp_path), 1, ProgressBar(Console(quiet=True)), print)


def test_whoever_reads_reports_being_gone_ends_a_worker() -> None:
    ours, theirs = Pipe(duplex=False)
    ours.close()
    with pytest.raises(SystemExit):
        runs._Reports(theirs).show(Line(1, "[8]", 0, 1))
