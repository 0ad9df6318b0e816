"""`Bundle`: everything needed to answer requests, and the folder that stores it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import torch
from safetensors import safe_open
from torch import Tensor

from twotower.arrow import content_digest, read_table, write_table
from twotower.data.checks import check_ids
from twotower.data.seen import Seen
from twotower.errors import ConfigError, MissingExtraError, SavedFolderError
from twotower.files import check_folder_target, replaced_folder
from twotower.kinds import kind_of
from twotower.locks import locked
from twotower.model.rerank import Rerank
from twotower.model.saving import load_model, model_version, write_model
from twotower.model.two_tower import TwoTower
from twotower.ranks import ALONE
from twotower.recognition import quoted
from twotower.retrieval.exact import Exact, ExactIndex
from twotower.retrieval.index import INDEXES, Index, IndexSettings, IntArray
from twotower.retrieval.notes import Notes
from twotower.retrieval.onnx import GRAPH_BYTES, QUERY, OnnxTower, weight_bytes, write_towers
from twotower.retrieval.parity import Parity
from twotower.retrieval.requests import Requests
from twotower.retrieval.stores import STORES, StoreSettings
from twotower.saved import Manifest, SavedKind, check_folder, listed, write_manifest
from twotower.tensors import write_tensors
from twotower.version import VERSION

Engine: TypeAlias = Literal["torch", "onnx"]
"""The engine that embeds queries."""

KIND = "twotower retriever"
FORMAT = 3
MODEL, CANDIDATES, QUERIES, SEEN, SEEN_OFFSETS, POPULARITY, EMBEDDINGS, INDEX, FEATURES = (
    "model",
    "candidates.arrow",
    "queries.arrow",
    "seen.arrow",
    "seen-offsets.arrow",
    "popularity.arrow",
    "embeddings.safetensors",
    "index.safetensors",
    "features.safetensors",
)
ALIGNMENT = 64
"""Start embeddings at a multiple of this many bytes in their file, as in memory."""

ATTEMPTS = 5
"""Give up after reading a folder this many times if it is replaced during every read."""


class Details(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Metadata of a bundle.

    Attributes:
        data: Name of the data set.
        query_id: Name of the query id column.
        candidate_id: Name of the candidate id column.
        time: Name of the time column.
        latest_time: Time of the latest training event, in seconds: "now" for requests without a time.
        title: Name of the column that is displayed for a candidate.
        index: Settings of the index.
        parity: Recall of the approximate index or the store, measured when it was built; None for an exact index.
        towers: Version id of the model.
        revision: How many times candidates were added, changed or withdrawn since the bundle was built.
        version: Version id of the whole bundle: twelve hexadecimal digits of a hash of its content.
        notes: How the model was trained, and anything else its author wants to keep.
        onnx: Whether the bundle also has the towers as ONNX.
        store: The store that is searched instead of the bundle's own index, if any.
        rerank: The default number of candidates to re-rank, and the head that re-ranks; None if there is no
            re-ranking.
    """

    data: str
    query_id: str
    candidate_id: str
    time: str | None
    latest_time: float | None
    title: str
    index: IndexSettings
    parity: Parity | None
    towers: str
    revision: int
    version: str
    notes: Notes
    onnx: bool = False
    store: StoreSettings | None = None
    rerank: Rerank | None = None

    @property
    def searched_by(self) -> str:
        """The kind of the store or, if there is none, of the index."""
        return kind_of(type(self.index if self.store is None else self.store)) or ""


@dataclass(frozen=True, eq=False)
class Bundle:
    """Everything needed to answer requests; immutable.

    Attributes:
        model: The towers, in evaluation mode.
        candidates: The catalogue.
        queries: The query table, with the columns of the known queries.
        seen: What each query chose in training, latest first where times are known.
        popularity: Number of training events of each candidate, `[C]`.
        index: The candidate embeddings, and how they are searched.
        details: Metadata of the bundle.
        query_tower: The query tower in ONNX Runtime, if the bundle was loaded with `engine="onnx"`.
        features: The candidates' features as the re-ranking head reads them, `[C, width]`; None if no head reads them.
    """

    model: TwoTower
    candidates: pa.Table
    queries: pa.Table
    seen: Seen
    popularity: IntArray
    index: Index
    details: Details = field(repr=False)
    query_tower: OnnxTower | None = field(default=None, repr=False)
    features: Tensor | None = field(default=None, repr=False)


