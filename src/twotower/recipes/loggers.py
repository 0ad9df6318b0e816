"""`[[loggers]]` of a config: what its trainings are logged to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from twotower.training.loggers import LOGGERS, Logger

LoggerSettings = dict[str, Any]
"""The `kind` of a logger and its arguments."""


def loggers_for(settings: Iterable[Mapping[str, Any]], name: str) -> list[Logger]:
    """The loggers of one training, which they call by its name, after one that the config gives.

    Args:
        settings: Those of each logger.
        name: What the training is called.

    Raises:
        ConfigError: A logger's kind is unknown, or an argument is.
        MissingExtraError: Its library is not installed.
    """
    return [LOGGERS.make({**one, "name": ", ".join(filter(None, [one.get("name"), name]))}) for one in settings]


def in_folder(settings: LoggerSettings, folder: Path) -> LoggerSettings:
    """The settings of a logger; its `folder`, where it has one, is taken from the config's.

    Example:
        >>> in_folder({"kind": "tensorboard", "folder": "logs"}, Path("/work"))["folder"]
        '/work/logs'
    """
    inside = settings.get("folder")
    return {**settings, "folder": os.path.abspath(folder / inside)} if isinstance(inside, str) else settings  # noqa: PTH100
