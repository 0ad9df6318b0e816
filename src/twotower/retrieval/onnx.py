"""Export the towers and the re-ranking head to ONNX and run them in ONNX Runtime; needs the extra `onnx`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twotower.errors import ConfigError, SavedFolderError, TwoTowerError
from twotower.extras import require
from twotower.model.rerank import Rerank
from twotower.model.saving import model_version
from twotower.model.sides import candidate_side, query_side
from twotower.model.two_tower import TwoTower

QUERY, CANDIDATE, RANKER = "onnx/query.onnx", "onnx/candidate.onnx", "onnx/ranker.onnx"
"""Paths of the ONNX files within a bundle."""

OPSET = 18
OUTPUT, SCORES = "embeddings", "scores"
TOWERS = "towers"
"""Metadata key for the version id of the towers that a file belongs to."""

MAX_BYTES = 2**31 - 2**24
"""Export towers of at most this many bytes; the format limits a single file to 2 GiB."""

GRAPH_BYTES = 1 << 24
"""Allow at most this many bytes in a file besides the weights."""

TOLERANCE = 1e-5
"""Allow outputs to differ by this much from PyTorch's, relative to the largest value (at least 1)."""


class OnnxTower:
    """A tower in ONNX Runtime, with the same inputs and outputs as `TwoTower.query_vectors`.

    Or a re-ranking head with the features and towers that it reads, from encoded pairs to the head's outputs.

    Args:
        content: What `exported` returned, or a file of a bundle.
        towers: Version id of the model that the content must belong to.
        inputs: Example inputs of the tower, any rows, to check types and shapes.
        width: Width of an embedding; None for a head, which returns one number per pair.
        largest: Maximum size of the content in bytes.
        names: Names of its inputs; default: those of a tower.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        SavedFolderError: The content is not such a tower, belongs to other towers, or needs anything outside itself.
    """

    def __init__(
        self,
        content: bytes,
        towers: str,
        inputs: Sequence[Tensor],
        width: int | None,
        largest: int,
        names: Sequence[str] | None = None,
    ) -> None:
        self._output = SCORES if width is None else OUTPUT
        onnx, runtime = require("onnx", "onnx"), require("onnxruntime", "onnx")
        if len(content) > largest:
            raise SavedFolderError(f"the ONNX tower has {len(content)} bytes; expected at most {largest}")
        try:
            _check(onnx.load_model_from_string(content), towers)
            options = runtime.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = torch.get_num_threads()
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except SavedFolderError:
            raise
        except Exception as error:  # both libraries may fail in any way on a damaged file
            raise SavedFolderError(f"the ONNX tower cannot be read: {type(error).__name__}: {error}") from error
        self._names = [given.name for given in self._session.get_inputs()]
        expected = input_names(len(inputs)) if names is None else list(names)
        if self._names != expected:
            raise SavedFolderError(f"the ONNX tower has inputs {self._names}; expected {expected}")
        given, shape = self._run(inputs), (len(inputs[0]), *([] if width is None else [width]))
        if given.dtype != torch.float32 or given.shape != shape:
            raise SavedFolderError(
                f"the ONNX tower returns {given.dtype} {list(given.shape)}; expected float32 {list(shape)}"
            )

    def __call__(self, encoded: list[Tensor]) -> Tensor:
        """Embeddings `[n, d]`, ready for a dot product, from each feature's encoded rows `[n, …]`."""
        return self._run(encoded)

    def _run(self, encoded: Sequence[Tensor]) -> Tensor:
        feeds = {name: rows.numpy() for name, rows in zip(self._names, encoded, strict=True)}
        try:
            found: np.ndarray = self._session.run([self._output], feeds)[0]
        except Exception as error:  # ONNX Runtime raises its own exception types
            raise SavedFolderError(f"the ONNX tower cannot be run: {error}") from error
        return torch.from_numpy(found)


