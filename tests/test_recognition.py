"""A path given to the wrong command: the error says what it is and which command takes it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from toy import groups_log, toy_model
from twotower.cli.main import app
from twotower.errors import TwoTowerError
from twotower.retrieval import Retriever

BUNDLE_COMMANDS = (
    ["serve", "@"],
    ["evaluate", "@"],
    ["recommend", "@", "--query", "1"],
    ["bundle", "@", "--out", "other"],
    ["candidates", "withdraw", "@", "1"],
    ["triton", "@", "--out", "other"],
)
CONFIG_COMMANDS = (
    ["train", "@", "--out", "other"],
    ["study", "@", "--out", "other"],
    ["tune", "@", "--out", "other"],
    ["data", "describe", "@"],
    ["prepare", "@"],
)
STUDY_COMMANDS = (["bundle", "@", "--run", "x", "--out", "other"],)


def experiment(kind: str, folder: str) -> None:
    Path(folder).mkdir()
    Path(folder, "experiment.json").write_bytes(msgspec.json.encode({"kind": kind, "library": "0"}))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    log = groups_log(100)
    Retriever.build(toy_model().learn(log), log.candidates, seen=log).save("bundle")
    experiment("study", "study")
    experiment("tuning", "tuning")
    experiment("training", "training")
    Path("shop.toml").write_text("")
    Path("log.parquet").write_text("")
    Path("empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("commands", "given", "message"),
    [
        (
            BUNDLE_COMMANDS,
            "study",
            "study is a study; expected a bundle, which twotower train or bundle wrote. Make a bundle of one of its "
            "runs: twotower bundle study --run NAME --out BUNDLE",
        ),
        (BUNDLE_COMMANDS, "tuning", "Train its best config: twotower train tuning/best.toml --out BUNDLE"),
        (BUNDLE_COMMANDS, "training", "training is an unfinished training; expected a bundle"),
        (BUNDLE_COMMANDS, "shop.toml", "Train a model from it: twotower train shop.toml --out BUNDLE"),
        (BUNDLE_COMMANDS, "bundle/model", "is the model inside a bundle; expected a bundle"),
        (BUNDLE_COMMANDS, "log.parquet", "log.parquet is a file; expected a bundle"),
        (BUNDLE_COMMANDS, "empty", "empty was not written by twotower; expected a bundle"),
        (BUNDLE_COMMANDS, "nothing", "nothing does not exist; expected a bundle"),
        (CONFIG_COMMANDS, "bundle", "bundle is a bundle; expected a config.toml or the name of a data set."),
        (CONFIG_COMMANDS, "study", "study is a study; expected a config.toml"),
        (CONFIG_COMMANDS, "log.parquet", "log.parquet is not a config. To use it as a log, write a config.toml"),
        (STUDY_COMMANDS, "study", "study is an unfinished study; rerun twotower study to finish it"),
        (STUDY_COMMANDS, "bundle", "bundle is a bundle; expected a folder that twotower study wrote."),
        (STUDY_COMMANDS, "shop.toml", "shop.toml is a config; expected a folder that twotower study wrote."),
    ],
)
def test_the_error_says_what_it_is_and_what_to_do(commands: list[list[str]], given: str, message: str) -> None:
    for command in commands:
        done = CliRunner().invoke(app, [given if word == "@" else word for word in command])
        assert isinstance(done.exception, TwoTowerError), command
        assert message in str(done.exception), command
