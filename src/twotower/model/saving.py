"""Saving and loading a model: config as JSON, what features learned as Arrow, weights as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from twotower.errors import NotFittedError, SavedFolderError, TwoTowerError
from twotower.features import Feature
from twotower.features.record import Record
from twotower.features.recorded import Recorded, record_groups
from twotower.files import replaced_folder
from twotower.model.two_tower import TwoTower, features_of, model_from_settings
from twotower.saved import check_folder, read_table, write_manifest, write_table
from twotower.version import VERSION

KIND = "twotower model"
FORMAT = 2
CONFIG, WEIGHTS, VOCABULARIES, RECORDS = "config.json", "weights.safetensors", "vocabularies", "records"


def save_model(model: TwoTower, folder: str | Path) -> None:
    """Writes the model to a folder, beside its target and then renamed over it.

    Raises:
        NotFittedError: The model has not learned from data yet.
    """
    if not model.is_fitted:
        raise NotFittedError("the model has not learned from data yet; train it before saving it")
    with replaced_folder(Path(folder)) as building:
        (building / CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(model.settings())))
        (building / VOCABULARIES).mkdir()
        for name, feature in _named_features(model):
            if not isinstance(feature, Recorded):
                write_table(feature.learned(), building / VOCABULARIES / name)
        for number, (_, sharing) in enumerate(record_groups(features_of(model.query))):
            (building / RECORDS).mkdir(exist_ok=True)
            assert sharing[0].record is not None
            events, items = sharing[0].record.tables()
            write_table(events, building / RECORDS / f"{number}-events.arrow")
            write_table(items, building / RECORDS / f"{number}-items.arrow")
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, building / WEIGHTS)
        write_manifest(building, KIND, FORMAT, VERSION, {"parameters": model.parameter_count})


def load_model(folder: str | Path) -> TwoTower:
    """Reads what `save_model` wrote; the model gives the same scores, to the bit, and is in evaluation mode.

    Raises:
        SavedFolderError: The folder is missing, truncated, altered, of a newer format or not a model.
    """
    folder = Path(folder)
    if check_folder(folder, KIND, FORMAT).format < FORMAT:
        raise SavedFolderError(f"{folder} was written by an earlier version of twotower; train the model again")
    try:
        settings = msgspec.json.decode((folder / CONFIG).read_bytes(), type=dict[str, Any])
        model = model_from_settings(settings)
        for name, feature in _named_features(model):
            if not isinstance(feature, Recorded):
                feature.restore(read_table(folder / VOCABULARIES / name))
        for number, (key, sharing) in enumerate(record_groups(features_of(model.query))):
            events, items = (read_table(folder / RECORDS / f"{number}-{part}.arrow") for part in ("events", "items"))
            record = Record.restored(events, items, key)
            for feature in sharing:
                feature.take_record(record)
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, KeyError, pa.ArrowInvalid, SafetensorError, msgspec.DecodeError, RuntimeError) as error:
        if isinstance(error, TwoTowerError):
            raise
        raise SavedFolderError(f"{folder} holds no model that can be read: {error}") from error
    model.is_fitted = True
    return model.eval()


def _named_features(model: TwoTower) -> list[tuple[str, Feature]]:
    """Every feature with the name of its vocabulary's file."""
    return [
        (f"{side}-{place}.arrow", feature)
        for side, tower in (("query", model.query), ("candidate", model.candidate))
        for place, feature in enumerate(features_of(tower))
    ]