def with_version(bundle: Bundle) -> Bundle:
    """The bundle with its details' version id recomputed from its content."""
    details = msgspec.structs.replace(bundle.details, version="")
    digest = hashlib.sha256(msgspec.json.encode(details, order="deterministic"))
    digest.update(content_digest(bundle.candidates).encode())
    digest.update(content_digest(bundle.queries).encode())
    arrays = [bundle.seen.offsets, bundle.seen.candidates, bundle.popularity, _stored(bundle.index).numpy()]
    arrays += [] if bundle.features is None else [bundle.features.numpy()]
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.data)
    version = digest.hexdigest()[:12]
    return Bundle(**(vars(bundle) | {"details": msgspec.structs.replace(details, version=version)}))


def with_onnx(bundle: Bundle) -> Bundle:
    """The bundle, set to write its towers as ONNX too whenever it is saved."""
    return with_version(replace(bundle, details=msgspec.structs.replace(bundle.details, onnx=True)))


def check_bundle_target(folder: Path) -> None:
    """Checks, before any long work, that a bundle may be written to a folder.

    Raises:
        ConfigError: The folder may not be replaced, or cannot be written; see `Retriever.save`.
    """
    check_folder_target(folder, SavedKind(KIND))


def save_bundle(bundle: Bundle, folder: Path) -> Manifest:
    """Writes a bundle beside its target folder, reads it back as `load_bundle` does, and then replaces the target.

    Raises:
        ConfigError: The folder may not be replaced, or cannot be written.
        SavedFolderError: What was written cannot be read back; the folder is unchanged.
    """
    check_bundle_target(folder)
    with locked(folder), replaced_folder(folder, SavedKind(KIND)) as building:
        manifest = _write(bundle, building)
        _check_written(bundle, building, folder)
        return manifest


def _write(bundle: Bundle, building: Path) -> Manifest:
    write_model(bundle.model, building / MODEL)
    write_table(bundle.candidates, building / CANDIDATES)
    write_table(bundle.queries, building / QUERIES)
    write_table(pa.table({"offset": bundle.seen.offsets}), building / SEEN_OFFSETS)
    write_table(pa.table({"candidate": bundle.seen.candidates}), building / SEEN)
    write_table(pa.table({"events": bundle.popularity}), building / POPULARITY)
    marks = {"towers": bundle.details.towers, "candidates": _digest(bundle.candidates)}
    _write_aligned(_layout(bundle.index), _stored(bundle.index), building / EMBEDDINGS, marks)
    if bundle.features is not None:
        _write_aligned("features", bundle.features, building / FEATURES, marks)
    if not isinstance(bundle.index, ExactIndex):
        write_tensors(building / INDEX, bundle.index.tensors(), ALONE, lambda *_: None, marks)
    if bundle.details.onnx:
        first = bundle.model.encode_candidates(bundle.candidates.slice(0, 1)).whole()
        query = unknown_query_inputs(bundle.model, bundle.queries, bundle.details)
        write_towers(bundle.model, query, first, building, bundle.details.rerank)
    return write_manifest(building, KIND, FORMAT, VERSION, msgspec.to_builtins(bundle.details))


def _check_written(bundle: Bundle, building: Path, folder: Path) -> None:
    """Reads back what was written, before it replaces the target."""
    try:
        read = _read(building, "onnx" if bundle.details.onnx else "torch")
    except SavedFolderError as error:
        raise SavedFolderError(f"{folder} was not written, as it could not be read again: {error}") from error
    version, expected = with_version(read).details.version, bundle.details.version
    if version != expected:
        raise SavedFolderError(f"{folder} was not written: it would read as version {version}; expected {expected}")


