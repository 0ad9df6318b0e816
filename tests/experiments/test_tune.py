"""`twotower tune` as a user meets it, on a small log."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import torch
from rich.console import Console

from commands import Forked, run_python, start_python
from twotower.data import Dataset
from twotower.errors import ConfigError, SavedFolderError
from twotower.experiments.plans import shown
from twotower.experiments.report.tuning import report_html
from twotower.experiments.tuning.importance import MIN_TRIALS
from twotower.experiments.tuning.results import Tuning
from twotower.experiments.tuning.tune import TunePlan, tune
from twotower.recipes.config import Config, read_config

QUIET = Console(quiet=True)


def command_of(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "twotower", "tune", *map(str, arguments)]


def twotower_tune(*arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_python("-m", "twotower", "tune", *arguments)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def out(toy_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tuning by two workers; its standard output beside it."""
    folder = tmp_path_factory.mktemp("tuned") / "out"
    done = twotower_tune(toy_config, "--trials", 14, "--workers", 2, "--out", folder, "--json")
    folder.with_name("stdout").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def tuning(out: Path) -> Tuning:
    return msgspec.json.decode((out / "tune.json").read_bytes(), type=Tuning)


def test_json_on_standard_output_is_what_the_file_holds(out: Path, tuning: Tuning) -> None:
    assert msgspec.json.decode(out.with_name("stdout").read_bytes(), type=Tuning) == tuning
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        "best.toml", "experiment.json", "runs", "trials.json", "tune.html", "tune.json",
    }  # fmt: skip


def test_the_best_is_not_worse_than_the_built_in_config(tuning: Tuning) -> None:
    assert len(tuning.trials) == 14
    built_in = tuning.trials[0]
    assert built_in.built_in
    assert built_in.changes == {}
    assert tuning.built_in is not None
    assert tuning.best.score is not None
    assert built_in.score is not None
    assert tuning.best.score == max(trial.score for trial in tuning.trials if trial.score is not None)
    assert tuning.best.score >= built_in.score == tuning.built_in.score
    assert tuning.best.outcome.scores.all.keys() == tuning.baselines["popularity"].all.keys()


def test_the_best_config_validates_to_what_its_trial_said(out: Path, tuning: Tuning, toy_config: Path) -> None:
    config = read_config(out / "best.toml")
    parts = config.parts()
    assert isinstance(parts.train, Dataset)
    train, recipe = parts.train, config.resolved_recipe(parts.train)
    trial = next(one for one in tuning.trials if one.number == tuning.best.trial)
    before = torch.get_num_threads()
    torch.set_num_threads(int(tuning.versions["threads each"]))
    try:
        history = recipe.trainer.fit(config.model.build(train, recipe), *parts.fitted_and_validation())
    finally:
        torch.set_num_threads(before)
    assert {epoch.epoch: scores.value(tuning.metric) for epoch, scores in history.validated} == trial.epochs
    assert history.best.epoch == trial.best_epoch == tuning.best.outcome.best_epoch
    assert config.tune == {}
    assert msgspec.structs.replace(config, model=read_config(toy_config).model).model.inputs == "tutorial"


def test_more_trials_are_added_to_those_that_are_there(
    out: Path, tuning: Tuning, toy_config: Path, tmp_path: Path
) -> None:
    """A finished tuning trains nothing that it has; the copy of its folder stands for an earlier command."""
    shutil.copytree(out, tmp_path / "copy")
    before = {path.name for path in (tmp_path / "copy" / "runs").iterdir()}
    plan = TunePlan(config=read_config(toy_config), trials=15, minutes=None, workers=1)
    more = tune(plan, tmp_path / "copy", command="", console=QUIET)
    assert more.trials[:14] == tuning.trials
    assert len(more.trials) == 15
    new = {path.name for path in (tmp_path / "copy" / "runs").iterdir()} - before
    assert len(new) <= 1 + (more.best.key != tuning.best.key)


def test_a_folder_of_something_else_is_refused(out: Path, toy_config: Path, tmp_path: Path) -> None:
    config = read_config(toy_config)

    def attempt(config: Config, folder: Path) -> None:
        tune(TunePlan(config=config, trials=14, minutes=None, workers=1), folder, command="", console=QUIET)

    narrower = msgspec.structs.replace(config, tune={"model.dim": {"choices": [8, 16]}})
    with pytest.raises(SavedFolderError, match=r"out holds another tuning \(different: space\)"):
        attempt(narrower, out)
    other_split = msgspec.structs.replace(config, split=msgspec.structs.replace(config.split, seed=1))
    with pytest.raises(SavedFolderError, match="different: data and split, config"):
        attempt(other_split, out)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"is not a tuning \(it contains thesis\.tex\)"):
        attempt(config, tmp_path)
    with pytest.raises(ConfigError, match=r"thesis.tex is a file; expected a folder"):
        attempt(config, tmp_path / "thesis.tex")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "experiment.json").write_text('{"kind": "study"}')
    with pytest.raises(ConfigError, match="is not a tuning"):
        attempt(config, tmp_path / "mine")


