"""What the system refuses: a full disk, a failing one, a power cut. What was there stays, and the error says why."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from safetensors import SafetensorError

from twotower.cli import main
from twotower.errors import ConfigError, is_system_failure
from twotower.files import MarkedFolder, remove_marked, replaced_folder, write_file, writing
from twotower.locks import locked, unfinished
from twotower.saved import SavedKind, write_manifest

NOTE = SavedKind("note")
WORK = MarkedFolder("unfinished work", "mark", b"ours".__eq__, ("*.part",))
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_note(folder: Path, text: str) -> None:
    with replaced_folder(folder, NOTE) as building:
        (building / "note.txt").write_text(text)
        write_manifest(building, NOTE.kind, 1, "0", {})


def refuse(*arguments: object, **more: object) -> NoReturn:
    del arguments, more
    raise FULL


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
def test_a_file_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write_file(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(ConfigError, match=r"a\.txt cannot be written: .*No space left on device"):
        write_file(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("error", [FULL, SafetensorError("I/O error: No space left on device")])
def test_a_folder_that_cannot_be_written_stays_as_it_was(tmp_path: Path, error: Exception) -> None:
    write_note(tmp_path / "note", "old")
    with (
        pytest.raises(ConfigError, match=r"note cannot be written: .*No space left on device"),
        replaced_folder(tmp_path / "note", NOTE),
    ):
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
    assert (tmp_path / "note" / "note.txt").read_text() == "old"


def test_what_was_written_is_on_the_disk_before_it_takes_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    sync, replace = os.fsync, os.replace

    def noting(handle: int) -> None:
        sync(handle)
        synced.add(os.fstat(handle).st_ino)

    def checking(source: Any, target: Any) -> None:
        assert Path(source).stat().st_ino in synced
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "replace", checking)
    monkeypatch.setattr("twotower.files._swap_in", lambda building, target, _: replace(building, target))
    write_file(tmp_path / "a.txt", "new")
    write_note(tmp_path / "note", "new")
    assert {path.stat().st_ino for path in tmp_path.rglob("*") if path.is_file()} == synced


def test_a_failing_disk_is_known_as_the_cause_of_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.files._swap_in", refuse)
    with pytest.raises(ConfigError, match=r"No space left on device.* is kept as") as published:
        write_note(tmp_path / "note", "new")
    assert is_system_failure(published.value)
    with pytest.raises(ConfigError, match="cannot be written") as saved, writing(tmp_path / "weights"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert is_system_failure(saved.value)
    with pytest.raises(ConfigError) as mistaken, writing(tmp_path / "none"):
        (tmp_path / "nowhere" / "file").write_text("")
    assert not is_system_failure(mistaken.value)


def test_what_a_fault_leaves_of_unfinished_work_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out.partial"
    folder.mkdir()
    for name in ("one.part", "mark", "two.part"):
        (folder / name).write_bytes(b"ours")
    with monkeypatch.context() as faulty:
        faulty.setattr(os, "unlink", refuse)
        remove_marked(folder, "mark")
    with unfinished(tmp_path / "out", WORK) as found:
        assert (found / "mark").exists()
        remove_marked(folder, "mark")
    assert not folder.exists()


def test_what_a_fault_leaves_of_a_folder_in_it_is_not_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out.partial"
    (folder / "runs").mkdir(parents=True)
    (folder / "mark").write_bytes(b"ours")
    with monkeypatch.context() as faulty:
        faulty.setattr("shutil.rmtree", refuse)
        remove_marked(folder, "mark")
    assert not (folder / "runs").exists()
    assert (folder / "mark").exists()
    remove_marked(folder, "mark")
    assert not folder.exists()


def test_a_folder_whose_marker_was_not_finished_is_ours_unless_it_holds_more(tmp_path: Path) -> None:
    folder = tmp_path / "out.partial"
    folder.mkdir()
    (folder / ".mark.k3_x0aq1").write_bytes(b"ou")
    with unfinished(tmp_path / "out", WORK) as found:
        assert found == folder
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not unfinished work"), unfinished(tmp_path / "out", WORK):
        pass


def test_a_place_where_no_lock_can_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(ConfigError, match=r"cannot be locked: .*Not a directory"),
        locked(tmp_path / "file" / "a" / "b"),
    ):
        pass


@pytest.mark.parametrize(
    ("error", "said"), [(FULL, "No space left on device"), (MemoryError(), "not enough memory")], ids=["disk", "memory"]
)
def test_what_the_system_refuses_is_a_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    def app(**options: object) -> NoReturn:
        del options
        raise error

    monkeypatch.setattr(main, "app", app)
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == 1
    assert said in capsys.readouterr().err


BENCH = Path(__file__).parents[1] / "benchmarks" / "torture.py"


@pytest.mark.skipif(sys.platform != "linux", reason="the bench needs Linux")
def test_faults_at_some_calls_of_a_command_lose_nothing(tmp_path: Path) -> None:
    """The short form of `make torture`."""
    options = ("--only", "candidates withdraw", "--every", 80, "--folder", tmp_path, "--minutes", 2)
    done = subprocess.run([sys.executable, BENCH, *map(str, options)], capture_output=True, text=True, check=False)
    if "cannot be compiled" in done.stderr:
        pytest.skip("there is no C compiler")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 lost" in done.stdout
    for kind in ("full disk", "one I/O error", "killed", "power cut"):
        assert kind in done.stdout
