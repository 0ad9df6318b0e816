"""Model repository for Triton Inference Server: a bundle's towers and re-ranking head as ONNX, with configs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.features import Feature
from twotower.files import replaced_folder
from twotower.model.tower_module import features_of
from twotower.retrieval.bundle import Bundle, unknown_query_inputs
from twotower.retrieval.onnx import OUTPUT, SCORES, exported, exported_ranker, input_names, is_bag, ranker_input_names
from twotower.saved import Manifest, SavedKind, write_manifest
from twotower.version import VERSION

KIND = "twotower triton repository"
FORMAT = 1

MAX_BATCH = 1024
"""Let Triton batch at most this many rows."""

QUEUE_MICROSECONDS = 100
"""Let a request wait this long for others to batch it with."""

TYPES = {torch.int64: "TYPE_INT64", torch.float32: "TYPE_FP32", torch.int32: "TYPE_INT32", torch.bool: "TYPE_BOOL"}


@dataclass(frozen=True)
class _Tensor:
    """An input or output of a model in Triton's terms; `shape` is that of one row, −1 where it varies."""

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def text(self) -> str:
        # Triton does not batch scalars: they arrive as [n, 1] and are reshaped to [n].
        dims, reshape = (self.shape, "") if self.shape else ((1,), " reshape { shape: [ ] }")
        listed = ", ".join(map(str, dims))
        return f"  {{ name: {json.dumps(self.name)} data_type: {self.kind} dims: [ {listed} ]{reshape} }}"


def write_triton(bundle: Bundle, folder: Path, name: str = "twotower") -> Manifest:
    """Writes a model repository with the models NAME_query and NAME_candidate, each as version 1.

    A bundle that re-ranks also gets NAME_ranker, which scores encoded pairs of a query and a candidate.

    Args:
        bundle: The bundle to export, such as `retriever.bundle`.
        folder: The repository; it may be empty, or one that this function wrote.
        name: Prefix of the model names.

    Raises:
        ConfigError: The name is not a valid folder name, the folder may not be replaced, or a tower cannot be exported.
        MissingExtraError: The extra `onnx` is not installed.
    """
    if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
        raise ConfigError(f"name={name!r}; expected letters, digits, '_' and '-'", field="name")
    model, towers = bundle.model, bundle.details.towers
    query = unknown_query_inputs(model, bundle.queries, bundle.details)
    candidate = model.encode_candidates(bundle.candidates.slice(0, 1)).whole()
    sides = [features_of(tower) for tower in (model.query, model.candidate)]
    with replaced_folder(folder, SavedKind(KIND)) as building:
        towers_of = (("query", query, model.query.width), ("candidate", candidate, model.width))
        for (side, inputs, width), features in zip(towers_of, sides, strict=True):
            given = _Given(input_names(len(inputs)), inputs, features)
            output = _Tensor(OUTPUT, "TYPE_FP32", (width,))
            _write(building / f"{name}_{side}", exported(model, side, inputs, towers), given, output, towers)
        if bundle.details.rerank is not None:
            names = ranker_input_names(len(query), len(candidate))
            given = _Given(names, [*query, *candidate], [*sides[0], *sides[1]])
            content = exported_ranker(model, bundle.details.rerank.head, query, candidate, towers)
            _write(building / f"{name}_ranker", content, given, _Tensor(SCORES, "TYPE_FP32", ()), towers)
        return write_manifest(building, KIND, FORMAT, VERSION, {"towers": towers, "bundle": bundle.details.version})


@dataclass(frozen=True)
class _Given:
    """Inputs of a model: their names, an example of each, and the feature behind each."""

    names: Sequence[str]
    examples: Sequence[Tensor]
    features: Sequence[Feature]


def _write(place: Path, content: bytes, given: _Given, output: _Tensor, towers: str) -> None:
    (place / "1").mkdir(parents=True)
    (place / "1" / "model.onnx").write_bytes(content)
    (place / "config.pbtxt").write_text(_config(place.name, given, output, towers), encoding="utf-8")


def _config(name: str, given: _Given, output: _Tensor, towers: str) -> str:
    """The `config.pbtxt` of one model; its parameters name the towers' version and the feature of each input."""
    inputs = [
        _Tensor(own, _type_of(rows), _shape_of(rows)).text
        for own, rows in zip(given.names, given.examples, strict=True)
    ]
    values = {"towers": towers} | {own: str(one) for own, one in zip(given.names, given.features, strict=True)}
    parameters = [
        f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}"
        for key, value in values.items()
    ]
    lines = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH}",
        "input [",
        ",\n".join(inputs),
        "]",
        "output [",
        output.text,
        "]",
        f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_MICROSECONDS} }}",
        *parameters,
    ]
    return "\n".join(lines) + "\n"


def _type_of(rows: Tensor) -> str:
    if rows.dtype not in TYPES:
        raise ConfigError(f"a feature encodes {rows.dtype}; Triton export expects one of {', '.join(map(str, TYPES))}")
    return TYPES[rows.dtype]


def _shape_of(rows: Tensor) -> tuple[int, ...]:
    """The shape of each row; the length of a bag varies."""
    return (-1,) if is_bag(rows) else tuple(rows.shape[1:])
