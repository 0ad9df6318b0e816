"""Worker processes that die."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from optuna.trial import TrialState

from twotower.errors import TwoTowerError
from twotower.recipes.config import Config
from twotower.tuning import pool
from twotower.tuning.budget import Budget
from twotower.tuning.database import REASON, WORKER, Database
from twotower.tuning.pool import run_workers
from twotower.tuning.worker import Job


def dies_at_once(raw: bytes, worker: int) -> None:
    os._exit(9)


def dies_in_its_trial(raw: bytes, worker: int) -> None:
    """Only the first worker; the others find nothing to do."""
    if worker == 0:
        with Database.opened(msgspec.json.decode(raw, type=Job).database) as database:
            database.study.ask().set_user_attr(WORKER, worker)
            os._exit(9)


def job_in(folder: Path) -> Job:
    return Job(config=Config(), out=str(folder), seed=0, budget=Budget(start=0.0), threads=1)


def test_a_trial_whose_process_dies_has_failed_and_another_worker_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "work", dies_in_its_trial)
    job = job_in(tmp_path)
    with Database.opened(job.database) as database:
        run_workers(job, 1, database, lambda: None)
        (trial,) = database.finished()
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs[REASON] == "its process ended with code 9"


def test_a_worker_that_cannot_start_does_not_hang_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "work", dies_at_once)
    job = job_in(tmp_path)
    with Database.opened(job.database) as database, pytest.raises(TwoTowerError, match="no worker could start"):
        run_workers(job, 1, database, lambda: None)
