"""The identity of a training: digests of its settings, loss, model and data, which a checkpoint must match."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any

import msgspec
import numpy as np
from torch import Tensor

from twotower.arrow import content_digest
from twotower.data.dataset import Dataset
from twotower.data.fingerprints import fingerprint
from twotower.data.log import Log
from twotower.errors import ConfigError
from twotower.model.losses import InBatchSoftmax
from twotower.model.two_tower import TwoTower
from twotower.training.batches import Read
from twotower.training.settings import TrainerSettings

Identity = dict[str, str]
"""Sixteen hex digits for each of `settings`, `loss`, `model` and `data`."""


def identity_of(settings: TrainerSettings, model: TwoTower, train: Log, validation: Dataset | None) -> Identity:
    """Digests of the settings, loss, model and data of a training.

    A custom loss or schedule is identified by its class and attributes. For a streamed log, the sizes of row groups
    and buffer are included, since they determine the order of the events.

    Raises:
        ConfigError: An attribute of a loss or schedule cannot be serialised.
    """
    separate = "loss", "tasks", "sharding"  # sharding decides only where rows are kept, not the result
    others = {name: getattr(settings, name) for name in settings.__struct_fields__ if name not in separate}
    if settings.tasks:
        others["tasks"] = [[_name_of(type(task)), task] for task in settings.tasks]
    return {
        "settings": digest(others | {"schedule": [_name_of(type(settings.schedule)), settings.schedule]}),
        "loss": digest([_name_of(type(settings.loss)), settings.loss, _probabilities(settings, train)]),
        "model": digest(model.settings()),
        "data": digest(_data(train, validation, Read.by(settings.tasks, train).names)),
    }


def digest(value: Any) -> str:
    """Sixteen hex digits of the SHA-256 of plain data, arrays and objects of them; the same in every process.

    Raises:
        ConfigError: The value contains something else.

    Example:
        >>> digest({"a": 1, "b": np.ones(2)}) == digest({"b": np.ones(2), "a": 1})
        True
        >>> digest(np.ones(2)) == digest(np.ones(3))
        False
    """
    try:
        encoded = msgspec.json.encode(value, enc_hook=_plain, order="deterministic")
    except (TypeError, RecursionError) as error:
        raise ConfigError(
            f"a checkpoint cannot identify {value!r}: {error}; expected attributes of plain data or arrays"
        ) from error
    return hashlib.sha256(encoded).hexdigest()[:16]


def _data(train: Log, validation: Dataset | None, columns: Sequence[str]) -> list[str | None]:
    """Fingerprints of the events, and a digest of the task columns, which event fingerprints do not cover."""
    events = train.in_memory
    read = [] if events is None or not columns else [content_digest(events.interactions.select(list(columns)))]
    return [*train.identity(), None if validation is None else fingerprint(validation), *read]


def _probabilities(settings: TrainerSettings, train: Log) -> Any:
    """The candidate column that the loss reads, which event fingerprints do not cover."""
    loss = settings.loss
    if not isinstance(loss, InBatchSoftmax) or loss.draw_probability is None:
        return None
    return train.candidate_column(loss.draw_probability).to_pylist()


def _plain(value: Any) -> Any:
    """Plain data that represents an object: a digest of its bytes, its name, or its class and attributes."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        data = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return [str(value.dtype), list(value.shape), data]
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return _name_of(value)
    return {"class": _name_of(type(value))} | (vars(value) if hasattr(value, "__dict__") else {"is": repr(value)})


def _name_of(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
