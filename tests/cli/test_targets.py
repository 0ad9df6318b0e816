"""What commands may replace: said before anything is read or trained, and nothing of anybody's is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from commands import start_python
from toy import groups_log, toy_model
from twotower.cli.main import app
from twotower.errors import ConfigError, SavedFolderError
from twotower.experiments.results import Cut, Study, write_results
from twotower.retrieval import Notes, Retriever

COMMANDS = [("train", "no.toml"), ("study", "no.toml"), ("tune", "no.toml"), ("bundle", "no-bundle")]
"""What they read is not there: an error about the target comes first."""

HOLDING = """
import sys, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def run(*arguments: object) -> None:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if done.exception is not None:
        raise done.exception


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    log = groups_log(300)
    notes = Notes(split="last-out", fingerprint="f00d")
    Retriever.build(toy_model().learn(log), log.candidates, seen=log, notes=notes).save(tmp_path / "shop")
    return tmp_path / "shop"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("target", ["folder", "file", ".", "..", "/proc/x", "file/x", "link"])
def test_a_target_that_may_not_be_replaced_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, str], target: str
) -> None:
    (tmp_path / "work" / "folder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    Path("folder/x.txt").write_text("mine")
    Path("file").write_text("mine")
    Path("link").symlink_to("folder")
    with pytest.raises(ConfigError, match=r"already exists|is a file|working folder|cannot be written"):
        run(*command, "--out", target)
    assert Path("folder/x.txt").read_text() == Path("file").read_text() == "mine"
    assert {path.name for path in Path().iterdir()} == {"folder", "file", "link"}


@pytest.mark.parametrize(("command", "default"), [("study", "study"), ("tune", "tuning")])
def test_the_default_folders_are_no_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, default: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(default).mkdir()
    (Path(default) / "x.txt").write_text("mine")
    with pytest.raises(ConfigError, match=f"{default} already exists"):
        run(command, "no.toml")
    assert (Path(default) / "x.txt").read_text() == "mine"


def test_a_partial_folder_of_ones_own_stays(tmp_path: Path) -> None:
    mine = tmp_path / "out.partial" / "x.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(ConfigError, match=r"out\.partial already exists and is not an unfinished"):
        run("train", "no.toml", "--out", tmp_path / "out")
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "lock"), [("train", ".out.partial.lock"), ("study", ".out.lock"), ("tune", ".out.lock")]
)
def test_of_two_commands_for_one_folder_the_second_says_so(tmp_path: Path, command: str, lock: str) -> None:
    holder = [sys.executable, "-c", HOLDING, str(tmp_path / lock)]
    with subprocess.Popen(holder, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(SavedFolderError, match=r"another process is writing .*out"):
            run(command, "simulated", "--out", tmp_path / "out")
        process.communicate()
    assert not (tmp_path / "out.partial").exists()
    assert not (tmp_path / "out").exists()


def test_six_processes_that_each_add_a_candidate_add_six(trained: Path, tmp_path: Path) -> None:
    for number in range(6):
        new = pa.table({"item": [500 + number], "title": [f"new {number}"]})
        pq.write_table(new, tmp_path / f"{number}.parquet")
    adding = []
    for number in range(6):
        (tmp_path / f"said {number}").mkdir()
        command = ("-m", "twotower", "candidates", "add", trained, tmp_path / f"{number}.parquet")
        adding.append(start_python(*command, folder=tmp_path / f"said {number}"))
    for process in adding:
        assert process.wait() == 0, process.stderr.read_text()
    after = Retriever.load(trained)
    assert set(range(500, 506)) <= set(after.candidates["item"].to_pylist())
    assert after.details.revision == 6


def study_of(folder: Path, name: str, fingerprint: str) -> Path:
    cut = Cut(
        name=name,
        interactions=300,
        queries=40,
        candidates=30,
        train=240,
        validation=0,
        test=60,
        split="last-out",
        seed=42,
        fingerprint=fingerprint,
    )
    study = Study(
        cuts=[cut],
        varied={},
        variants=[],
        runs=[],
        baselines=[],
        curves_on="test",
        metric="top_100",
        comparisons=[],
        verdicts=["It is good."],
        command="",
        versions={},
        created="",
        seconds=0.0,
    )
    write_results(study, folder / "results.json")
    return folder


def test_a_bundle_takes_a_study_of_its_own_data_only(trained: Path, tmp_path: Path) -> None:
    name = Retriever.load(trained).details.data
    out = tmp_path / "out"
    run("bundle", trained, "--out", out, "--study", study_of(tmp_path / "own", name, "f00d"))
    note = Retriever.load(out).details.notes.study
    assert note is not None
    assert note.verdicts == ["It is good."]
    before = Retriever.load(out).version
    for other in (study_of(tmp_path / "a", name, "beef"), study_of(tmp_path / "b", "other", "f00d")):
        found = msgspec.json.decode((other / "results.json").read_bytes())["cuts"][0]
        expected = rf"is a study of {found['name']}.*{found['fingerprint']}.*trained on {name}.*f00d"
        with pytest.raises(ConfigError, match=expected):
            run("bundle", trained, "--out", out, "--study", other)
    assert Retriever.load(out).version == before