class _Vectors(nn.Module):
    """One side of a model, from encoded rows to embeddings ready for a dot product."""

    def __init__(self, model: TwoTower, side: str) -> None:
        super().__init__()
        self.model, self.side = model, side

    def forward(self, *encoded: Tensor) -> Tensor:
        rows = list(encoded)
        return self.model.query_vectors(rows) if self.side == "query" else self.model.candidate_vectors(rows)


class _Answers(nn.Module):
    """A head's outputs for n pairs, from the encoded rows of their queries and candidates."""

    def __init__(self, model: TwoTower, head: str, features: int) -> None:
        super().__init__()
        self.model, self.head, self.features = model, head, features

    def forward(self, *encoded: Tensor) -> Tensor:
        head = self.model.heads[self.head]
        query = query_side(self.model, encoded[: self.features], head.reads_vectors)
        candidate = candidate_side(self.model, encoded[self.features :], head.reads_vectors)
        answers: Tensor = head(query, candidate)
        return answers


def write_towers(
    model: TwoTower, query: Sequence[Tensor], candidate: Sequence[Tensor], folder: Path, rerank: Rerank | None = None
) -> None:
    """Writes both towers, and the re-ranking head if there is one, into a bundle's folder.

    Args:
        model: The model.
        query: Inputs of its query tower, one row or more.
        candidate: Inputs of its candidate tower, one row or more.
        folder: The folder.
        rerank: The re-ranking settings, with the head resolved; None for no re-ranking.

    Raises:
        MissingExtraError, ConfigError, TwoTowerError: As `exported`.
    """
    towers = model_version(model)
    contents = {
        name: exported(model, side, inputs, towers)
        for name, side, inputs in ((QUERY, "query", query), (CANDIDATE, "candidate", candidate))
    }
    if rerank is not None:
        contents[RANKER] = exported_ranker(model, rerank.head, query, candidate, towers)
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def exported(model: TwoTower, side: str, inputs: Sequence[Tensor], towers: str) -> bytes:
    """One tower as ONNX of opset 18, for any number of rows; vocabulary lookups are not part of it.

    Its outputs are compared with the tower's before it is returned.

    Args:
        model: The model.
        side: `query` or `candidate`.
        inputs: Inputs of the tower, one row or more.
        towers: Version id of the model, stored in the file.

    Raises:
        MissingExtraError: The extra `onnx` is not installed.
        ConfigError: The tower is too large for one file, or a custom feature cannot be exported.
        TwoTowerError: ONNX Runtime computes different embeddings.
    """
    module, names = _Vectors(model, side), input_names(len(inputs))
    width = model.query.width if side == "query" else model.width
    return _exported(model, module, f"{side} tower", inputs, names, width, towers)


def exported_ranker(
    model: TwoTower, head: str, query: Sequence[Tensor], candidate: Sequence[Tensor], towers: str
) -> bytes:
    """A head as ONNX, with the features and towers that it reads: from encoded rows of n pairs to n outputs.

    Args:
        model: The model.
        head: The head's name.
        query: Inputs of the query tower, one row or more.
        candidate: Inputs of the candidate tower, one row or more.
        towers: Version id of the model, stored in the file.

    Raises:
        MissingExtraError, ConfigError, TwoTowerError: As `exported`.
    """
    inputs = [*(rows[:1] for rows in query), *(rows[:1] for rows in candidate)]
    module, names = _Answers(model, head, len(query)), ranker_input_names(len(query), len(candidate))
    return _exported(model, module, f"head {head!r}", inputs, names, None, towers)


