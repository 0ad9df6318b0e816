"""Towers as ONNX: the scores of every kind of feature and layer, and what is refused of a file."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from once import made_once
from toy import groups_log, toy_model
from twotower.cli.main import app
from twotower.data import Dataset, from_tables
from twotower.errors import ConfigError, MissingExtraError, SavedFolderError
from twotower.features import (
    Activity,
    Bucketized,
    Categories,
    Category,
    Cyclic,
    Elapsed,
    Feature,
    Hashed,
    History,
    Normalized,
    Text,
    TextEncoder,
    Unified,
    Vector,
)
from twotower.features.encoders import ENCODERS
from twotower.model import Tower, TwoTower
from twotower.retrieval import Retriever
from twotower.retrieval.bundle import FORMAT
from twotower.retrieval.onnx import GRAPH_BYTES, QUERY, OnnxTower, exported, weight_bytes
from twotower.saved import check_folder, write_manifest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
if find_spec("onnxscript") is None:  # it takes a second to import
    pytest.skip("could not import 'onnxscript'", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("quick_exports")

ROWS = 40


def log_of_everything() -> Dataset:
    """Columns for every kind of feature, with nulls."""
    draw = np.random.default_rng(0)
    users, items = 8, 6
    log = {
        "user": draw.integers(users, size=ROWS),
        "item": np.concatenate([np.arange(items), draw.integers(items, size=ROWS - items)]),
        "at": np.sort(draw.integers(1_000_000, size=ROWS)),
    }
    candidates = {
        "item": list(range(items)),
        "title": ["one two", None, "two three four five", "", "one", "six"],
        "labels": [["a", "b"], [], None, ["b"], ["c", "a", "b"], ["d"]],
        "price": [1.0, None, 3.0, 4.0, 8.0, 2.5],
        "image": [[1.0, 2.0], None, [0.5, 1.0], [3.0, 0.0], [0.0, 0.0], [1.0, 1.0]],
    }
    queries = pa.table({"user": list(range(users))})
    return from_tables(
        pa.table(log),
        query_id="user",
        candidate_id="item",
        time="at",
        queries=queries,
        candidates=pa.table(candidates),
    )


def history(encoder: Any, **settings: Any) -> Feature:
    return History("item", by="user", time="at", length=4, dim=4, encoder=encoder, **settings)


def features_of(side: str) -> list[Feature]:
    """Of every kind that an export has to know, with what a column may have of it."""
    if side == "candidate":
        return [
            Text("title", 3),
            Text("title", 3, max_length=1),
            Categories("labels", 3),
            Normalized("price"),
            Vector("image", 2),
            Vector("image", 2, dim=3),
            Vector("image", 2, trained=True),
        ]
    return [
        Hashed("user", 20, 3),
        Unified(["user", "at"], 30, 3),
        Bucketized("at", 5, 3),
        Normalized("at"),
        Cyclic("at"),
        Elapsed("at", by="user", buckets=4, dim=3),
        Activity("at", by="user", buckets=4, dim=3),
        history("kernels", reach="around"),
        history("mean", shared=True),
        *(history(encoder) for encoder in ENCODERS),
    ]


LAYERS: dict[str, dict[str, Any]] = {
    "gelu, layer norm": {"layers": [8, 8, 4], "activation": "gelu", "norm": "layer", "residual": True},
    "silu, batch norm": {"layers": [8, 4], "activation": "silu", "norm": "batch", "dropout": 0.3},
    "tanh": {"layers": [8, 4], "activation": "tanh", "input_dropout": 0.2, "unknown_query_rate": 0.1},
    "cross before": {"layers": [4], "cross": 2, "cross_rank": 2},
    "cross beside": {"layers": [8, 4], "cross": 1, "cross_place": "beside"},
}
SIDES = ("query", "candidate")
CASES: dict[str, Any] = (
    {f"features: {side}": ([side], {"layers": [4]}, {}) for side in SIDES}
    | {f"layers: {name}": (["query"], layers, {}) for name, layers in LAYERS.items()}
    | {
        "no layers": (["query"], {}, {}),
        "shared sums": (SIDES, {"layers": [4], "combine": "sum"}, {}),
        "cosines, learned temperature": (
            SIDES,
            {"layers": [4]},
            {"normalize": True, "temperature": 0.1, "learn_temperature": True},
        ),
    }
)
"""Which towers are exported, and what they are."""


@pytest.mark.parametrize("case", CASES)
def test_onnx_gives_the_scores_of_the_towers(case: str) -> None:
    exports, layers, settings = CASES[case]
    own = {side: features_of(side) if case == f"features: {side}" else [] for side in SIDES}
    if case == "shared sums":
        own = {"query": [history("mean", shared=True)], "candidate": [Categories("labels", 4)]}
    log = log_of_everything()
    model = TwoTower(
        Tower([Category("user", 4), *own["query"]], **layers),
        Tower([Category("item", 4), *own["candidate"]], **layers),
        **settings,
    ).learn(log)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():  # so that no table says nothing
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    sides = {"query": model.encode_queries(log).whole(), "candidate": model.encode_candidates(log.candidates).whole()}
    with torch.no_grad():
        found = {"query": model.query_vectors(sides["query"]), "candidate": model.candidate_vectors(sides["candidate"])}
    expected = found["query"] @ found["candidate"].T
    for side in exports:
        encoded = sides[side]
        content = exported(model, side, [rows[:1] for rows in encoded], "v")
        tower = OnnxTower(content, "v", encoded, model.query.width, 1 << 24)
        found[side] = tower(encoded)
        one = [rows[:1] for rows in encoded]
        torch.testing.assert_close(tower(one), found[side][:1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["query"] @ found["candidate"].T, expected, rtol=1e-5, atol=1e-5)


def test_onnx_has_a_trained_text_encoder(encoder_folder: Path) -> None:
    log = groups_log(100)
    title = TextEncoder("title", encoder_folder, 4, trained=True, max_length=8)
    model = TwoTower(Tower([Category("user", 4)]), Tower([title])).learn(log)
    encoded = model.encode_candidates(log.candidates).whole()
    tower = OnnxTower(exported(model, "candidate", encoded, "v"), "v", encoded, 4, 1 << 24)
    torch.testing.assert_close(tower(encoded), model.embed_candidates(log.candidates), rtol=1e-5, atol=1e-5)
    shorter = [encoded[0][:3, :4]]
    torch.testing.assert_close(tower(shorter), model.candidate_vectors(shorter).detach(), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its towers, which the command has written."""

    def export(folder: Path) -> None:
        log = groups_log()
        Retriever.build(toy_model().learn(log), log.candidates, seen=log).save(folder / "plain")
        arguments = ["bundle", str(folder / "plain"), "--out", str(folder / "shop"), "--onnx"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output

    return made_once(tmp_path_factory, "onnx", export) / "shop"


def test_a_bundle_answers_by_either_engine(folder: Path) -> None:
    by_torch, by_onnx = Retriever.load(folder), Retriever.load(folder, engine="onnx")
    assert isinstance(by_onnx.bundle.query_tower, OnnxTower)
    for query in ({"user": 3}, {"user": 999, "at": 70}, {"user": 5, "at": None}):
        expected, found = by_torch.recommend(query, k=30), by_onnx.recommend(query, k=30)
        assert found.version == expected.version
        scores = {one.id: one.score for one in expected}
        assert {one.id: one.score for one in found} == pytest.approx(scores, rel=1e-5, abs=1e-5)


def test_the_command_writes_the_towers(folder: Path) -> None:
    assert len(Retriever.load(folder, engine="onnx").recommend({"user": 3})) == 10


def test_a_changed_catalogue_keeps_engine_and_files(folder: Path, tmp_path: Path) -> None:
    smaller = Retriever.load(folder, engine="onnx").withdraw([3])
    smaller.save(tmp_path / "smaller")
    again = Retriever.load(tmp_path / "smaller", engine="onnx")
    assert [one.id for one in again.recommend({"user": 3})] == [one.id for one in smaller.recommend({"user": 3})]


def test_what_a_bundle_does_not_have_is_said(tmp_path: Path, folder: Path) -> None:
    log = groups_log()
    Retriever.build(toy_model().learn(log), log.candidates, seen=log).save(tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"twotower bundle .* --onnx"):
        Retriever.load(tmp_path / "plain", engine="onnx")
    with pytest.raises(ConfigError, match="expected one of 'torch', 'onnx'"):
        Retriever.load(folder, engine="tensorrt")  # type: ignore[arg-type]


def test_the_extra_is_named_where_it_lacks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"twotower\[onnx\]"):
        Retriever.load(folder, engine="onnx")


