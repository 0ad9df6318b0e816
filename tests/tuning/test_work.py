"""What a worker does, run in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState
from twotower.tuning.budget import BASELINES_SHARE, FINAL_SHARE, TRAININGS, Budget
from twotower.tuning.database import REASON, Database, is_built_in
from twotower.tuning.space import SearchSpace
from twotower.tuning.worker import Job, work

from twotower.data import Dataset
from twotower.errors import SavedFolderError
from twotower.evaluation import Validation
from twotower.recipes.config import Config, read_config
from twotower.training import Trainer

BELOW = "below the median of the others at the same epoch"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def job_of(config: Config, out: Path, trials: int | None, end: float | None = None, seed: int = 0) -> Job:
    budget = Budget(trials=trials, start=time.time(), end=end)
    return Job(config=config, out=str(out), seed=seed, budget=budget, threads=1)


def trials_of(job: Job) -> list[FrozenTrial]:
    """Enqueues the built-in config, as the command does, and works."""
    config = job.config
    job.database.parent.mkdir(exist_ok=True)
    space = SearchSpace.of(config, config.parts().train)
    with Database.opened(job.database) as database:
        database.requeue_interrupted()
        database.enqueue_built_in(space.base_params)
    work(msgspec.json.encode(job), 0)
    with Database.opened(job.database) as database:
        return database.trials()


def with_tune(config: Config, tune: dict[str, Any]) -> Config:
    return msgspec.structs.replace(config, tune=tune)


def test_poor_trials_are_stopped_early_and_the_built_in_config_never(toy_config: Path, tmp_path: Path) -> None:
    trials = trials_of(job_of(read_config(toy_config), tmp_path, trials=14))
    assert is_built_in(trials[0])
    assert trials[0].state == TrialState.COMPLETE
    assert not any(map(is_built_in, trials[1:]))
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        assert trial.user_attrs[REASON] == BELOW
        assert 3 <= len(trial.intermediate_values) <= 5
    assert any(len(trial.intermediate_values) < 5 for trial in pruned)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert all(trial.value == max(trial.intermediate_values.values()) for trial in complete)
    assert len(pruned) + len(complete) == len(trials) == 14


def test_a_search_that_goes_on_is_the_one_that_was_not_interrupted(toy_config: Path, tmp_path: Path) -> None:
    config = read_config(toy_config)
    whole = trials_of(job_of(config, tmp_path / "whole", trials=13))
    trials_of(job_of(config, tmp_path / "parts", trials=4))
    parts = trials_of(job_of(config, tmp_path / "parts", trials=13))
    other = trials_of(job_of(config, tmp_path / "other", trials=4, seed=1))
    assert [(one.params, one.intermediate_values) for one in whole] == [
        (one.params, one.intermediate_values) for one in parts
    ]
    assert len({str(one.params) for one in whole}) == 13  # no draw is drawn again
    assert [one.params for one in other[1:]] != [one.params for one in whole[1:4]]


def test_no_trial_sees_test(toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Dataset] = []
    fit, validation = Trainer.fit, Validation.__init__

    def watched_fit(self: Trainer, model: Any, *parts: Dataset, **rest: Any) -> Any:
        seen.extend(parts)
        return fit(self, model, *parts, **rest)

    def watched_validation(self: Validation, model: Any, events: Dataset, train: Dataset, *rest: Any) -> None:
        seen.extend((events, train))
        validation(self, model, events, train, *rest)

    monkeypatch.setattr(Trainer, "fit", watched_fit)
    monkeypatch.setattr(Validation, "__init__", watched_validation)
    config = read_config(toy_config)
    trials_of(job_of(config, tmp_path, trials=2))
    split = config.parts()
    touched = np.unique(np.concatenate([part.times for part in seen]))
    assert not set(touched) & set(split.test.times)
    assert set(touched) == set(split.train.times)


def test_a_trial_that_diverges_has_failed_and_the_search_goes_on(toy_config: Path, tmp_path: Path) -> None:
    rates = {"choices": [0.005, 1e30]}
    config = with_tune(read_config(toy_config), {"training.optimizer.learning_rate": rates})
    trials = trials_of(job_of(config, tmp_path, trials=6))
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert failed
    assert all("diverged" in trial.user_attrs[REASON] or "finite" in trial.user_attrs[REASON] for trial in failed)
    assert all(trial.params["training.optimizer.learning_rate"] == "1e30" for trial in failed)
    assert len(trials) == 6
    assert trials[-1].state.is_finished()


def test_a_config_outside_its_space_is_tried_all_the_same(toy_config: Path, tmp_path: Path) -> None:
    config = with_tune(read_config(toy_config), {"model.dim": {"choices": [4, 16]}})
    trials = trials_of(job_of(config, tmp_path, trials=3))
    assert is_built_in(trials[0])
    assert trials[0].params == {}
    assert trials[0].state == TrialState.COMPLETE
    assert {trial.params["model.dim"] for trial in trials[1:]} <= {"4", "16"}


def test_a_trial_ends_at_the_deadline_and_says_so(toy_config: Path, tmp_path: Path) -> None:
    training = {"epochs": 100_000, "early_stopping": {"patience": 100_000}, "monitor": "all.top_5"}
    config = msgspec.structs.replace(read_config(toy_config), training=training)
    started = time.time()
    (trial,) = trials_of(job_of(config, tmp_path, trials=None, end=started + 5))
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs[REASON] == "out of time"
    assert trial.intermediate_values  # what was known by then is kept
    assert time.time() < started + 5


def test_the_deadline_leaves_room_for_the_final_trainings() -> None:
    budget = Budget(start=1000.0, end=1100.0)
    assert budget.deadline([]) == 1100 - 100 * FINAL_SHARE
    assert budget.deadline([2.0, 4.0]) == 1100 - 2 * TRAININGS * 4 - 100 * BASELINES_SHARE
    assert budget.deadline([200.0]) == 1100 - 100 * FINAL_SHARE
    assert Budget(start=1000.0).deadline([2.0]) is None


def test_what_nobody_runs_any_more_is_tried_again(toy_config: Path, tmp_path: Path) -> None:
    job = job_of(read_config(toy_config), tmp_path, trials=2)
    space = SearchSpace.of(job.config, job.config.data.load())
    with Database.opened(job.database) as database:
        database.enqueue_built_in(space.base_params)
        for _ in range(2):  # two workers that are killed in their trials
            left = database.study.ask()
            params = space.suggest(left) and left.params
    trials = trials_of(job)
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 2 + [TrialState.COMPLETE] * 2
    assert [is_built_in(trial) for trial in trials] == [True, False, True, False]
    assert trials[3].params == trials[1].params == params
    with Database.opened(job.database) as database:
        assert [trial.number for trial in database.finished()] == [2, 3]


def test_another_tunings_database_is_refused(tmp_path: Path) -> None:
    with Database.opened(tmp_path / "tune.db") as database:
        database.claim_identity({"data and split": "a", "space": "b", "version": "1"})
        database.claim_identity({"data and split": "a", "space": "b", "version": "1"})
        with pytest.raises(SavedFolderError, match="another tuning: space, version differ"):
            database.claim_identity({"data and split": "a", "space": "c", "version": "2"})
    (tmp_path / "other.db").write_text("no database at all, whatever its name says" * 100)
    with (
        pytest.raises(SavedFolderError, match=r"other\.db is no database of a tuning"),
        Database.opened(tmp_path / "other.db"),
    ):
        pass
