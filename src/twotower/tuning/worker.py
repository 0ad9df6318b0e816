"""A worker: a process that loads the data once and runs one trial after the other."""

from __future__ import annotations

import time
from multiprocessing import parent_process
from pathlib import Path

import msgspec
import torch
from filelock import FileLock
from optuna.trial import Trial, TrialState

from twotower.study.config import Config
from twotower.tuning.budget import Budget
from twotower.tuning.database import WORKER, Database, seconds_of
from twotower.tuning.folder import CLAIM_LOCK, DATABASE
from twotower.tuning.objective import run_trial
from twotower.tuning.sampler import SeededSampler
from twotower.tuning.space import SearchSpace


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has to know.

    Attributes:
        config: The config, with its space.
        out: The folder of the tuning.
        seed: Of the sampler.
        budget: When to stop.
        threads: Of PyTorch, in each worker.
    """

    config: Config
    out: str
    seed: int
    budget: Budget
    threads: int

    @property
    def database(self) -> Path:
        """The file of the trials."""
        return Path(self.out) / DATABASE


def work(raw: bytes, worker: int) -> None:
    """Runs trials until the budget is spent: what a worker process does.

    Args:
        raw: A `Job` as JSON.
        worker: Number of the worker, by which its trials are known if it dies.
    """
    job = msgspec.json.decode(raw, type=Job)
    torch.set_num_threads(job.threads)
    rule = job.config.split.parsed()
    train = rule(job.config.data.load()).train  # the test part is dropped here
    parts = rule(train)
    space = SearchSpace.of(job.config, train)
    with Database.opened(job.database, SeededSampler(job.seed, space.distributions)) as database:
        while (claimed := _claim(database, job, worker)) is not None:
            trial, deadline = claimed
            run_trial(database.study, trial, space, train, parts, deadline)


def _claim(database: Database, job: Job, worker: int) -> tuple[Trial, float | None] | None:
    """The next trial and its deadline; None where enough are done or under way, or the time is up."""
    with FileLock(Path(job.out) / CLAIM_LOCK):
        finished = database.finished()
        running = sum(trial.state == TrialState.RUNNING for trial in database.trials())
        if job.budget.trials is not None and len(finished) + running >= job.budget.trials:
            return None
        seconds = [seconds_of(trial) for trial in finished if trial.state == TrialState.COMPLETE]
        deadline = job.budget.deadline(seconds)
        shortest = min((seconds_of(trial) for trial in finished), default=0.0)
        if deadline is not None and time.time() + shortest > deadline:
            return None
        if (parent := parent_process()) is not None and not parent.is_alive():
            return None
        trial = database.study.ask()
        trial.set_user_attr(WORKER, worker)
        return trial, deadline