def outside(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")


def custom(model: Any) -> None:
    model.opset_import.add(domain="com.example", version=1)


def looped(model: Any) -> None:
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("body", onnx.GraphProto(name="again")))


def other_towers(model: Any) -> None:
    model.metadata_props[-1].value = "0" * 12


def other_inputs(model: Any) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))


def too_large(model: Any) -> None:
    model.doc_string = "x" * (GRAPH_BYTES + (1 << 20))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (outside, "outside its file"),
        (custom, "com.example"),
        (looped, "graph inside"),
        (other_towers, "made for towers 000000000000"),
        (other_inputs, "has inputs .*'more'"),
        (too_large, "expected at most"),
        (None, "cannot be read"),
    ],
)
def test_an_untrusted_file_is_refused(folder: Path, tmp_path: Path, change: Any, said: str) -> None:
    shutil.copytree(folder, tmp_path / "shop")
    path = tmp_path / "shop" / QUERY
    model = onnx.load_model_from_string(path.read_bytes())
    if change is not None:
        change(model)
    path.write_bytes(b"no protobuf" if change is None else model.SerializeToString())
    manifest = check_folder(folder, "twotower retriever", FORMAT)
    (tmp_path / "shop" / "manifest.json").unlink()
    write_manifest(tmp_path / "shop", manifest.kind, manifest.format, manifest.library, manifest.details)
    with pytest.raises(SavedFolderError, match=said):
        Retriever.load(tmp_path / "shop", engine="onnx")
    assert Retriever.load(tmp_path / "shop").version == Retriever.load(folder).version  # which does not read it


def test_the_limit_on_a_file_follows_the_weights(folder: Path) -> None:
    retriever = Retriever.load(folder)
    assert (folder / QUERY).stat().st_size < weight_bytes(retriever.model) + GRAPH_BYTES
    assert retriever.details.onnx
