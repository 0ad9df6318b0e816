"""What a training is, by name: two trainings are the same exactly when all of it is."""

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
from twotower.training.settings import TrainerSettings

Identity = dict[str, str]
"""Sixteen digits for each of `settings`, `loss`, `model` and `data`."""


def identity_of(settings: TrainerSettings, model: TwoTower, train: Log, validation: Dataset | None) -> Identity:
    """What a training is: its settings, its loss, its model and its data.

    Of a loss or a schedule of the user's own, it is the class and the attributes. Of a streamed log the size of the
    row groups and of the buffer belongs to it: they decide the order of the events.

    Raises:
        ConfigError: An attribute of a loss or schedule cannot be written down.
    """
    apart = "loss", "tasks", "sharding"  # which says where the rows are, and nothing of what becomes of them
    others = {name: getattr(settings, name) for name in settings.__struct_fields__ if name not in apart}
    if settings.tasks:
        others["tasks"] = [[_name_of(type(task)), task] for task in settings.tasks]
    return {
        "settings": digest(others | {"schedule": [_name_of(type(settings.schedule)), settings.schedule]}),
        "loss": digest([_name_of(type(settings.loss)), settings.loss, _probabilities(settings, train)]),
        "model": digest(model.settings()),
        "data": digest(_data(train, validation, [task.column for task in settings.tasks if task.column is not None])),
    }


def digest(value: Any) -> str:
    """Sixteen digits of plain data, arrays and objects whose attributes are such: the same in every process.

    Raises:
        ConfigError: It holds something else.

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
            f"a checkpoint cannot tell {value!r} from others: {error}; expected attributes of plain data or arrays"
        ) from error
    return hashlib.sha256(encoded).hexdigest()[:16]


def _data(train: Log, validation: Dataset | None, columns: Sequence[str]) -> list[str | None]:
    """What names the events, and the columns of them that tasks learn from, which no fingerprint of events has."""
    events = train.in_memory
    read = [] if events is None or not columns else [content_digest(events.interactions.select(list(columns)))]
    return [*train.identity(), None if validation is None else fingerprint(validation), *read]


def _probabilities(settings: TrainerSettings, train: Log) -> Any:
    """The column of the candidates that the loss reads, which no fingerprint of events has."""
    loss = settings.loss
    if not isinstance(loss, InBatchSoftmax) or loss.draw_probability is None:
        return None
    return train.candidate_column(loss.draw_probability).to_pylist()


def _plain(value: Any) -> Any:
    """What stands for an object: its bytes, its name, or its class and attributes."""
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
