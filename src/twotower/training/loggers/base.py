"""`Logger`: base class of the loggers, and the metrics and settings that they log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from twotower.arguments import checks_arguments
from twotower.errors import ConfigError
from twotower.evaluation.history import Epoch, TrainingHistory
from twotower.kinds import Kinds
from twotower.training.callbacks import Callback, TrainingState

LOGGERS: Kinds[type[Logger]] = Kinds("logger")
"""Loggers by kind. `@LOGGERS.register` makes a custom logger available to `[[loggers]]` of a config."""


class Logger(Callback):
    """Base class of loggers, which write each epoch's metrics somewhere.

    A resumed training is logged in full, including the epochs before the checkpoint.

    Args:
        name: Name of the training in the log.

    Example:
        >>> class Lines(Logger):
        ...     kind = "lines"
        ...     def open(self, settings: Mapping[str, Any]) -> None:
        ...         self.lines: list[str] = []
        ...     def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        ...         self.lines.append(f"{epoch}: {figures['training/loss']:.1f}")
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__init__" in vars(cls):
            cls.__init__ = checks_arguments(cls.__init__, cls.__name__)  # type: ignore[method-assign]

    _is_open = False

    def __init__(self, name: str = "training") -> None:
        if not name:
            raise ConfigError("name=''; expected a name for the training", field="name")
        self.name = name

    def open(self, settings: Mapping[str, Any]) -> None:
        """Starts a log; `settings` are the trainer's and the model's, as plain data."""

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Writes an epoch's metrics, such as `training/loss` and `all/top_100`."""
        raise NotImplementedError

    def close(self, failed: bool) -> None:
        """Ends the log; `failed` is True if an error or an interruption ended the training."""

    def on_start(self, state: TrainingState) -> None:
        """Starts the log; if training resumes, logs the earlier epochs first."""
        self.open(settings_of(state))
        self._is_open = True
        for epoch in state.history.epochs:
            self.log(epoch.epoch, figures_of(epoch))

    def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        """Writes the epoch's metrics."""
        del state
        self.log(epoch.epoch, figures_of(epoch))

    def on_end(self, state: TrainingState) -> None:
        """Ends the log."""
        del state
        self._end(failed=False)

    def on_failure(self, state: TrainingState, error: BaseException) -> None:
        """Ends the log, if it was started, and marks the training as failed."""
        del state, error
        self._end(failed=True)

    def _end(self, failed: bool) -> None:
        if self._is_open:
            self._is_open = False
            self.close(failed)


def figures_of(epoch: Epoch) -> dict[str, float]:
    """An epoch's metrics by name, such as `training/loss` for training and `all/mrr` for validation.

    Example:
        >>> figures_of(Epoch(1, loss=2.5, learning_rate=0.01, seconds=0.1))["training/loss"]
        2.5
    """
    (row,) = TrainingHistory(epochs=[epoch]).to_table().to_pylist()
    return {
        name.replace(".", "/", 1) if "." in name else f"training/{name}": float(value)
        for name, value in row.items()
        if name != "epoch" and value is not None
    }


def settings_of(state: TrainingState) -> dict[str, Any]:
    """The settings of a training and its model as plain data; other objects are replaced by their `repr`."""
    return {
        "training": msgspec.to_builtins(state.settings, enc_hook=repr),
        "model": msgspec.to_builtins(state.model.settings(), enc_hook=repr),
        "parameters": state.model.parameter_count,
    }


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens nested tables, with dotted keys; lists become JSON.

    Example:
        >>> flat({"training": {"epochs": 3, "ks": [1, 5]}})
        {'training.epochs': 3, 'training.ks': '[1, 5]'}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{below}": one for below, one in flat(value).items()}
        else:
            found[name] = json.dumps(value) if isinstance(value, list) else value
    return found