def test_a_metric_that_is_not_measured_is_refused_before_any_trial(toy_config: Path, tmp_path: Path) -> None:
    config = msgspec.structs.replace(read_config(toy_config), training={"monitor": "all.recall_5"})
    with pytest.raises(ConfigError, match=r"'all\.recall_5' was not measured"):
        tune(TunePlan(config=config, trials=1, minutes=None, workers=1), tmp_path / "out", command="", console=QUIET)
    assert not (tmp_path / "out" / "trials.json").exists()


@pytest.mark.slow
def test_what_was_killed_goes_on(toy_config: Path, tmp_path: Path) -> None:
    """Command and workers are killed in the middle of a trial, then the command is interrupted, then left alone."""
    arguments = (toy_config, "--workers", 1, "--out", tmp_path / "out")
    trials = tmp_path / "out" / "trials.json"
    killed = subprocess.Popen(
        command_of(*arguments, "--trials", 200),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # its workers are of its group
    )
    cut = running_trial_after(-1, trials, killed)
    os.killpg(killed.pid, signal.SIGKILL)
    _, said = killed.communicate(timeout=60)
    assert "Traceback" not in said
    interrupted = start_python("-m", "twotower", "tune", *arguments, "--trials", 200, folder=tmp_path)
    running_trial_after(cut, trials, interrupted)
    interrupted.send_signal(signal.SIGINT)  # which workers never see
    assert interrupted.wait(60) == 130
    said = interrupted.stderr.read_text()
    assert "Traceback" not in said
    assert "rerun the command to resume" in said.lower()
    assert not (tmp_path / "out" / "best.toml").exists()
    twotower_tune(*arguments, "--trials", 5)
    tuning = msgspec.json.decode((tmp_path / "out" / "tune.json").read_bytes(), type=Tuning)
    cut_off = [trial for trial in tuning.trials if trial.state == "interrupted"]
    finished = [trial for trial in tuning.trials if trial.state != "interrupted"]
    assert len(cut_off) == 2
    assert len(finished) >= 5
    for trial in cut_off:
        assert any(trial.parameters.items() <= later.parameters.items() for later in tuning.trials[trial.number + 1 :])
    assert sum(trial.built_in for trial in finished) == 1


def running_trial_after(number: int, trials: Path, process: subprocess.Popen[str] | Forked) -> int:
    """Waits for a later trial than this one to run; gives its number."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
        if trials.exists():
            records = msgspec.json.decode(trials.read_bytes())["trials"]
            found = [one["number"] for one in records if one["state"] == "running" and one["number"] > number]
            if found:
                return int(found[0])
    raise AssertionError(f"no trial after {number} has begun")


def test_the_report_says_it_all_and_needs_nothing_else(tuning: Tuning) -> None:
    page = report_html(tuning)
    assert report_html(tuning) == page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert "<script" not in page
    assert "{{" not in page
    for text in (*tuning.verdicts, tuning.cut.fingerprint, "model.layers", f"best {tuning.best.score:.4f}"):
        assert text in page
    assert "prefers-color-scheme: dark" in page
    hostile = msgspec.structs.replace(
        tuning, cut=msgspec.structs.replace(tuning.cut, name="<script>{{style}}"), command="<script>"
    )
    assert "<script" not in report_html(hostile)
    assert "{{style}}" in report_html(hostile)


def test_importances_are_those_of_enough_trials(tuning: Tuning) -> None:
    complete = [trial for trial in tuning.trials if trial.score is not None]
    if len(complete) < MIN_TRIALS:
        assert tuning.importances == {}
        assert "too few to say" in report_html(tuning)
    else:
        assert sum(tuning.importances.values()) == pytest.approx(1)
        assert set(tuning.importances) <= set(tuning.space)


def test_a_tuning_without_a_complete_trial_has_a_report(tuning: Tuning) -> None:
    best = msgspec.structs.replace(tuning.best, trial=None, score=None)
    page = report_html(msgspec.structs.replace(tuning, trials=[], best=best, built_in=best, importances={}))
    assert "Too few trials to draw" in page


def test_values_are_written_for_people() -> None:
    values = [[64, 32], 0.00312345, 8, True, "gelu", {"kind": "in_batch_softmax", "mask_known": True}]
    assert [shown(value) for value in values] == [
        "[64, 32]", "0.00312", "8", "true", "gelu", "in_batch_softmax mask_known=true",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["movielens-2m"], 2, "neither a data set"),
        (["simulated", "--trials", "0"], 2, "trials"),
    ],
)
def test_mistakes_have_a_line_and_an_exit_code(arguments: list[str], code: int, message: str) -> None:
    assert message in twotower_tune(*arguments, expect=code).stderr


def test_a_wrong_key_is_named_before_anything_is_written(toy_config: Path, tmp_path: Path) -> None:
    text = toy_config.read_text().replace("model.dim", "training.loss.dim")
    (toy_config.parent / "wrong.toml").write_text(text)
    said = twotower_tune(toy_config.parent / "wrong.toml", "--out", tmp_path / "out", expect=2).stderr
    assert "[tune] training.loss.dim = 4: [training" in said
    assert not (tmp_path / "out" / "trials.json").exists()
