from __future__ import annotations

import io
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from toy import groups_log
from twotower.errors import ConfigError, DataError, MissingExtraError, NotFittedError
from twotower.features import Category, TextEncoder, feature_from_settings, text_encoder
from twotower.features.pretrained import MeanPooled
from twotower.model import FullSoftmax, Tower, TwoTower, load_model, save_model
from twotower.progress import Display
from twotower.recipes.config import read_config
from twotower.retrieval import Retriever
from twotower.training import AdamW, Trainer

TEXTS = ["a red hat", "Hats", None, "two blue hats", "", "a red hat"]


def column_of(texts: list[str | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.string())])


def fitted(folder: Path, **settings: Any) -> TextEncoder:
    feature = TextEncoder("title", folder, **({"dim": 4, "max_length": 8} | settings))
    feature.fit(column_of(TEXTS))
    return feature.eval()


@pytest.fixture
def broken(encoder_folder: Path, tmp_path: Path) -> Path:
    """A copy of the encoder, to be damaged."""
    return Path(shutil.copytree(encoder_folder, tmp_path / "encoder"))


@pytest.mark.parametrize("trained", [False, True])
def test_a_text_is_the_mapped_mean_of_what_the_encoder_gives_for_its_tokens(
    encoder_folder: Path, trained: bool
) -> None:
    from transformers import AutoModel, AutoTokenizer

    encoder = AutoModel.from_pretrained(encoder_folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder, local_files_only=True)
    feature = fitted(encoder_folder, trained=trained)
    with torch.no_grad():
        given = feature(feature.encode(column_of(TEXTS)))
        for row in (0, 1, 3):
            ids = tokenizer(TEXTS[row], return_tensors="pt")["input_ids"]
            mean = encoder(input_ids=ids).last_hidden_state[0].mean(dim=0)
            assert torch.allclose(given[row], feature.map(mean), atol=1e-5)  # type: ignore[misc]
    assert not torch.allclose(given[0], given[3], atol=1e-3)
    assert torch.equal(given[0], given[5])
    assert not given[[2, 4]].any()  # missing and empty


def test_only_the_first_tokens_are_read(encoder_folder: Path) -> None:
    feature = fitted(encoder_folder, max_length=4)
    given = feature.encode(column_of(["a red hat", "a red toy", "red a hat"]))
    assert torch.allclose(given[0], given[1], atol=1e-6)
    assert not torch.allclose(given[0], given[2], atol=1e-3)


