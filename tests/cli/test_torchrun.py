"""`torchrun … -m twotower train`, as a shell starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from torch import distributed as dist
from typer.testing import CliRunner

from rank_processes import on_ranks, without_errors
from toy import groups_log
from twotower.cli.main import app
from twotower.errors import ConfigError
from twotower.retrieval import Retriever

CONFIG = """
recipe = "tutorial"
baselines = "none"
[data]
interactions = "log.parquet"
query_id = "user"
candidate_id = "item"
[training]
epochs = 4
batch_size = 256
"""

KILLER = """
import os
import signal

from twotower.training import checkpoint, run

checkpoint.EVERY_SECONDS = 0.0
whole, steps = run.backward, 0


def backward(*arguments):
    global steps
    steps += 1
    if [str(steps), os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]] == [os.environ["KILL_AT"], "1", "0"]:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(*arguments)


run.backward = backward
"""


def torchrun(folder: Path, out: str, kill_at: int) -> str:
    """What two ranks print that train the log of a folder, the second of which is killed at a step."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    done = subprocess.run(
        [*command, "-m", "twotower", "train", "log.toml", "--out", out],
        cwd=folder,
        env=os.environ | {"KILL_AT": str(kill_at)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def trained(folder: Path) -> None:
    """The command of `torchrun`, by one of the ranks of a group that is there already."""
    os.environ |= {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": str(dist.get_rank())}
    os.chdir(folder)
    app(["train", "unkilled.toml", "--out", "whole"], standalone_mode=False)


@pytest.mark.slow
def test_a_rank_killed_in_the_middle_of_the_command_costs_no_bit(tmp_path: Path) -> None:
    pq.write_table(groups_log(2000).interactions, tmp_path / "log.parquet")
    (tmp_path / "log.toml").write_text('imports = ["killer.py"]' + CONFIG)
    (tmp_path / "unkilled.toml").write_text(CONFIG)
    (tmp_path / "killer.py").write_text(KILLER)
    without_errors(on_ranks(2, tmp_path, (trained, tmp_path))[0])
    killed = torchrun(tmp_path, "killed", kill_at=16)
    assert "exitcode: -9" in killed
    assert killed.count("Saved to killed") == 1
    weights = "model/weights.safetensors"
    assert (tmp_path / "killed" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert len(Retriever.load(tmp_path / "killed").recommend({"user": 1}, k=3)) == 3
    assert not (tmp_path / "killed.partial").exists()


@pytest.mark.parametrize("command", ["study", "tune", "evaluate"])
def test_other_commands_are_not_for_several_ranks(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"twotower {command} runs in one process"):
        CliRunner().invoke(app, [command, "somewhere"], catch_exceptions=False)
