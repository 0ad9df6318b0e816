"""`twotower doctor` says what is installed and what does not work."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from twotower import installed
from twotower.cli import doctor
from twotower.cli.main import app
from twotower.evaluation.history import Epoch, TrainingHistory
from twotower.experiments.speed import measured_speed
from twotower.extras import EXTRAS
from twotower.installed import DeviceState, ExtraState, Installation, Limits, installation_of_extra
from twotower.processes import allowed_cores, allowed_threads
from twotower.training import Trainer

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
FOUND = Installation("0.1.0", "3.11", "Linux", {}, Limits(2, None, None, 2), [], [])


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[ExtraState]:
    """The extras that the command finds."""
    extras: list[ExtraState] = []
    monkeypatch.setattr(doctor, "installation", lambda: Installation(**{**FOUND.__dict__, "extras": extras}))
    return extras


def test_the_extras_it_knows_are_those_of_the_package() -> None:
    declared: dict[str, set[str]] = {
        name: set() for name in PROJECT["optional-dependencies"] if name not in ("dev", "docs")
    }
    for name in declared:
        for requirement in PROJECT["optional-dependencies"][name]:
            declared[name].add(requirement.partition(">=")[0].partition("[")[0])
    assert {name: set(modules.values()) for name, modules in EXTRAS.items()} == declared


def test_an_extra_works_is_missing_or_is_broken() -> None:
    extras = {"there": {"typer": "typer"}, "away": {"no_such": "no-such"}, "broken": {"no_such_module": "typer"}}
    assert installation_of_extra("there", extras).works
    assert installation_of_extra("away", extras).missing == ["no-such"]
    broken = installation_of_extra("broken", extras)
    assert not broken.works
    assert broken.error == "ModuleNotFoundError: No module named 'no_such_module'"


def test_json_has_limits_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "EXTRAS", {})
    result = CliRunner().invoke(app, ["doctor", "--json", "--no-benchmark"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["limits"]["cores"] == allowed_cores()
    assert report["limits"]["threads"] == allowed_threads()
    assert [device["error"] for device in report["devices"]] == [None] * len(report["devices"])
    assert "speed" not in report


def test_a_missing_extra_is_named_with_the_line_that_installs_it(found: list[ExtraState]) -> None:
    found.append(ExtraState("ann", {}, ["faiss-cpu"]))
    result = CliRunner().invoke(app, ["doctor", "--no-benchmark"])
    assert result.exit_code == 0
    assert "pip install 'twotower[ann]'" in result.stdout


def test_a_broken_extra_is_said_and_fails(found: list[ExtraState]) -> None:
    found.append(ExtraState("ann", {"faiss-cpu": "1.9"}, [], "ImportError: libgomp.so.1"))
    result = CliRunner().invoke(app, ["doctor", "--no-benchmark"])
    assert result.exit_code == 1
    assert "libgomp.so.1" in result.stdout


def test_a_device_that_does_not_compute_is_not_said_to_work() -> None:
    assert installed._device("cuda:99", "none").error is not None
    assert installed._device("cpu", "a processor") == DeviceState("cpu", "a processor")


def test_the_benchmark_measures_training_and_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.experiments.speed.EVENTS", 3000)
    monkeypatch.setattr("twotower.experiments.speed.CANDIDATES", 1000)
    speed = measured_speed(seconds=0.0)
    assert speed.training_events_per_second > 0
    assert speed.search_milliseconds > 0
    assert speed.searches_per_second > 0


def test_the_first_epoch_of_a_process_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0, 1.0])

    def fit(*args: object, **options: object) -> TrainingHistory:
        return TrainingHistory(epochs=[Epoch(1, loss=1.0, learning_rate=0.1, seconds=next(seconds))])

    monkeypatch.setattr("twotower.experiments.speed.EVENTS", 3000)
    monkeypatch.setattr("twotower.experiments.speed.CANDIDATES", 1000)
    monkeypatch.setattr(Trainer, "fit", fit)
    assert measured_speed(seconds=0.0).training_events_per_second == 3000