def test_a_frozen_encoder_reads_each_text_once(encoder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feature = fitted(encoder_folder)
    read: list[int] = []
    forward: Callable[..., Any] = MeanPooled.forward

    def counted(self: MeanPooled, tokens: torch.Tensor) -> Any:
        read.append(len(tokens))
        return forward(self, tokens)

    monkeypatch.setattr(MeanPooled, "forward", counted)
    vectors = feature.encode(column_of(TEXTS * 50))
    assert vectors.shape == (300, 8)
    assert sum(read) == 3
    feature.encode(column_of(["hats", *TEXTS]))
    assert sum(read) == 4
    feature(vectors).sum().backward()  # in training, nothing is left to read
    assert sum(read) == 4


def test_a_long_reading_is_shown(encoder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(text_encoder, "BATCH", 2)
    shown_in = lambda wanted: Display(Console(file=said, quiet=not wanted), every=0.01)  # noqa: E731
    monkeypatch.setattr(text_encoder, "opened", shown_in)
    column = column_of([f"item number {number}" for number in range(50)])
    fitted(encoder_folder).encode(column.slice(0, 38))
    assert not said.getvalue()

    forward: Callable[..., torch.Tensor] = MeanPooled.forward

    def slow(encoder: MeanPooled, tokens: torch.Tensor) -> torch.Tensor:
        end = time.monotonic() + 10
        while not said.getvalue() and time.monotonic() < end:  # the first line comes from another thread
            time.sleep(0.005)
        return forward(encoder, tokens)

    monkeypatch.setattr(MeanPooled, "forward", slow)
    fitted(encoder_folder).encode(column)
    assert "Text encoder: 50 texts" in said.getvalue()


def test_weights_that_never_change_are_no_part_of_the_module(encoder_folder: Path) -> None:
    assert set(fitted(encoder_folder).state_dict()) == {"map.weight"}
    assert len(fitted(encoder_folder, trained=True).state_dict()) > 10


def towers(folder: Path, trained: bool) -> TwoTower:
    title = TextEncoder("title", folder, dim=4, trained=trained, max_length=8)
    return TwoTower(Tower([Category("user", 8)], [8]), Tower([title, Category("item", 4)], [8]))


@pytest.mark.parametrize("trained", [False, True])
def test_a_trained_model_needs_the_folder_no_more(
    broken: Path, tmp_path_factory: pytest.TempPathFactory, trained: bool
) -> None:
    log, model = groups_log(400), towers(broken, trained)
    trainer = Trainer(epochs=3, batch_size=100, optimizer=AdamW(0.01), loss=FullSoftmax())
    losses = [epoch.loss for epoch in trainer.fit(model, log).epochs]
    assert losses[2] < losses[0]
    first = load_file(broken / "model.safetensors")["embeddings.word_embeddings.weight"]
    weights = {name: one for name, one in model.state_dict().items() if "word_embeddings" in name}
    assert [torch.equal(one, first) for one in weights.values()] == ([False] if trained else [])
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    Retriever.build(model, log.candidates, seen=log).save(folder)
    expected = model.embed_candidates(log.candidates)
    shutil.rmtree(broken)
    retriever = Retriever.load(folder)
    assert torch.equal(retriever.model.embed_candidates(log.candidates), expected)
    assert len(retriever.recommend({"user": 3}, k=5)) == 5


def test_a_saved_model_whose_encoder_was_exchanged_is_refused(encoder_folder: Path) -> None:
    feature = fitted(encoder_folder)
    state = feature.learned()
    config = state["config"][0].as_py().replace('"hidden_size":8', '"hidden_size":800000')
    again = feature_from_settings(feature.settings())
    with pytest.raises(ValueError, match="do not have the shapes that its config gives"):
        again.restore(state.set_column(0, "config", pa.array([config])))
    config = state["config"][0].as_py().replace('"bert"', '"timm_backbone"')
    with pytest.raises(ValueError, match="model_type is 'timm_backbone'; expected one of"):
        again.restore(state.set_column(0, "config", pa.array([config])))


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def as_bin(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def config_with(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no folder": (shutil.rmtree, "is not a folder; expected a local one .*nothing is downloaded"),
    "no config": (without("config.json"), "has no config.json"),
    "no tokenizer": (without("tokenizer.json"), "has no tokenizer.json"),
    "weights that can run code": (as_bin, "has no .safetensors; weights in a .bin file are refused"),
    "another size": (config_with(hidden_size=16), "no usable text encoder"),
    "a weight is missing": (without_a_weight, "the weights lack encoder.layer.0.output.dense.weight"),
    "no encoder": (config_with(model_type="t5"), "model_type is 't5'; expected one of albert, bert"),
    "too many layers": (config_with(num_hidden_layers=1000), "num_hidden_layers is 1000; expected at most 256"),
    "too few positions": (config_with(max_position_embeddings=4), "no usable text encoder|max_length=8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_cannot_be_used_is_refused(broken: Path, case: str) -> None:
    damage, message = REFUSED[case]
    damage(broken)
    with pytest.raises(ConfigError, match=rf"(?s)^text_encoder 'title': .*({message})"):
        fitted(broken)


def test_more_tokens_than_the_encoder_has_places_for_are_refused(encoder_folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot encode a text of max_length=17 tokens"):
        fitted(encoder_folder, max_length=17)
    fitted(encoder_folder, max_length=16)


def test_numbers_and_use_before_learning_are_refused(encoder_folder: Path) -> None:
    feature = TextEncoder("title", encoder_folder)
    with pytest.raises(NotFittedError, match="call fit first"):
        feature.encode(column_of(TEXTS))
    with pytest.raises(DataError, match="expected text"):
        feature.fit(pa.chunked_array([[1, 2]]))
    with pytest.raises(ConfigError, match="dim=4, max_length=2"):
        TextEncoder("title", encoder_folder, dim=4, max_length=2)


def test_without_the_extra_the_line_that_installs_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'twotower\[text\]'"):
        TextEncoder("title", tmp_path).fit(column_of(TEXTS))


def test_a_config_has_the_folder_relative_to_its_own(broken: Path) -> None:
    log = groups_log(400)
    pq.write_table(pa.table({"u": log.query_index, "i": log.candidate_index}), broken.parent / "log.parquet")
    pq.write_table(log.candidates.rename_columns(["i", "title"]), broken.parent / "items.parquet")
    (broken.parent / "config.toml").write_text(
        """
[data]
interactions = "log.parquet"
candidates = "items.parquet"
query_id = "u"
candidate_id = "i"
[[model.candidate]]
kind = "text_encoder"
column = "title"
model = "encoder"
max_length = 8
[[variants.long.model.candidate]]
kind = "text_encoder"
column = "title"
model = "../elsewhere"
"""
    )
    config = read_config(broken.parent / "config.toml")
    assert config.model.candidate[0]["model"] == str(broken)
    assert config.variants["long"]["model"]["candidate"][0]["model"] == str(broken.parent.parent / "elsewhere")
    data = config.data.load()
    model = config.model.build(data, config.resolved_recipe(data)).learn(data)
    assert model.embed_candidates(data.candidates).isfinite().all()


def test_models_saved_alone_are_the_same_too(encoder_folder: Path, tmp_path: Path) -> None:
    log, model = groups_log(100), towers(encoder_folder, trained=False).learn(groups_log(100))
    save_model(model, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model").embed_queries(log), model.embed_queries(log))
