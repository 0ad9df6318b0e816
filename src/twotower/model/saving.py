"""Saves and loads a model: config as JSON, the features' learned state as Arrow, weights as safetensors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from twotower.arguments import checks_arguments
from twotower.arrow import content_digest, read_table, write_table
from twotower.errors import MissingExtraError, NotFittedError, SavedFolderError
from twotower.features import Feature
from twotower.features.lookups import Table
from twotower.features.record import Record
from twotower.features.recorded import record_groups
from twotower.files import check_folder_target, replaced_folder
from twotower.model.heads import head_from_settings
from twotower.model.sharding import ranks_sharing, shards_of
from twotower.model.tower import tower_from_settings
from twotower.model.tower_module import features_of
from twotower.model.two_tower import MODELS, TwoTower
from twotower.saved import Manifest, SavedKind, check_folder, listed, write_manifest
from twotower.tensors import write_tensors
from twotower.version import VERSION

KIND = "twotower model"
FORMAT = 4
MAX_CONFIG_BYTES = 1 << 18
"""Refuse a larger config, in bytes."""

CONFIG, WEIGHTS, VOCABULARIES, RECORDS = "config.json", "weights.safetensors", "vocabularies", "records"


def model_version(model: TwoTower) -> str:
    """A 12-digit hash of a model's content: its settings, its features' learned state and its weights.

    A loaded model has the version of the saved one. For a sharded model, all ranks must call this together.
    """
    digest = hashlib.sha256(msgspec.json.encode(_plain_numbers(msgspec.to_builtins(model.settings()))))
    for name, feature in _named_features(model):
        digest.update(name.encode())
        digest.update(content_digest(feature.learned()).encode())
    for number, (_, sharing) in enumerate(record_groups(features_of(model.query))):
        assert sharing[0].record is not None
        for table in sharing[0].record.tables():
            digest.update(str(number).encode())
            digest.update(content_digest(table).encode())
    shards = shards_of(model)
    for name, tensor in model.state_dict().items():
        shard = shards.get(name)
        shape = list(tensor.shape) if shard is None else [shard.rows, tensor.shape[1]]
        digest.update(f"{name} {tensor.dtype} {shape}".encode())
        for block in [tensor] if shard is None else shard.gathered(tensor):
            digest.update(block.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


@checks_arguments
def save_model(model: TwoTower, folder: str | Path) -> Manifest:
    """Saves the model to a folder: writes it next to the target, checks that it loads, and renames it into place.

    The folder may exist if it is empty or holds a saved model and nothing else.

    For a sharded model, all ranks must call this together; the first rank writes the model with all rows.

    Raises:
        ConfigError: The folder must not be replaced, or cannot be written.
        NotFittedError: The model has not learned from data yet.
        SavedFolderError: The written model cannot be loaded; the folder is unchanged.

    Example:
        >>> import tempfile
        >>> import pyarrow as pa
        >>> from twotower import Category, Tower, data
        >>> log = pa.table({"who": ["ann", "bob"], "what": ["tea", "rum"]})
        >>> log = data.from_tables(log, query_id="who", candidate_id="what")
        >>> model = TwoTower(Tower([Category("who", 8)]), Tower([Category("what", 8)])).learn(log)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_model(model, folder + "/model")
        ...     model_version(load_model(folder + "/model")) == model_version(model)
        True
    """
    _require_fitted(model)
    ranks = ranks_sharing(model)
    ranks.from_first(lambda: str(check_folder_target(Path(folder), SavedKind(KIND))), str)
    if not ranks.is_first:
        _write_weights(model, Path())
        model_version(model)
    return ranks.from_first(lambda: _saved(model, folder), Manifest)


def _saved(model: TwoTower, folder: str | Path) -> Manifest:
    with replaced_folder(Path(folder), SavedKind(KIND)) as building:
        manifest = write_model(model, building)
        try:
            written, expected = model_version(load_model(building)), manifest.details["version"]
        except SavedFolderError as error:
            raise SavedFolderError(f"{folder} was not written, as it could not be read again: {error}") from error
        if written != expected:
            raise SavedFolderError(f"{folder} was not written: it loads as version {written}; expected {expected}")
        return manifest


def write_model(model: TwoTower, building: Path) -> Manifest:
    """Writes the model into an empty folder, which is created if missing.

    Raises:
        NotFittedError: The model has not learned from data yet.
    """
    _require_fitted(model)
    building.mkdir(exist_ok=True)
    (building / CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(model.settings())))
    (building / VOCABULARIES).mkdir()
    for name, feature in _named_features(model):
        write_table(feature.learned(), building / VOCABULARIES / name)
    for number, (_, sharing) in enumerate(record_groups(features_of(model.query))):
        (building / RECORDS).mkdir(exist_ok=True)
        assert sharing[0].record is not None
        events, items = sharing[0].record.tables()
        write_table(events, building / RECORDS / f"{number}-events.arrow")
        write_table(items, building / RECORDS / f"{number}-items.arrow")
    _write_weights(model, building)
    details = {"parameters": model.parameter_count, "version": model_version(model)}
    return write_manifest(building, KIND, FORMAT, VERSION, details)


def _write_weights(model: TwoTower, building: Path) -> None:
    """Writes the weights; ranks of a sharded model call it together, and the first one writes the file."""
    shards = shards_of(model)
    write_tensors(building / WEIGHTS, model.state_dict(), ranks_sharing(model), lambda name, _: shards.get(name))


def _require_fitted(model: TwoTower) -> None:
    if not model.is_fitted:
        raise NotFittedError("the model has not learned from data yet; train it before saving it")


@checks_arguments
def load_model(folder: str | Path, *, mapped: bool = False) -> TwoTower:
    """Loads a model that `save_model` wrote; its scores are bit-identical, and it is in evaluation mode.

    Args:
        folder: The folder.
        mapped: Whether embedding tables are memory-mapped: read on demand, and in memory once for all processes that
            map them. Changes to the model stay private; the file must not be changed in place meanwhile.

    Raises:
        SavedFolderError: The folder is missing, truncated, altered, in a newer format or not a model.
    """
    folder = Path(folder)
    manifest = check_folder(folder, KIND, FORMAT)
    if manifest.format < FORMAT:
        raise SavedFolderError(f"{folder} was written by an earlier version of twotower; train the model again")
    try:
        config, weights = (listed(folder, manifest, name) for name in (CONFIG, WEIGHTS))
        if config.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"{CONFIG} has {config.stat().st_size} bytes; expected at most {MAX_CONFIG_BYTES}")
        settings = msgspec.json.decode(config.read_bytes(), type=dict[str, Any])
        tables = {name: read_table(folder / name, mapped=mapped) for name in manifest.files if name.endswith(".arrow")}
        with torch.device("meta"):  # shapes only, no memory
            _check_weights(settings, tables, weights)
        model = _restored(settings, tables)
        _take_weights(model, load_file(weights), mapped)
    except (SavedFolderError, MissingExtraError):
        raise
    except Exception as error:  # a broken folder may make features raise anything
        raise SavedFolderError(f"{folder} holds no readable model: {type(error).__name__}: {error}") from error
    model.is_fitted = True
    return model.eval()


def _take_weights(model: TwoTower, weights: dict[str, Tensor], mapped: bool) -> None:
    """Copies weights, whose names and shapes fit, into the model; embedding tables may stay in the file instead."""
    tables = {name: one for name, one in model.named_parameters(remove_duplicate=False) if isinstance(one, Table)}
    kept = {name for name, one in tables.items() if mapped and one.dtype == weights[name].dtype}
    for name in kept:
        tables[name].data = weights[name]
    model.load_state_dict({name: one for name, one in weights.items() if name not in kept}, strict=not kept)


def model_from_settings(settings: dict[str, Any]) -> TwoTower:
    """Builds an unfitted model from `TwoTower.settings`.

    Raises:
        ConfigError: A setting is unknown or invalid.
    """
    arguments = dict(settings)
    query, candidate = (tower_from_settings(arguments.pop(side)) for side in ("query", "candidate"))
    heads = {name: head_from_settings(head) for name, head in arguments.pop("heads", {}).items()}
    if "kind" not in arguments:
        model = TwoTower(query, candidate, **arguments)
    else:
        model = MODELS.make(arguments | {"query": query, "candidate": candidate})
    model.add_heads(heads)
    return model


def _restored(settings: dict[str, Any], tables: dict[str, pa.Table]) -> TwoTower:
    """Builds the model with its features' learned state; the weights are not loaded yet."""
    model = model_from_settings(settings)
    for name, feature in _named_features(model):
        feature.restore(tables[f"{VOCABULARIES}/{name}"])
    for number, (key, sharing) in enumerate(record_groups(features_of(model.query))):
        events, items = (tables[f"{RECORDS}/{number}-{part}.arrow"] for part in ("events", "items"))
        record = Record.restored(events, items, key)
        for feature in sharing:
            feature.take_record(record)
    return model


