"""Which baselines commands measure, by option and by config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from toy import groups_log
from twotower.cli.main import app
from twotower.errors import ConfigError

CONFIG = """{top}
[data]
interactions = "log.parquet"
candidates = "items.parquet"
query_id = "user"
candidate_id = "item"
time = "at"
[model]
inputs = "log"
layers = [4]
[training]
epochs = 1
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config that names one baseline, beside its files."""
    folder = tmp_path_factory.mktemp("baselines")
    log = groups_log(600)
    for name, table in (("log", log.interactions), ("items", log.candidates)):
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "one.toml").write_text(CONFIG.format(top='baselines = ["popularity"]'))
    return folder / "one.toml"


def rows_of(*arguments: object) -> list[str]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    found: dict[str, Any] = msgspec.json.decode(done.stdout)
    if "rows" in found:
        return list(found["rows"])
    baselines = found["baselines"]
    return (
        list(baselines) if isinstance(baselines, dict) else [one["name"] for one in baselines if one["part"] == "test"]
    )


def test_the_option_goes_before_the_config(config: Path, tmp_path: Path) -> None:
    assert rows_of("train", config, "--out", tmp_path / "model") == ["model", "popularity"]
    assert rows_of("evaluate", tmp_path / "model") == ["model", "popularity"]
    assert rows_of("evaluate", tmp_path / "model", "--baselines", "none") == ["model"]
    assert rows_of("train", config, "--out", tmp_path / "other", "--baselines", "ease,popularity") == [
        *("model", "popularity", "ease")
    ]


def test_a_study_and_a_tuning_measure_what_is_named(config: Path, tmp_path: Path) -> None:
    study = ("study", config, "--layers", "4", "--out", tmp_path / "study")
    assert rows_of(*study, "--baselines", "none") == []
    tune = ("tune", config, "--trials", "1", "--workers", "1", "--out", tmp_path / "tuning")
    assert rows_of(*tune) == ["popularity"]
    assert rows_of(*tune, "--baselines", "none") == []


@pytest.mark.parametrize("command", ["train", "study", "tune"])
def test_mistakes_are_found_before_anything_is_trained(command: str, config: Path, tmp_path: Path) -> None:
    for options, message in (
        (("--baselines", "popularity,eas"), "baseline 'eas' is unknown; expected all, none, or some of popularity"),
        (("--baseline-seconds", "0"), "a baseline's budget is 0 seconds"),
        (("--baseline-memory", "-1"), "expected more than 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            CliRunner().invoke(
                app, [command, str(config), "--out", str(tmp_path / "out"), *options], catch_exceptions=False
            )
        assert not (tmp_path / "out").exists()


def test_a_wrong_name_in_a_config_is_one_of_its_mistakes(config: Path, tmp_path: Path) -> None:
    wrong = config.with_name("wrong.toml")
    for top, message in (
        ('baselines = ["eas"]', r"config .*wrong.toml: baseline 'eas' is unknown"),
        ('baselines = "ease"', r"config .*wrong.toml: baselines = 'ease'; expected 'all', 'none'"),
    ):
        wrong.write_text(CONFIG.format(top=top))
        with pytest.raises(ConfigError, match=message):
            CliRunner().invoke(app, ["train", str(wrong), "--out", str(tmp_path / "out")], catch_exceptions=False)