def load_bundle(folder: Path, engine: Engine = "torch") -> Bundle:
    """Reads what `save_bundle` wrote; if the folder is replaced during the read, reads the new one.

    Args:
        folder: The folder.
        engine: With `onnx`, the bundle has a `query_tower`.

    Raises:
        ConfigError: The engine is unknown, or the bundle has no ONNX towers.
        MissingExtraError: ONNX Runtime is not installed.
        SavedFolderError: The folder is missing, truncated, altered, of another format or not a bundle, or its parts do
            not belong together.
    """
    if engine not in ("torch", "onnx"):
        raise ConfigError(f"engine={engine!r}; expected torch or onnx")
    for _ in range(ATTEMPTS):
        before = _identity(folder)
        try:
            bundle = _read(folder, engine)
        except SavedFolderError:
            if _identity(folder) == before:
                raise
            continue
        if _identity(folder) == before:
            return bundle
    raise SavedFolderError(f"{folder} was replaced {ATTEMPTS} times while it was being read; try again")


def _read(folder: Path, engine: Engine) -> Bundle:
    manifest = check_folder(folder, KIND, FORMAT)
    details = _details(folder, manifest)
    if engine == "onnx" and not details.onnx:
        raise ConfigError(
            f"{folder} has no ONNX towers; write them with: twotower bundle {quoted(folder)} --out … --onnx"
        )
    try:
        model = load_model(folder / MODEL, mapped=True)
        candidates, queries, offsets, seen, popularity = (
            read_table(listed(folder, manifest, name), mapped=True)
            for name in (CANDIDATES, QUERIES, SEEN_OFFSETS, SEEN, POPULARITY)
        )
        check_ids(candidates[details.candidate_id], details.candidate_id, "candidates", unique=True)
        check_ids(queries[details.query_id], details.query_id, "queries", unique=True)
        _check_title_column(details, candidates)
        seen_lists = _checked_seen(_integers(offsets["offset"]), _integers(seen["candidate"]), candidates, queries)
        events = _integers(popularity["events"])
        _require(len(events) == candidates.num_rows, f"{POPULARITY} has {len(events)} rows")
        marks = {"towers": model_version(model), "candidates": _digest(candidates)}
        _require(details.towers == marks["towers"], f"it names towers {details.towers}, but has {marks['towers']}")
        embeddings = _embeddings(listed(folder, manifest, EMBEDDINGS), marks, details.index, candidates.num_rows)
        _require(embeddings.shape[1] == model.width, f"embeddings have width {embeddings.shape[1]}")
        features = None
        if details.rerank is not None and model.heads[details.rerank.resolved(model.heads).head].reads_features:
            features = _mapped(listed(folder, manifest, FEATURES), marks, "features")
            expected = [candidates.num_rows, model.candidate.input_width]
            _require(list(features.shape) == expected, f"{FEATURES} is {list(features.shape)}; expected {expected}")
        kept = {} if isinstance(details.index, Exact) else _tensors(listed(folder, manifest, INDEX), marks)
        index = details.index.restore(embeddings, kept)
        tower = None
        if engine == "onnx":
            tower = _query_tower(listed(folder, manifest, QUERY), model, queries, details)
    except (SavedFolderError, MissingExtraError):
        raise
    except Exception as error:  # libraries may fail in any way on what a damaged folder holds
        raise SavedFolderError(f"{folder} holds no readable bundle: {type(error).__name__}: {error}") from error
    return Bundle(model, candidates, queries, seen_lists, events, index, details, tower, features)


def _query_tower(path: Path, model: TwoTower, queries: pa.Table, details: Details) -> OnnxTower:
    largest = weight_bytes(model) + GRAPH_BYTES
    _require(path.stat().st_size <= largest, f"{QUERY} has {path.stat().st_size} bytes; expected at most {largest}")
    inputs = unknown_query_inputs(model, queries, details)
    return OnnxTower(path.read_bytes(), details.towers, inputs, model.query.width, largest)


def unknown_query_inputs(model: TwoTower, queries: pa.Table, details: Details) -> list[Tensor]:
    """The inputs of the query tower for an empty request."""
    requests = Requests(model, queries, details.query_id, details.time, details.latest_time)
    return requests.encode([{}], [None])


