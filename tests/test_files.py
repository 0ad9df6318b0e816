"""What may be replaced: nothing of anybody's is lost, and what cannot be written is said before long work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from twotower import files
from twotower.errors import ConfigError, SavedFolderError
from twotower.files import MarkedFolder, check_folder_target, replaced_folder
from twotower.locks import locked, unfinished
from twotower.saved import SavedKind, write_manifest

NOTE = SavedKind("note")


def write_note(folder: Path, text: str = "new") -> None:
    with replaced_folder(folder, NOTE) as building:
        (building / "parts").mkdir()
        (building / "parts" / "note.txt").write_text(text)
        write_manifest(building, NOTE.kind, 1, "0", {})


def content(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _a_file(place: Path) -> Path:
    (place / "mine").write_text("mine")
    return place / "mine"


def _a_folder(place: Path) -> Path:
    (place / "mine").mkdir()
    (place / "mine" / "x.txt").write_text("mine")
    return place / "mine"


def _deep(place: Path) -> Path:
    (place / "mine" / "a" / "b").mkdir(parents=True)
    (place / "mine" / "a" / "b" / "x.txt").write_text("mine")
    return place / "mine"


def _another_kind(place: Path) -> Path:
    with replaced_folder(place / "mine") as building:
        (building / "x.txt").write_text("mine")
        write_manifest(building, "poem", 1, "0", {})
    return place / "mine"


def _a_manifest_of_somebody_else(place: Path) -> Path:
    (place / "mine").mkdir()
    (place / "mine" / "manifest.json").write_text('{"name": "my web app"}')
    return place / "mine"


def _a_file_among_ours(place: Path) -> Path:
    write_note(place / "mine")
    (place / "mine" / "parts" / "x.txt").write_text("mine")
    return place / "mine"


def _a_hidden_file_among_ours(place: Path) -> Path:
    write_note(place / "mine")
    (place / "mine" / ".env").write_text("mine")
    return place / "mine"


def _a_link_among_ours(place: Path) -> Path:
    _a_folder(place).rename(place / "elsewhere")
    write_note(place / "mine")
    (place / "mine" / "link").symlink_to(place / "elsewhere", target_is_directory=True)
    return place / "mine"


def _behind_a_link(place: Path) -> Path:
    _a_folder(place).rename(place / "elsewhere")
    (place / "mine").symlink_to(place / "elsewhere", target_is_directory=True)
    return place / "mine"


@pytest.mark.parametrize(
    "make",
    [
        _a_file, _a_folder, _deep, _another_kind, _a_manifest_of_somebody_else, _a_file_among_ours,
        _a_hidden_file_among_ours, _a_link_among_ours, _behind_a_link,
    ],
)  # fmt: skip
def test_what_is_not_ours_is_refused_and_stays(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    target = make(tmp_path)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=r"mine (is|already exists)"):
        write_note(target)
    assert content(tmp_path) == before


def test_the_file_that_would_be_lost_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine is a saved note that also contains parts/x\.txt"):
        write_note(_a_file_among_ours(tmp_path))


def test_what_is_ours_is_replaced_and_a_link_to_it_stays(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty", target_is_directory=True)
    (tmp_path / "later").symlink_to(tmp_path / "not" / "there", target_is_directory=True)
    for target in ("empty", "link", "new/below", "later"):
        for text in ("first", "second"):
            write_note(tmp_path / target, text)
            assert (tmp_path / target / "parts" / "note.txt").read_text() == text
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "later").is_symlink()
    assert (tmp_path / "not" / "there" / "parts" / "note.txt").read_text() == "second"
    (tmp_path / "empty" / ".DS_Store").touch()  # left by whoever looked at it
    (tmp_path / "empty" / "parts" / "note.txt").write_text("damaged")
    write_note(tmp_path / "empty")
    assert (tmp_path / "empty" / "parts" / "note.txt").read_text() == "new"
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "into").symlink_to("loop")
    for target in ("loop", "into"):
        with pytest.raises(ConfigError, match=f"{target} is a link in a loop of links; expected a writable path"):
            write_note(tmp_path / target)


@pytest.mark.parametrize("name", [".", "..", "/", "", "here", "../../", "/proc/x", "file/x", "x" * 300, "a\0b"])
def test_places_that_cannot_be_replaced_or_written_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    work = tmp_path / "around" / "here"
    work.mkdir(parents=True)
    (work / "file").write_text("mine")
    (work / "here").symlink_to(work)
    monkeypatch.chdir(work)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=r"working folder or contains it|cannot be written"):
        check_folder_target(Path(name), NOTE)
    assert content(tmp_path) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="cannot be written"):
        check_folder_target(tmp_path / "closed" / "x", NOTE)


def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    check_folder_target(tmp_path / "a" / "b", NOTE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("in_one_step", [True, False])
def test_what_somebody_puts_there_meanwhile_stays_and_what_was_built_does_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_one_step: bool
) -> None:
    if not in_one_step:
        monkeypatch.setattr(files, "exchanged", lambda *_: False)
    target = tmp_path / "mine"
    write_note(target, "old")
    refusal = files._refusal

    def late(*arguments: object) -> str | None:
        found = refusal(*arguments)  # type: ignore[arg-type]
        if not (target / "x.txt").exists():
            (target / "x.txt").write_text("mine")  # as soon as one has looked
            monkeypatch.setattr(files, "_refusal", refusal)
        return found

    def build() -> None:
        with replaced_folder(target, NOTE) as building:
            (building / "note.txt").write_text("new")
            monkeypatch.setattr(files, "_refusal", late)

    with pytest.raises(ConfigError, match=r"would be lost.*kept as .*mine\.new"):
        build()
    assert (target / "x.txt").read_text() == "mine"
    assert (target / "parts" / "note.txt").read_text() == "old"
    assert (tmp_path / "mine.new" / "note.txt").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "mine.new"}


WORK = MarkedFolder("unfinished work", "mark", b"ours".__eq__, ("*.part", "below/*.part"))


def test_unfinished_work_is_recognised_with_what_a_killed_writer_left(tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    (partial / ".below.k3_x0aq1.building").mkdir(parents=True)
    for name in ("mark", "one.part", ".one.part.k3_x0aq1", ".below.k3_x0aq1.building/two.part"):
        (partial / name).write_bytes(b"ours")
    with unfinished(tmp_path / "out", WORK) as folder:
        assert folder == partial
    (partial / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"that also contains notes\.txt"), unfinished(tmp_path / "out", WORK):
        pass
    (partial / "notes.txt").unlink()
    (partial / "mark").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="is not unfinished work"), unfinished(tmp_path / "out", WORK):
        pass


HOLDING = """
import sys, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def held(lock: Path) -> subprocess.Popen[str]:
    """A process that holds a lock until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(lock)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_keeps_others_out_until_its_process_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "out"
    with held(tmp_path / ".out.lock") as holder:
        threading.Timer(0.2, holder.kill).start()
        with locked(target):
            assert holder.wait() != 0
    assert [record.getMessage() for record in caplog.records if record.name == "twotower"] == [
        f"another process is writing {target}; waiting for it"
    ]


def test_unfinished_work_is_one_processs_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path / ".out.partial.lock") as holder:
        with pytest.raises(SavedFolderError, match="another process is writing"), unfinished(tmp_path / "out", WORK):
            pass
        holder.kill()
        holder.wait()
        with unfinished(tmp_path / "out", WORK) as folder:
            assert folder == tmp_path / "out.partial"


def test_who_holds_a_lock_may_take_it_again_and_another_thread_may_not(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out", target_is_directory=True)
    order: list[str] = []

    def other() -> None:
        with locked(tmp_path / "link"):
            order.append("other")

    with locked(tmp_path / "out"):
        with locked(tmp_path / "link"):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]
    shutil.rmtree(tmp_path)
