"""What the desk of a tuning hands out and makes of what comes back, with the runs done in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from twotower.data import Dataset
from twotower.errors import SavedFolderError, TwoTowerError
from twotower.evaluation import Validation
from twotower.experiments.pool import Ended, Job, Reporter, StoppedError
from twotower.experiments.run import Runner
from twotower.experiments.store import Store
from twotower.experiments.tuning.budget import BASELINES_SHARE, FINAL_SHARE, TRAINING_COST, Budget
from twotower.experiments.tuning.desk import MAX_DEATHS, TrialDesk
from twotower.experiments.tuning.space import SearchSpace
from twotower.experiments.tuning.trials import TrialLog, TrialRecord
from twotower.recipes.config import Config, read_config
from twotower.training import Trainer

BELOW = "below the median of the others at the same epoch"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Wire:
    """The pipe between a worker and its desk, without a process."""

    def __init__(self, desk: TrialDesk, job: Job) -> None:
        self.desk, self.job, self.answer = desk, job, True

    def send_bytes(self, raw: bytes) -> None:
        message = msgspec.json.decode(raw)
        if message["type"] == "reported":
            self.answer = self.desk.reported(self.job, message["step"], message["value"])

    def recv_bytes(self) -> bytes:
        return msgspec.json.encode(self.answer)


def desk_of(config: Config, out: Path, trials: int | None, end: float | None = None, seed: int = 0) -> TrialDesk:
    parts = config.parts()
    assert isinstance(parts.train, Dataset)
    train = parts.train
    return TrialDesk(
        SearchSpace.of(msgspec.structs.replace(config, split=parts.split), train),
        TrialLog(out / "trials.json", {"data": parts.identity}),
        Store(out / "runs"),
        parts.identity,
        lambda one: one.resolved_recipe(train),
        Budget(trials=trials, start=time.time(), end=end),
        seed,
        lambda _: None,
    )


def trials_of(desk: TrialDesk) -> list[TrialRecord]:
    runner = Runner()
    while (job := desk.next_job()) is not None:
        try:
            runner(job.spec, Reporter(Wire(desk, job), job.label))  # type: ignore[arg-type]
            ended = Ended("done")
        except StoppedError as stopped:
            ended = Ended("stopped", str(stopped))
        except TwoTowerError as error:
            ended = Ended("failed", str(error))
        desk.finished(job, ended)
    return desk.log.records


def with_tune(config: Config, tune: dict[str, Any]) -> Config:
    return msgspec.structs.replace(config, tune=tune)


def test_poor_trials_are_stopped_early_and_the_built_in_config_never(toy_config: Path, tmp_path: Path) -> None:
    trials = trials_of(desk_of(read_config(toy_config), tmp_path, trials=14))
    assert trials[0].built_in
    assert trials[0].state == "complete"
    assert not any(one.built_in for one in trials[1:])
    pruned = [trial for trial in trials if trial.state == "pruned"]
    assert pruned
    for trial in pruned:
        assert trial.reason == BELOW
        assert 3 <= len(trial.epochs) <= 5
    assert any(len(trial.epochs) < 5 for trial in pruned)
    complete = [trial for trial in trials if trial.state == "complete"]
    assert all(trial.score == max(trial.epochs.values()) for trial in complete)
    assert len(pruned) + len(complete) == len(trials) == 14


def test_a_search_that_resumes_is_the_one_that_was_not_interrupted(toy_config: Path, tmp_path: Path) -> None:
    config = read_config(toy_config)
    whole = trials_of(desk_of(config, tmp_path / "whole", trials=13))
    trials_of(desk_of(config, tmp_path / "parts", trials=4))
    parts = trials_of(desk_of(config, tmp_path / "parts", trials=13))
    other = trials_of(desk_of(config, tmp_path / "other", trials=4, seed=1))
    assert [(one.params, one.epochs, one.state) for one in whole] == [
        (one.params, one.epochs, one.state) for one in parts
    ]
    assert len({str(one.params) for one in whole}) == 13  # no draw is drawn again
    assert [one.params for one in other[1:]] != [one.params for one in whole[1:4]]


def test_a_killed_trial_changes_none_of_those_that_follow(toy_config: Path, tmp_path: Path) -> None:
    config = read_config(toy_config)
    whole = trials_of(desk_of(config, tmp_path / "whole", trials=13))
    trials_of(desk_of(config, tmp_path / "killed", trials=3))
    (file,) = (tmp_path / "killed").rglob("trials.json")
    left = msgspec.json.decode(file.read_bytes())
    left["trials"][-1] |= {"state": "running", "score": None}  # as a command leaves it that is killed
    file.write_bytes(msgspec.json.encode(left))
    parts = trials_of(desk_of(config, tmp_path / "killed", trials=13))
    assert [one.state for one in parts].count("interrupted") == 1
    assert [one.params for one in whole] == [one.params for one in parts if one.state != "interrupted"]


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
    trials_of(desk_of(config, tmp_path, trials=2))
    split = config.parts()
    assert isinstance(split.train, Dataset)
    touched = np.unique(np.concatenate([part.times for part in seen]))
    assert not set(touched) & set(split.test.times)
    assert set(touched) == set(split.train.times)


def test_a_trial_that_diverges_has_failed_and_the_search_goes_on(toy_config: Path, tmp_path: Path) -> None:
    rates = {"choices": [0.005, 1e30]}
    config = with_tune(read_config(toy_config), {"training.optimizer.learning_rate": rates})
    trials = trials_of(desk_of(config, tmp_path, trials=6))
    failed = [trial for trial in trials if trial.state == "failed"]
    assert failed
    assert all("diverged" in str(trial.reason) or "finite" in str(trial.reason) for trial in failed)
    assert all(trial.params["training.optimizer.learning_rate"] == "1e30" for trial in failed)
    assert len(trials) == 6
    assert trials[-1].has_ended


def test_a_config_outside_its_space_is_tried_all_the_same(toy_config: Path, tmp_path: Path) -> None:
    config = with_tune(read_config(toy_config), {"model.dim": {"choices": [4, 16]}})
    trials = trials_of(desk_of(config, tmp_path, trials=3))
    assert trials[0].built_in
    assert trials[0].params == {}
    assert trials[0].state == "complete"
    assert {trial.params["model.dim"] for trial in trials[1:]} <= {"4", "16"}


def test_a_trial_ends_at_the_deadline_and_says_so(toy_config: Path, tmp_path: Path) -> None:
    training = {"epochs": 100_000, "early_stopping": {"patience": 100_000}, "monitor": "all.top_5"}
    config = msgspec.structs.replace(read_config(toy_config), training=training)
    started = time.time()
    (trial,) = trials_of(desk_of(config, tmp_path, trials=None, end=started + 5))
    assert trial.state == "pruned"
    assert trial.reason == "out of time"
    assert trial.epochs  # what was known by then is kept
    assert time.time() < started + 5


def test_the_deadline_leaves_room_for_the_final_trainings() -> None:
    budget = Budget(start=1000.0, end=1100.0)
    assert budget.deadline([]) == 1100 - 100 * FINAL_SHARE
    assert budget.deadline([2.0, 4.0]) == 1100 - 2 * TRAINING_COST * 4 - 100 * BASELINES_SHARE
    assert budget.deadline([200.0]) == 1100 - 100 * FINAL_SHARE
    assert Budget(start=1000.0).deadline([2.0]) is None


def test_what_a_killed_command_left_running_is_tried_again(toy_config: Path, tmp_path: Path) -> None:
    config = read_config(toy_config)
    killed = desk_of(config, tmp_path, trials=2)
    jobs = [killed.next_job(), killed.next_job()]  # nobody does them
    assert None not in jobs
    trials = trials_of(desk_of(config, tmp_path, trials=2))
    assert [trial.state for trial in trials] == ["interrupted"] * 2 + ["complete"] * 2
    assert [trial.built_in for trial in trials] == [True, False, True, False]
    assert trials[3].params == trials[1].params


def test_workers_that_die_fail_their_trials_and_end_a_search_where_nothing_else_happens(
    toy_config: Path, tmp_path: Path
) -> None:
    desk = desk_of(read_config(toy_config), tmp_path, trials=None)
    for _ in range(MAX_DEATHS - 1):
        job = desk.next_job()
        assert job is not None
        desk.finished(job, Ended("died", "its process ended with code -9"))
    last = desk.next_job()
    assert last is not None
    with pytest.raises(TwoTowerError, match=r"in a row died with their process: .* code -9"):
        desk.finished(last, Ended("died", "its process ended with code -9"))
    assert [(one.state, one.reason) for one in desk.log.records] == [("failed", "its process ended with code -9")] * 3


def test_a_trial_that_met_a_failing_disk_ends_the_search_and_is_repeated(toy_config: Path, tmp_path: Path) -> None:
    config = read_config(toy_config)
    undisturbed = trials_of(desk_of(config, tmp_path / "one", trials=2))
    desk = desk_of(config, tmp_path / "two", trials=2)
    job = desk.next_job()
    assert job is not None
    with pytest.raises(TwoTowerError, match="trial 0: no space; rerun the command to resume"):
        desk.finished(job, Ended("system", "no space"))
    trials = trials_of(desk_of(config, tmp_path / "two", trials=2))
    assert [trial.state for trial in trials] == ["interrupted", "complete", "complete"]
    assert [trial.params for trial in trials[1:]] == [trial.params for trial in undisturbed]
    assert [trial.score for trial in trials[1:]] == [trial.score for trial in undisturbed]


def test_another_tunings_trials_are_refused(tmp_path: Path) -> None:
    record = TrialRecord(number=0, state="complete", built_in=True, params={}, parameters={}, changes={})
    log = TrialLog(tmp_path / "trials.json", {"data and split": "a", "space": "b", "version": "1"})
    log.begin(record)
    again = TrialLog(tmp_path / "trials.json", {"data and split": "a", "space": "b", "version": "1"})
    assert again.records == [record]
    with pytest.raises(SavedFolderError, match=r"another tuning \(different: space, version\)"):
        TrialLog(tmp_path / "trials.json", {"data and split": "a", "space": "c", "version": "2"})
    for content in (b"", b"\xff", b'{"identity": 3}'):
        (tmp_path / "trials.json").write_bytes(content)
        with pytest.raises(SavedFolderError, match="does not hold the trials of a tuning"):
            TrialLog(tmp_path / "trials.json", {})