def _details(folder: Path, manifest: Manifest) -> Details:
    if manifest.format < FORMAT:
        raise SavedFolderError(f"{folder} has format {manifest.format}, of an earlier version; train it again")
    try:
        return msgspec.convert(manifest.details, Details, dec_hook=_settings)
    except Exception as error:  # the details may hold anything
        rescue = f"open its model with twotower.load_model({str(folder / MODEL)!r}) and rebuild it with Retriever.build"
        raise SavedFolderError(
            f"{folder}, written by twotower {manifest.library}, has details that this version cannot read: {error}; "
            f"{rescue}"
        ) from error


def _settings(kind: type, found: Any) -> Any:
    """The settings of an index or of a store."""
    return (INDEXES if kind is IndexSettings else STORES).make(found)


def _layout(index: Index) -> str:
    """How embeddings are stored: by coordinate for exact search, else one embedding after the other."""
    return "coordinates" if isinstance(index, ExactIndex) else "embeddings"


def _stored(index: Index) -> Tensor:
    """The embeddings in their stored layout: `[d, C]` or `[C, d]`."""
    embeddings = index.embeddings.cpu()
    return (embeddings.t() if isinstance(index, ExactIndex) else embeddings).contiguous()


def _write_aligned(name: str, matrix: Tensor, path: Path, marks: dict[str, str]) -> None:
    """Writes a float32 matrix as safetensors, with its numbers aligned, which the format does not require.

    Products of numbers with another alignment may be rounded differently.
    """
    entry = {"dtype": "F32", "shape": list(matrix.shape), "data_offsets": [0, 4 * matrix.numel()]}
    header = msgspec.json.encode({"__metadata__": marks, name: entry})
    header += b" " * (-(len(header) + 8) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(matrix.numpy().data)


def _embeddings(path: Path, marks: dict[str, str], settings: IndexSettings, size: int) -> Tensor:
    """The embeddings `[C, d]`."""
    by_coordinate = isinstance(settings, Exact)
    stored = _mapped(path, marks, "coordinates" if by_coordinate else "embeddings")
    embeddings = stored.t() if by_coordinate else stored
    _require(embeddings.shape[0] == size, f"{path.name} has {embeddings.shape[0]} embeddings for {size} candidates")
    return embeddings


def _mapped(path: Path, marks: dict[str, str], name: str) -> Tensor:
    """A memory-mapped float32 matrix; the file's pages are read on demand."""
    with safe_open(path, framework="pt") as file:
        _check_marks(path, file.metadata(), marks)
        stored: Tensor = file.get_tensor(name)
    _require(stored.dtype == torch.float32 and stored.dim() == 2, f"{path.name} does not hold a float32 matrix")
    return stored


def _tensors(path: Path, marks: dict[str, str]) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        _check_marks(path, file.metadata(), marks)
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


def _check_marks(path: Path, found: dict[str, str] | None, marks: dict[str, str]) -> None:
    for what, version in marks.items():
        carried = (found or {}).get(what)
        _require(carried == version, f"{path.name} was made for {what} {carried}; expected {version}")


def _checked_seen(offsets: IntArray, candidates: IntArray, catalogue: pa.Table, queries: pa.Table) -> Seen:
    ascending = len(offsets) == queries.num_rows + 1 and offsets[0] == 0 and bool((np.diff(offsets) >= 0).all())
    _require(ascending and offsets[-1] == len(candidates), f"{SEEN_OFFSETS} does not fit {SEEN}")
    inside = len(candidates) == 0 or (candidates.min() >= 0 and candidates.max() < catalogue.num_rows)
    _require(bool(inside), f"{SEEN} names rows that the catalogue does not have")
    return Seen(offsets, candidates)


def _integers(column: pa.ChunkedArray) -> IntArray:
    _require(column.type == pa.int64() and column.null_count == 0, f"a column is {column.type}; expected int64")
    numbers: IntArray = column.to_numpy()
    return numbers


def _check_title_column(details: Details, candidates: pa.Table) -> None:
    _require(details.title in candidates.column_names, f"the candidates have no title column {details.title!r}")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _digest(table: pa.Table) -> str:
    return content_digest(table)[:12]


def _identity(folder: Path) -> tuple[int, int] | None:
    """Identity of a folder, which changes when another one replaces it; None if there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