def _check_weights(settings: dict[str, Any], tables: dict[str, pa.Table], weights: Path) -> None:
    """Refuses settings that do not match the weights in the file, before any memory is allocated for them."""
    with safe_open(weights, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    for side in ("query", "candidate"):
        if settings[side].get("cross", 0) > len(shapes):
            raise ValueError(f"the {side} tower has {settings[side]['cross']} cross layers, but {len(shapes)} weights")
    for name, head in settings.get("heads", {}).items():
        if head.get("count", 0) > len(shapes):
            raise ValueError(f"the head {name!r} has {head['count']} cross layers, but there are {len(shapes)} weights")
    wanted = {name: tuple(tensor.shape) for name, tensor in _restored(settings, tables).state_dict().items()}
    for name in wanted.keys() | shapes.keys():
        if wanted.get(name) != shapes.get(name):
            raise ValueError(f"{name} is {shapes.get(name)} in {weights.name}, but {wanted.get(name)} by {CONFIG}")


def _plain_numbers(settings: Any) -> Any:
    """The settings with whole floats as integers, since a rate given as 0 is loaded as 0.0."""
    if isinstance(settings, dict):
        return {name: _plain_numbers(value) for name, value in settings.items()}
    if isinstance(settings, list):
        return [_plain_numbers(value) for value in settings]
    return int(settings) if isinstance(settings, float) and settings.is_integer() else settings


def _named_features(model: TwoTower) -> list[tuple[str, Feature]]:
    """Every feature with the name of its vocabulary file."""
    return [
        (f"{side}-{place}.arrow", feature)
        for side, tower in (("query", model.query), ("candidate", model.candidate))
        for place, feature in enumerate(features_of(tower))
    ]
