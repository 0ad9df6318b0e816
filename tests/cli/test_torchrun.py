"""`torchrun … -m twotower train`, `evaluate` and `recommend`, as a shell starts them."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from commands import FORKED_PYTHON, RUN, run_python, start_python
from toy import groups_log
from twotower.cli.main import app
from twotower.errors import ConfigError
from twotower.features import Category, Normalized
from twotower.model import Tower, TwoTower
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
import re
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
    options = ("--nproc-per-node", "2", "--max-restarts", "1", "--no-python", sys.executable, FORKED_PYTHON)
    done = run_python(
        *("-m", "torch.distributed.run", *options, "-m", "twotower", "train", "log.toml", "--out", out),
        cwd=folder,
        env=os.environ | {"KILL_AT": str(kill_at), "PYTEST_XDIST_TESTRUNUID": RUN},
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_rank_killed_in_the_middle_of_the_command_costs_no_bit(tmp_path: Path) -> None:
    pq.write_table(groups_log(2000).interactions, tmp_path / "log.parquet")
    (tmp_path / "log.toml").write_text('imports = ["killer.py"]' + CONFIG)
    (tmp_path / "unkilled.toml").write_text(CONFIG)
    (tmp_path / "killer.py").write_text(KILLER)
    (said, _), _ = on_two_ranks(tmp_path, "train", "unkilled.toml", "--out", "whole")
    assert "Saved to whole" in said
    killed = torchrun(tmp_path, "killed", kill_at=16)
    assert "exitcode: -9" in killed
    assert killed.count("Saved to killed") == 1
    weights = "model/weights.safetensors"
    assert (tmp_path / "killed" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert len(Retriever.load(tmp_path / "killed").recommend({"user": 1}, k=3)) == 3
    assert not (tmp_path / "killed.partial").exists()


def on_two_ranks(folder: Path, *arguments: object, expect: int = 0) -> list[tuple[str, str]]:
    """What `twotower ARGUMENTS` prints on each of two ranks, which find each other as torchrun has them do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in ("0", "1"):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": rank}
        env = os.environ | place | {"TORCHELASTIC_RUN_ID": "x", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        (folder / rank).mkdir(exist_ok=True)
        started.append(start_python("-m", "twotower", *arguments, folder=folder / rank, cwd=folder, env=env))
    for process in started:
        assert process.wait(60) == expect, process.stdout.read_text() + process.stderr.read_text()
    return [(process.stdout.read_text(), process.stderr.read_text()) for process in started]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log, a config of it, and a bundle `model`."""
    folder, log = tmp_path_factory.mktemp("bundle"), groups_log(6000)
    pq.write_table(log.interactions, folder / "log.parquet")
    (folder / "log.toml").write_text(CONFIG)
    model = TwoTower(Tower([Category("user", 8), Normalized("at")], [8]), Tower([Category("item", 8)], [8])).learn(log)
    Retriever.build(model, log.candidates, seen=log).save(folder / "model")
    return folder


def alone(folder: Path, *arguments: object) -> str:
    done = run_python("-m", "twotower", *arguments, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_evaluation_on_ranks_has_the_figures_of_one_process(bundle: Path) -> None:
    arguments = "evaluate", "model", "log.toml", "--baselines", "popularity", "--json"
    (found, _), (other, said) = on_two_ranks(bundle, *arguments)
    assert json.loads(found) == json.loads(alone(bundle, *arguments))
    assert json.loads(found)["rows"]["model"]["all"]["mrr"] > 0
    assert (other, said) == ("", "")


def test_recommendations_on_ranks_are_the_file_of_one_process(bundle: Path) -> None:
    users = np.random.default_rng(0).integers(0, 50, 600)
    pq.write_table(pa.table({"user": users, "at": users}), bundle / "queries.parquet")
    arguments = "recommend", "model", "--queries", "queries.parquet", "--out"
    alone(bundle, *arguments, "alone.parquet")
    (said, _), others = on_two_ranks(bundle, *arguments, "ranks.parquet")
    assert "600 queries; written to ranks.parquet" in said
    assert others == ("", "")
    assert (bundle / "ranks.parquet").read_bytes() == (bundle / "alone.parquet").read_bytes()
    assert not (bundle / "ranks.parquet.partial").exists()


def test_a_bundle_of_sharded_tables_is_an_ordinary_one(bundle: Path) -> None:
    (bundle / "sharded.toml").write_text((bundle / "log.toml").read_text() + '\nsharding = "always"\n')
    (said, log), (_, of_other) = on_two_ranks(bundle, "train", "sharded.toml", "--out", "sharded")
    assert "Saved to sharded" in said, log
    assert "2 ranks split batches of" in log
    assert re.search(r"; [1-9]\d* tables \(\d+ numbers\) are sharded", log), log
    assert "sharded" not in of_other
    retriever = Retriever.load(bundle / "sharded")
    assert len(retriever.recommend({"user": 1}, k=3)) == 3
    measured = json.loads(alone(bundle, "evaluate", "sharded", "--json"))["rows"]["model"]["all"]
    evaluation = retriever.details.notes.evaluation
    assert evaluation is not None
    assert evaluation.model.all == pytest.approx(measured)


def test_an_error_of_one_rank_ends_all_with_one_message(bundle: Path) -> None:
    times = [*range(599), np.inf]  # the last block is the second rank's
    pq.write_table(pa.table({"user": [7] * 600, "at": pa.array(times, pa.float64())}), bundle / "wrong.parquet")
    found = on_two_ranks(bundle, "recommend", "model", "--queries", "wrong.parquet", "--out", "none.parquet", expect=3)
    said = "".join(err for _, err in found)  # PyTorch may warn that the other rank has gone
    assert said.count("error (rank") == 1, said
    assert "wrong.parquet, row 599" in said
    assert not (bundle / "none.parquet").exists()


def test_one_query_is_for_one_process(bundle: Path) -> None:
    found = on_two_ranks(bundle, "recommend", "model", "--query", "7", expect=2)
    assert all("a single query runs in one process" in err for _, err in found)


@pytest.mark.parametrize("command", ["study", "tune", "serve"])
def test_other_commands_are_not_for_several_ranks(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"twotower {command} runs in one process"):
        CliRunner().invoke(app, [command, "somewhere"], catch_exceptions=False)