def _exported(
    model: TwoTower,
    module: nn.Module,
    what: str,
    inputs: Sequence[Tensor],
    names: Sequence[str],
    width: int | None,
    towers: str,
) -> bytes:
    """Exports a module to ONNX and compares its outputs with PyTorch's."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(name, "onnx")
    bytes_of = weight_bytes(model)
    if bytes_of > MAX_BYTES:
        raise ConfigError(f"towers of {bytes_of} bytes are too large for one ONNX file; expected at most {MAX_BYTES}")
    examples = [_widened(rows.cpu()) for rows in inputs]
    program, expected = _program(model, module.eval(), what, examples, names, SCORES if width is None else OUTPUT)
    proto = program.model_proto
    proto.metadata_props.add(key=TOWERS, value=towers)
    content: bytes = proto.SerializeToString()
    tower = OnnxTower(content, towers, examples, width, bytes_of + GRAPH_BYTES, names)
    off = float((tower(examples) - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    if not off <= TOLERANCE:
        raise TwoTowerError(f"the {what} in ONNX is {off:.1e} off; expected at most {TOLERANCE}")
    return content


def _program(
    model: TwoTower, module: nn.Module, what: str, examples: Sequence[Tensor], names: Sequence[str], output: str
) -> tuple[Any, Tensor]:
    """The module as exported by PyTorch, and its outputs for the examples."""
    shapes = [
        {place: _dynamic(place, rows) for place in range(rows.dim()) if _dynamic(place, rows) is not None}
        for rows in examples
    ]
    device = model.device
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module.cpu(),
                tuple(examples),
                input_names=list(names),
                output_names=[output],
                opset_version=OPSET,
                dynamic_shapes={"encoded": tuple(shapes)},
                dynamo=True,
                verbose=False,
            )
            expected = module(*examples)
    except Exception as error:  # the exporter fails in many ways
        raise ConfigError(f"the {what} cannot be exported to ONNX: {error}") from error
    finally:
        model.to(device)
    assert program is not None
    return program, expected


def weight_bytes(model: TwoTower) -> int:
    """Bytes of all weights of both towers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _widened(rows: Tensor) -> Tensor:
    """Two rows and, for bags, at least two places; the exporter would treat a size of one as fixed."""
    rows = torch.cat([rows[:1], rows[-1:]])
    return F.pad(rows, (0, max(0, 2 - rows.shape[1]))) if is_bag(rows) else rows


def is_bag(rows: Tensor) -> bool:
    """Whether the rows are bags: table rows, padded to the longest."""
    return rows.dim() == 2 and not rows.dtype.is_floating_point


def _dynamic(place: int, rows: Tensor) -> Any:
    if place == 0:
        return torch.export.Dim.DYNAMIC
    return torch.export.Dim.AUTO if place == 1 and is_bag(rows) else None


def input_names(count: int) -> list[str]:
    """Names of a tower's inputs, in the order of its features."""
    return [f"feature_{place}" for place in range(count)]


def ranker_input_names(query: int, candidate: int) -> list[str]:
    """Names of a head's inputs: features of the query tower, then of the candidate tower."""
    counts = (("query", query), ("candidate", candidate))
    return [f"{side}_{name}" for side, count in counts for name in input_names(count)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's logs and warnings; errors are still raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _check(model: Any, towers: str) -> None:
    """Refuses a model of other towers, and any model that uses more than standard operators and embedded weights."""
    found = {entry.key: entry.value for entry in model.metadata_props}.get(TOWERS)
    if found != towers:
        raise SavedFolderError(f"the ONNX tower was made for towers {found}; expected {towers}")
    domains = [entry.domain for entry in model.opset_import]
    if any(domain not in ("", "ai.onnx") for domain in domains) or model.functions:
        raise SavedFolderError(f"the ONNX tower needs operators of {domains}; expected only ONNX's own")
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise SavedFolderError(f"the ONNX tower has a graph inside {node.op_type}; expected none")
            tensors += [attribute.t] if attribute.HasField("t") else []
            tensors += attribute.tensors
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise SavedFolderError(f"the ONNX tower has a sparse tensor in {node.op_type}; expected none")
    if model.graph.sparse_initializer or any(tensor.data_location or tensor.external_data for tensor in tensors):
        raise SavedFolderError("the ONNX tower stores weights outside its file; expected all inside")
