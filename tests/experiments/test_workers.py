from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from pool_jobs import Task, make
from twotower.errors import TwoTowerError
from twotower.experiments.pool import Ended, Job, run_jobs
from twotower.progress import Display


class Desk:
    """Hands out jobs in order; stops one that reports a value above 0.5; raises what fails, if asked to."""

    def __init__(self, folder: Path, *tasks: str, strict: bool = True) -> None:
        self.waiting = [
            Job(do, msgspec.Raw(msgspec.json.encode(Task(do, str(folder / f"{number}-{do}")))))
            for number, do in enumerate(tasks)
        ]
        self.strict, self.failures, self.values = strict, [], []  # type: ignore[var-annotated]

    def next_job(self) -> Job | None:
        return self.waiting.pop(0) if self.waiting else None

    def reported(self, job: Job, step: int, value: float) -> bool:
        self.values.append((step, value))
        return value <= 0.5

    def finished(self, job: Job, ended: Ended) -> None:
        if ended.how != "done":
            self.failures.append((ended.how, ended.reason))
            if self.strict:
                raise TwoTowerError(ended.reason)


def test_jobs_go_to_as_many_processes_as_asked_for_which_take_one_after_the_other(tmp_path: Path) -> None:
    run_jobs(make, Desk(tmp_path, *["mark"] * 5), 2, Display(Console(quiet=True)), 1)
    processes = {path.read_text() for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 5
    assert len(processes) <= 2
    assert str(os.getpid()) not in processes


def test_no_process_is_started_without_a_job(tmp_path: Path) -> None:
    run_jobs(make, Desk(tmp_path), 2, Display(Console(quiet=True)), 1)


def test_a_failure_is_the_desks_to_judge_and_a_dead_worker_is_replaced(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "fail", "die", "mark", strict=False)
    run_jobs(make, desk, 1, Display(Console(quiet=True)), 1)
    assert desk.failures == [("failed", "column 'x' is missing"), ("died", "its process ended with code -9")]
    assert (tmp_path / "2-mark").exists()


def test_a_failure_of_the_machine_is_no_failure_of_the_job(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "disk", "mark", strict=False)
    run_jobs(make, desk, 1, Display(Console(quiet=True)), 1)
    ((how, reason),) = desk.failures
    assert how == "system"
    assert "0-disk cannot be written: [Errno 5] Input/output error" in reason
    assert (tmp_path / "1-mark").exists()


def test_a_desk_that_raises_ends_all_workers(tmp_path: Path) -> None:
    with pytest.raises(TwoTowerError, match="column 'x' is missing"):
        run_jobs(make, Desk(tmp_path, "sleep", "fail"), 2, Display(Console(quiet=True)), 1)


def test_a_job_stops_where_the_desk_says_so(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "count", strict=False)
    run_jobs(make, desk, 1, Display(Console(quiet=True)), 1)
    assert desk.values[-1] == (6, 0.6)
    assert [how for how, _ in desk.failures] == ["stopped"]


def test_an_interruption_ends_the_pool(tmp_path: Path) -> None:
    def interrupt() -> None:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(make, Desk(tmp_path, "sleep"), 1, Display(Console(quiet=True)), 1)
    thread.join()


@pytest.mark.parametrize(("variable", "fixed"), [(None, False), ("2", True)])
def test_a_worker_adapts_its_threads_unless_the_user_has_fixed_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, fixed: bool
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    run_jobs(make, Desk(tmp_path, "threads"), 1, Display(Console(quiet=True)), 2)
    assert (tmp_path / "0-threads").read_text() == f"2 {fixed}"
