"""What a bundle's folder promises: all or nothing, in every state of the disk, and from whoever it comes."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from commands import start_python
from toy import groups_log, toy_model
from twotower.arrow import read_table, write_table
from twotower.errors import ConfigError, SavedFolderError, TwoTowerError
from twotower.evaluation import Evaluation, Scores
from twotower.evaluation.history import Epoch, TrainingHistory
from twotower.features import Category, History
from twotower.files import MarkedFolder, replaced_folder
from twotower.model import Tower, TwoTower
from twotower.retrieval import Hnsw, Notes, Retriever, editing
from twotower.saved import FileRecord, Manifest, _digest
from twotower.swapping import exchanged

QUERY = {"user": 3}


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    """One with every kind of file in it: a graph, a record, vocabularies."""
    log = groups_log(1500)
    query = Tower([Category("user", 8), History("item", by="user", time="at", dim=8)], [8])
    model = TwoTower(query, Tower([Category("item", 8)], [8])).learn(log)
    return Retriever.build(
        model, log.candidates, seen=log, index=Hnsw(neighbours=4), notes=Notes(extra={"metrics": {"top_10": 0.5}})
    )


@pytest.fixture(scope="module")
def saved(retriever: Retriever, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "shop"
    retriever.save(folder)
    return folder


@pytest.mark.skipif(os.name == "nt", reason="no such permissions")
def test_whoever_may_read_new_files_may_read_every_file(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    modes = {path.name: path.stat().st_mode for path in saved.rglob("*") if path.is_file()}
    assert {"weights.safetensors", "index.safetensors", "embeddings.safetensors", "manifest.json"} <= modes.keys()
    assert set(modes.values()) == {(tmp_path / "new").stat().st_mode}


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "shop"))


def sign(folder: Path, **changes: object) -> None:
    """Writes a manifest of the files as they are now: what an attacker can do."""
    old = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    files = {}
    for name in old.files:
        if (path := folder / name).is_file():
            files[name] = FileRecord(path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    manifest = msgspec.structs.replace(old, **({"files": files, "digest": ""} | changes))
    manifest = msgspec.structs.replace(manifest, digest=_digest(manifest))
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))


def sign_all(folder: Path) -> None:
    """Signs the model's manifest and the bundle's."""
    sign(folder / "model")
    sign(folder)


def names_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_manifest_says_what_it_holds(retriever: Retriever, saved: Path) -> None:
    manifest = msgspec.json.decode((saved / "manifest.json").read_bytes(), type=Manifest)
    assert (manifest.kind, manifest.format) == ("twotower retriever", 3)
    assert manifest.details["version"] == retriever.version == Retriever.load(saved).version
    assert manifest.details["notes"] == {"extra": {"metrics": {"top_10": 0.5}}}
    assert manifest.details["parity"]["recall"] > 0.95
    assert manifest.details["title"] == "title"
    assert len(manifest.details["towers"]) == len(retriever.version) == 12
    assert set(manifest.files) == set(names_of(saved)) - {"manifest.json"}


def test_a_loaded_bundle_gives_the_same_answers(retriever: Retriever, saved: Path) -> None:
    loaded = Retriever.load(saved)
    for query in (QUERY, {"user": 999}, {}, {"user": 999, "history": [1, 6]}):
        assert loaded.recommend(query, 7, exclude_seen=True) == retriever.recommend(query, 7, exclude_seen=True)
    assert loaded.similar(4, 5) == retriever.similar(4, 5)
    assert loaded.history_of(3) == retriever.history_of(3)


def test_the_version_changes_with_the_content_and_with_nothing_else(retriever: Retriever, tmp_path: Path) -> None:
    log = groups_log(1500)
    index = Hnsw(neighbours=4)
    again = Retriever.build(retriever.model, log.candidates, seen=log, index=index, notes=retriever.details.notes)
    assert again.version == retriever.version
    others = [
        Retriever.build(retriever.model, log.candidates, seen=log, index=index),
        Retriever.build(retriever.model, log.candidates, seen=log),
        retriever.withdraw([3]),
        Retriever.build(toy_model().learn(log), log.candidates, seen=log, index=index),
    ]
    assert len({retriever.version, *(other.version for other in others)}) == 5


@pytest.mark.parametrize("place", range(12))
def test_any_file_that_is_missing_cut_or_altered_is_named(folder: Path, place: int) -> None:
    names = [name for name in names_of(folder) if name != "manifest.json"]
    name = names[place % len(names)]
    path = folder / name
    raw = path.read_bytes()
    for damaged in (None, raw[: len(raw) // 2], raw[:-1], raw + b" ", raw[:9] + bytes([raw[9] ^ 1]) + raw[10:]):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        with pytest.raises(SavedFolderError, match=name.rpartition("/")[2].replace(".", r"\.")):
            Retriever.load(folder)
        path.write_bytes(raw)
    Retriever.load(folder)


@settings(max_examples=300)
@given(st.data())
def test_flipped_bits_that_nobody_signed_are_always_noticed(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path_factory.mktemp("flipped") / "shop"))
    _damage(folder, data)
    with pytest.raises(SavedFolderError):
        Retriever.load(folder)
    shutil.rmtree(folder)


@settings(max_examples=300)
@given(st.data())
def test_flipped_bits_with_a_forged_manifest_are_refused_or_answered(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path_factory.mktemp("signed") / "shop"))
    _damage(folder, data)
    try:
        sign_all(folder)
    except (msgspec.DecodeError, UnicodeDecodeError, OSError):
        return  # the manifest itself was hit: the test above
    try:
        loaded = Retriever.load(folder)
    except SavedFolderError:
        return
    try:
        assert len(loaded.recommend(QUERY, 5)) == 5
    except TwoTowerError:
        pass  # such as an embedding that is not finite
    finally:
        shutil.rmtree(folder)


def _damage(folder: Path, data: st.DataObject) -> None:
    path = folder / data.draw(st.sampled_from(names_of(folder)))
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del raw[place:]
    path.write_bytes(raw)


@pytest.mark.parametrize("name", ["embeddings.safetensors", "index.safetensors"])
def test_the_index_of_another_model_is_refused_however_it_is_signed(
    folder: Path, retriever: Retriever, tmp_path: Path, name: str
) -> None:
    log = groups_log(1500, seed=0)
    other = TwoTower(Tower([Category("user", 8)], [8]), Tower([Category("item", 8)], [8])).learn(log, seed=7)
    Retriever.build(other, log.candidates, seen=log, index=Hnsw(neighbours=4)).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / name, folder / name)
    sign(folder)
    with pytest.raises(SavedFolderError, match=rf"{name} was made for towers \w+; expected {retriever.details.towers}"):
        Retriever.load(folder)


def test_the_towers_of_another_index_are_refused_however_they_are_signed(folder: Path, tmp_path: Path) -> None:
    log = groups_log(1500)
    other = TwoTower(Tower([Category("user", 8)], [8]), Tower([Category("item", 8)], [8])).learn(log, seed=7)
    Retriever.build(other, log.candidates, seen=log).save(tmp_path / "other")
    shutil.rmtree(folder / "model")
    shutil.copytree(tmp_path / "other" / "model", folder / "model")
    files = {
        name: FileRecord((folder / name).stat().st_size, hashlib.sha256((folder / name).read_bytes()).hexdigest())
        for name in names_of(folder)
        if name != "manifest.json"
    }
    sign(folder, files=files)
    with pytest.raises(SavedFolderError, match="it names towers"):
        Retriever.load(folder)


def test_a_catalogue_in_another_order_is_refused_however_it_is_signed(folder: Path) -> None:
    table = read_table(folder / "candidates.arrow")
    write_table(table.take(pa.array(range(table.num_rows - 1, -1, -1))), folder / "candidates.arrow")
    sign(folder)
    with pytest.raises(SavedFolderError, match="was made for candidates"):
        Retriever.load(folder)


def _other_seen(folder: Path) -> None:
    write_table(pa.table({"candidate": pa.array([10**9], pa.int64())}), folder / "seen.arrow")


def _seen_out_of_range(folder: Path) -> None:
    seen = read_table(folder / "seen.arrow")["candidate"].to_numpy().copy()
    seen[0] = 10**9
    write_table(pa.table({"candidate": seen}), folder / "seen.arrow")


def _link(folder: Path) -> None:
    (folder / "seen.arrow").rename(folder.parent / "elsewhere")
    (folder / "seen.arrow").symlink_to(folder.parent / "elsewhere")


def _zipped(folder: Path) -> None:
    table = read_table(folder / "queries.arrow")
    with pa.ipc.new_file(
        str(folder / "queries.arrow"), table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        writer.write_table(table)


def _many_rows_of_nothing(folder: Path) -> None:
    nothing = pa.NullArray.from_buffers(pa.null(), 2**40, [None])
    batch = pa.record_batch({"user": nothing})
    options = pa.ipc.IpcWriteOptions(allow_64bit=True)
    with pa.ipc.new_file(str(folder / "queries.arrow"), batch.schema, options=options) as writer:
        writer.write_batch(batch)


def _no_title(folder: Path) -> None:
    details = msgspec.json.decode((folder / "manifest.json").read_bytes())["details"] | {"title": "name"}
    sign(folder, details=details)


def _absurd_dim(folder: Path) -> None:
    config = folder / "model" / "config.json"
    config.write_bytes(config.read_bytes().replace(b'"dim": 8', b'"dim": 80000000000'))


def _absurd_depth(folder: Path) -> None:
    config = folder / "model" / "config.json"
    raw = config.read_bytes()
    assert b'"cross": 0' in raw
    config.write_bytes(raw.replace(b'"cross": 0', b'"cross": 100000000000'))


def _terabytes(folder: Path) -> None:
    path = folder / "embeddings.safetensors"
    header = b'{"embeddings":{"dtype":"F32","shape":[30,300000000000],"data_offsets":[0,36000000000000]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))


def _doubles(folder: Path) -> None:
    path = folder / "embeddings.safetensors"
    marks = {"towers": "", "candidates": ""}
    save_file({"embeddings": load_file(path)["embeddings"].double()}, path, marks)


@pytest.mark.parametrize(
    "harm",
    [
        _other_seen, _seen_out_of_range, _link, _zipped, _many_rows_of_nothing, _no_title, _absurd_dim, _absurd_depth,
        _terabytes, _doubles,
    ],
)  # fmt: skip
def test_what_has_a_forged_manifest_is_refused_at_once(folder: Path, harm: Callable[[Path], None]) -> None:
    harm(folder)
    if harm is not _no_title:
        sign_all(folder)
    with pytest.raises(SavedFolderError):
        Retriever.load(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "nul\0", "x" * 5000, "", "."])
def test_names_that_leave_the_folder_are_refused(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("x")
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    sign(folder, files=manifest.files | {name: FileRecord(1, hashlib.sha256(b"x").hexdigest())})
    with pytest.raises(SavedFolderError):
        Retriever.load(folder)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"kind": 3}', b" " * (1 << 23)])
def test_no_manifest_at_all_is_refused(folder: Path, raw: bytes) -> None:
    (folder / "manifest.json").write_bytes(raw)
    with pytest.raises(SavedFolderError):
        Retriever.load(folder)


MUTATIONS = (b"\xff", b"\x80", b"9" * 400, b"-1", b"null", b"[" * 100_000, b"1e999", b'"', b"\0")


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["manifest.json", "model/manifest.json", "model/config.json"])
def test_no_bytes_of_a_small_file_raise_anything_else(folder: Path, name: str, signed: bool) -> None:
    path = folder / name
    raw = path.read_bytes()
    draw = np.random.default_rng(0)
    for mutation in MUTATIONS:
        for place in draw.integers(len(raw), size=12).tolist():
            path.write_bytes(raw[:place] + mutation + raw[place + 1 :])
            if signed and name == "model/config.json":
                sign_all(folder)
            elif signed and name == "model/manifest.json":
                sign(folder)
            with suppress(SavedFolderError):
                Retriever.load(folder)  # such as another word in the notes
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "name", ["manifest.json", "model", "model/manifest.json", "seen.arrow", "embeddings.safetensors"]
)
def test_a_folder_in_the_place_of_a_file_and_a_file_in_that_of_a_folder_are_refused(folder: Path, name: str) -> None:
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_bytes(b"")
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(SavedFolderError, match="shop"):
        Retriever.load(folder)


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "gone"), OSError(5, "?")]
)
@pytest.mark.parametrize("call", ["read_bytes", "is_file", "open", "stat"])
def test_files_that_are_closed_to_us_or_vanish_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, call: str
) -> None:
    before = getattr(Path, call)

    def failing(self: Path, *arguments: object, **options: object) -> object:
        if self.name in ("manifest.json", "config.json"):
            raise error
        return before(self, *arguments, **options)

    monkeypatch.setattr(Path, call, failing)
    with pytest.raises(SavedFolderError):
        Retriever.load(folder)


def test_what_cannot_be_read_again_is_not_published(
    retriever: Retriever, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shortened(table: pa.Table, path: Path) -> None:
        write_table(table.slice(0, len(table) - 1), path)

    monkeypatch.setattr("twotower.retrieval.bundle.write_table", shortened)
    with pytest.raises(SavedFolderError, match="shop was not written, as it could not be read again"):
        retriever.withdraw([3]).save(folder)
    assert Retriever.load(folder).version == retriever.version
    assert [path.name for path in folder.parent.iterdir() if path.suffix != ".lock"] == ["shop"]


def test_a_bundle_with_a_file_of_ones_own_in_it_is_not_replaced(retriever: Retriever, folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"a bundle that also contains notes\.txt"):
        retriever.save(folder)
    with pytest.raises(ConfigError, match=r"notes\.txt"), editing(folder):
        pass
    with pytest.raises(ConfigError, match=r"model already exists and is not a bundle|also contains"):
        retriever.save(folder / "model")
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "manifest.json").write_bytes(b"\xff")
    with pytest.raises(SavedFolderError, match="cannot be read"), editing(folder):
        pass


def test_other_formats_say_what_to_do(folder: Path) -> None:
    sign(folder, format=4)
    with pytest.raises(SavedFolderError, match="upgrade twotower"):
        Retriever.load(folder)
    sign(folder, format=2)
    with pytest.raises(SavedFolderError, match=r"has format 2, of an earlier version; train it again"):
        Retriever.load(folder)


def test_notes_are_typed_and_leave_room_for_ones_own(retriever: Retriever, folder: Path) -> None:
    """What `twotower train` keeps has its types; what somebody else keeps comes back as it was given."""
    log = groups_log(1500)
    scores = Scores({"top_10": 0.4}, {"top_10": 1})
    notes = Notes(
        split="last-out",
        evaluation=Evaluation({"model": scores}, ["It is good."], "top_10"),
        history=TrainingHistory("all.top_10", [Epoch(1, 2, 0.1, 3, scores)]),
        extra={"ticket": (1, "two")},
    )
    Retriever.build(retriever.model, log.candidates, seen=log, notes=notes).save(folder)
    read = Retriever.load(folder).details.notes
    assert read.evaluation is not None
    assert read.history is not None
    assert read.evaluation.model.unseen["top_10"] == read.history.best.validation.unseen["top_10"] == 1.0  # type: ignore[union-attr]
    assert (read.split, read.extra) == ("last-out", {"ticket": [1, "two"]})
    with pytest.raises(ConfigError, match="notes cannot be stored"):
        Retriever.build(retriever.model, log.candidates, seen=log, notes=Notes(extra={"model": retriever.model}))


@pytest.mark.parametrize("notes", [{"split": 3}, {"verdict": "good"}, {"history": {"epochs": [{"epoch": "one"}]}}])
def test_notes_of_another_shape_are_refused(folder: Path, notes: dict[str, object]) -> None:
    details = msgspec.json.decode((folder / "manifest.json").read_bytes())["details"]
    sign(folder, details=details | {"notes": notes})
    with pytest.raises(SavedFolderError, match=r"has details that this version cannot read: .*notes"):
        Retriever.load(folder)


def test_an_index_of_a_kind_that_is_not_known_says_what_to_do(folder: Path) -> None:
    details = msgspec.json.decode((folder / "manifest.json").read_bytes())["details"]
    sign(folder, details=details | {"index": {"kind": "ivfpq", "lists": 8}})
    with pytest.raises(SavedFolderError, match=r"index kind 'ivfpq' is unknown.*load_model.*Retriever\.build"):
        Retriever.load(folder)


def test_embeddings_stay_in_the_file_until_they_are_needed(retriever: Retriever, tmp_path: Path) -> None:
    log = groups_log(1500)
    Retriever.build(retriever.model, log.candidates, seen=log).save(tmp_path / "exact")
    loaded = Retriever.load(tmp_path / "exact")
    begin = loaded.index.embeddings.data_ptr()
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux tells what is mapped")
    lines = [line for line in maps.read_text().splitlines() if "embeddings.safetensors" in line]
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    assert any(low <= begin < high for low, high in spans)


def test_folders_change_places_in_one_step(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchanged(tmp_path / "one", tmp_path / "other") == (sys.platform == "linux")
    assert not exchanged(tmp_path / "one", tmp_path / "none")
    if sys.platform == "linux":
        assert (tmp_path / "one" / "other").exists()


def test_where_folders_cannot_change_places_one_is_renamed_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twotower.files.exchanged", lambda *_: False)
    ours = MarkedFolder("ours", "it", bool, ())
    for content in ("first", "second"):
        with replaced_folder(tmp_path / "shop", ours) as building:
            (building / "it").write_text(content)
    assert (tmp_path / "shop" / "it").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


SAVING = """
import sys
from twotower.retrieval import Retriever
retriever = Retriever.load(sys.argv[1])
others = [retriever, retriever.withdraw([3])]
print("ready", flush=True)
while True:
    for one in others:
        one.save(sys.argv[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no bundle for an instant")
def test_a_reader_always_finds_a_bundle_and_a_kill_leaves_one(
    retriever: Retriever, folder: Path, tmp_path: Path
) -> None:
    expected = {retriever.version, retriever.withdraw([3]).version}
    seen: set[str] = set()
    refusals: list[str] = []
    writer = start_python("-c", SAVING, folder, folder=tmp_path)
    writer.wait_for("ready")
    until = time.monotonic() + 2
    while time.monotonic() < until:
        try:
            seen.add(Retriever.load(folder).version)
        except SavedFolderError as error:
            refusals.append(str(error))
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    assert seen <= expected
    assert all("replaced 5 times" in refusal for refusal in refusals)  # by a writer that does nothing but save
    assert Retriever.load(folder).version in expected


def test_what_a_killed_process_left_is_removed_a_day_later(tmp_path: Path) -> None:
    gone = {".shop.k3_old_q.building", ".shop.k3_old_q.retired"}
    mine = {".shop.old.building", ".shop.k3_old_q.toml", ".shopping.k3_old_q.building"}
    names = gone | mine | {".sh*p.k3_old_q.building", ".shop.k3_new_q.building"}
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_bytes(b"some")
        if "old" in name:
            os.utime(tmp_path / name, (0, 0))
    ours = MarkedFolder("ours", "file", bool, ())
    first, then = names, names - {".sh*p.k3_old_q.building"}
    for target, left in (("sh*p", first), ("sh*p", then), ("shop", then), ("shop", then - gone)):
        with replaced_folder(tmp_path / target, ours) as building:
            (building / "file").write_bytes(b"whole")
        assert {path.name for path in tmp_path.iterdir()} - {"sh*p", "shop"} == left


def test_a_crowd_of_threads_gets_the_same_answers(saved: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    loaded = Retriever.load(saved)
    queries = [{"user": number % 40} for number in range(200)]
    alone = [loaded.recommend(query, 5, exclude_seen=True) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda query: loaded.recommend(query, 5, exclude_seen=True), queries))
    assert together == alone
    assert not np.isnan([one.score for answer in together for one in answer]).any()
    assert torch.is_grad_enabled()
