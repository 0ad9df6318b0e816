from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
import torch

from toy import groups_log, toy_model
from twotower import arrow
from twotower.errors import ConfigError, NotFittedError, SavedFolderError
from twotower.features import Categories, Category, Normalized, Text
from twotower.features.base import Columns, RecordKey
from twotower.features.record import Record
from twotower.features.recorded import Recorded
from twotower.model import Tower, TwoTower, load_model, save_model
from twotower.model.saving import model_version, write_model
from twotower.retrieval import Retriever
from twotower.training import Trainer


@pytest.fixture
def model() -> TwoTower:
    return toy_model((8, 4)).learn(groups_log()).eval()


def test_a_loaded_model_gives_the_same_scores_to_the_bit(model: TwoTower, tmp_path: Path) -> None:
    data = groups_log(100, seed=5)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert not loaded.training
    assert torch.equal(loaded.embed_queries(data), model.embed_queries(data))
    assert torch.equal(loaded.embed_candidates(data.candidates), model.embed_candidates(data.candidates))
    assert loaded.settings() == model.settings()


def test_a_mapped_model_is_the_same_and_training_it_leaves_the_file(model: TwoTower, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model")
    mapped, data = load_model(tmp_path / "model", mapped=True), groups_log(100, seed=5)
    if sys.platform == "linux":
        assert f"{tmp_path / 'model' / 'weights.safetensors'}\n" in Path("/proc/self/maps").read_text()
    assert model_version(mapped) == model_version(model)
    assert torch.equal(mapped.embed_queries(data), model.embed_queries(data))
    Trainer(epochs=1, batch_size=32).fit(mapped, data)
    assert not torch.equal(mapped.embed_queries(data), model.embed_queries(data))
    assert model_version(load_model(tmp_path / "model")) == model_version(model)  # checks the file's digest, too


def test_a_loaded_model_has_the_version_of_the_one_that_was_saved(tmp_path: Path) -> None:
    """Vocabularies that were cut off at their most frequent values, settings in another type of number."""
    plain = groups_log(300)
    catalogue = plain.candidates.append_column("tags", pa.array([["war", f"t{n % 7}"] for n in range(30)]))
    log = replace(plain, candidates=catalogue)
    model = TwoTower(
        Tower([Category("user", 4, unknown_rate=0), Normalized("at")], dropout=0),
        Tower([Category("item", 2), Text("title", 2, max_tokens=9), Categories("tags", dim=1, max_labels=3)]),
        temperature=1,
    ).learn(log)
    save_model(model, tmp_path / "model")
    assert model_version(load_model(tmp_path / "model")) == model_version(model)
    Retriever.build(model, catalogue, seen=log).save(tmp_path / "shop")
    assert len(Retriever.load(tmp_path / "shop").recommend({"user": 3})) == 10


def test_what_a_feature_learns_beside_its_record_is_saved(tmp_path: Path) -> None:
    """A kind of one's own that reads a record keeps a state of its own as well."""

    class Pace(Recorded):
        kind = "pace of a test"
        width = 1

        def __init__(self, column: str, by: str) -> None:
            super().__init__()
            self.column, self.by, self.usual = column, by, 1.0

        @property
        def record_key(self) -> RecordKey:
            return RecordKey(self.by, self.column)

        def take_record(self, record: Record) -> None:
            self.record = record

        def fit_record(self, record: Record, columns: Columns) -> None:
            self.take_record(record)
            self.usual = float(record.times.mean())

        def learned(self) -> pa.Table:
            return pa.table({"usual": [self.usual]})

        def restore(self, state: pa.Table) -> None:
            (self.usual,) = state["usual"].to_pylist()

        def encode_columns(self, columns: Columns) -> torch.Tensor:
            return torch.tensor(columns[self.column].to_pylist(), dtype=torch.float32)

        def encode_training(self, columns: Columns) -> torch.Tensor:
            return self.encode_columns(columns)

        def forward(self, encoded: torch.Tensor) -> torch.Tensor:
            return encoded[:, None] / self.usual

    log = groups_log(100)
    model = TwoTower(Tower([Category("user", 4), Pace("at", "user")], [4]), Tower([Category("item", 4)], [4]))
    model.learn(log).eval()
    save_model(model, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model").embed_queries(log), model.embed_queries(log))


def test_a_learned_temperature_is_saved_with_the_weights(tmp_path: Path) -> None:
    data = groups_log(100)
    model = TwoTower(Tower([Category("user", 4)]), Tower([Category("item", 4)]), learn_temperature=True).learn(data)
    assert model.log_temperature is not None
    with torch.no_grad():
        model.log_temperature.fill_(-1.5)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.temperature == model.temperature
    assert torch.equal(loaded.embed_queries(data), model.embed_queries(data))
    assert loaded.settings() == model.settings()


def test_a_model_saved_before_temperatures_could_be_learned_loads(model: TwoTower, tmp_path: Path) -> None:
    older = {name: value for name, value in model.settings().items() if name != "learn_temperature"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "settings", lambda: older)
        write_model(model, tmp_path / "model")
    data = groups_log(100)
    assert torch.equal(load_model(tmp_path / "model").embed_queries(data), model.embed_queries(data))


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(model: TwoTower, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model")
    first = (tmp_path / "model").stat().st_ino
    save_model(model, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model").stat().st_ino != first


def test_what_cannot_be_read_again_is_not_published(
    model: TwoTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(model, tmp_path / "model")
    before = (tmp_path / "model" / "manifest.json").read_bytes()

    def shortened(table: pa.Table, path: Path) -> None:
        arrow.write_table(table.slice(0, len(table) - 1), path)

    monkeypatch.setattr("twotower.model.saving.write_table", shortened)
    with pytest.raises(SavedFolderError, match="model was not written"):
        save_model(model, tmp_path / "model")
    assert (tmp_path / "model" / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_save_keeps_what_was_there(model: TwoTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(model, tmp_path / "model")
    before = (tmp_path / "model" / "manifest.json").read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("twotower.tensors.save_file", full_disk)
    with pytest.raises(ConfigError, match="model cannot be written: no space"):
        save_model(model, tmp_path / "model")
    assert (tmp_path / "model" / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_untrained_model_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="train it before"):
        save_model(toy_model(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "vocabularies/query-0.arrow"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_folder_is_refused(model: TwoTower, tmp_path: Path, name: str, damage: str) -> None:
    save_model(model, tmp_path / "model")
    path = tmp_path / "model" / name
    raw = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(raw[:-1])
    else:
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(SavedFolderError, match=name.replace(".", r"\.")):
        load_model(tmp_path / "model")


def _changed(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    path.write_bytes(msgspec.json.encode(manifest | changes))


def test_a_newer_another_or_an_altered_manifest_is_refused(model: TwoTower, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for changes, message in (
        ({"format": 99, "library": "7.0"}, r"has format 99, written by twotower 7\.0; .* upgrade"),
        ({"kind": "twotower retriever"}, "is a bundle; expected a model that TwoTower.save wrote"),
        ({"details": {"parameters": 1}}, "was altered"),
        ({"files": "none"}, "cannot be read"),
    ):
        save_model(model, folder)
        _changed(folder, **changes)
        with pytest.raises(SavedFolderError, match=message):
            load_model(folder)
        shutil.rmtree(folder)


def test_a_manifest_that_leads_out_of_the_folder_is_refused(model: TwoTower, tmp_path: Path) -> None:
    from twotower.saved import FileRecord, Manifest, _digest

    folder = tmp_path / "model"
    (tmp_path / "secret").write_text("x")
    for name in ("../secret", str(tmp_path / "secret")):
        save_model(model, folder)
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
        forged = msgspec.structs.replace(manifest, files={name: FileRecord(1, "0" * 64)}, digest="")
        forged = msgspec.structs.replace(forged, digest=_digest(forged))
        (folder / "manifest.json").write_bytes(msgspec.json.encode(forged))
        with pytest.raises(SavedFolderError, match="leaves the folder"):
            load_model(folder)
        shutil.rmtree(folder)


def test_what_is_no_saved_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SavedFolderError, match="was not written by twotower; expected a model"):
        load_model(tmp_path)
