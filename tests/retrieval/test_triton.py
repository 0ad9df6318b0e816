"""A model repository for Triton: its layout, what its configs say, and that its files give the embeddings."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from toy import groups_log
from twotower.cli.main import app
from twotower.errors import ConfigError
from twotower.features import Category, Hashed, Normalized, Text
from twotower.model import Tower, TwoTower
from twotower.retrieval import Retriever, write_triton

runtime = pytest.importorskip("onnxruntime")
if find_spec("onnxscript") is None:  # it takes a second to import
    pytest.skip("could not import 'onnxscript'", allow_module_level=True)

FILES = [f"shop_{side}/{name}" for side in ("candidate", "query") for name in ("1/model.onnx", "config.pbtxt")]

TENSOR = re.compile(r'name: "(feature_\d+|embeddings)" data_type: TYPE_(\w+) dims: \[ ([-\d, ]+) \](.*) }')


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = groups_log(300)
    query = Tower([Category("user", 4), Normalized("at"), Hashed("user", 16, 4)], [8])
    model = TwoTower(query, Tower([Category("item", 4), Text("title", 4)], [8])).learn(log)
    folder = tmp_path_factory.mktemp("triton") / "shop.tower"
    Retriever.build(model, log.candidates, seen=log).save(folder)
    return folder


@pytest.fixture(scope="module")
def repository(bundle: Path, quick_exports: None) -> Path:
    out = bundle.parent / "models"
    done = CliRunner().invoke(app, ["triton", str(bundle), "--out", str(out), "--name", "shop", "--json"])
    assert done.exit_code == 0, done.output
    return out


def test_the_layout_is_tritons(repository: Path) -> None:
    found = sorted(str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file())
    assert found == sorted([*FILES, "manifest.json"])


def test_configs_say_what_the_files_take_and_give(repository: Path, bundle: Path) -> None:
    towers = Retriever.load(bundle).details.towers
    for side, rows in (("query", [[1], [1], [1]]), ("candidate", [[1], [-1]])):
        text = (repository / f"shop_{side}" / "config.pbtxt").read_text()
        session = runtime.InferenceSession(repository / f"shop_{side}" / "1" / "model.onnx")
        assert f'name: "shop_{side}"\nbackend: "onnxruntime"\nmax_batch_size: 1024\n' in text
        assert f'key: "towers" value {{ string_value: "{towers}" }}' in text
        tensors = TENSOR.findall(text)
        inputs = [(name, kind) for name, kind, _, _ in tensors[:-1]]
        onnx_types = {"tensor(int64)": "INT64", "tensor(int32)": "INT32", "tensor(float)": "FP32"}
        assert inputs == [(one.name, onnx_types[one.type]) for one in session.get_inputs()]
        assert [[int(size) for size in dims.split(",")] for _, _, dims, _ in tensors] == [*rows, [8]]
        for (_, _, dims, reshape), one in zip(tensors, session.get_inputs(), strict=False):
            assert (reshape == " reshape { shape: [ ] }") == (len(one.shape) == 1) == (dims == "1")


def test_the_files_give_the_embeddings(repository: Path, bundle: Path) -> None:
    retriever = Retriever.load(bundle)
    requests = [retriever.requests.read({"user": user, "at": at}) for user, at in ((1, 5), (999, 7), (3, 9))]
    encoded = {
        "query": retriever.requests.encode(requests, [retriever.requests.row(one) for one in requests]),
        "candidate": retriever.model.encode_candidates(retriever.candidates).whole(),
    }
    expected = {
        "query": retriever.model.query_vectors(encoded["query"]),
        "candidate": retriever.model.candidate_vectors(encoded["candidate"]),
    }
    for side, inputs in encoded.items():
        session = runtime.InferenceSession(repository / f"shop_{side}" / "1" / "model.onnx")
        feeds = {f"feature_{place}": rows.numpy() for place, rows in enumerate(inputs)}
        (found,) = session.run(["embeddings"], feeds)
        np.testing.assert_allclose(found, expected[side].detach().numpy(), atol=1e-5)


def test_a_repository_with_other_models_is_not_replaced(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "other" / "1").mkdir(parents=True)
    (tmp_path / "models" / "other" / "config.pbtxt").write_text("")
    with pytest.raises(ConfigError, match="is not a saved triton repository"):
        write_triton(Retriever.load(bundle).bundle, tmp_path / "models")


@pytest.mark.parametrize("name", ["", "a/b", "..", "naïve"])
def test_a_name_has_to_be_one_of_a_folder(bundle: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected letters"):
        write_triton(Retriever.load(bundle).bundle, tmp_path / "models", name)
