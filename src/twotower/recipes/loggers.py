"""`[[loggers]]` of a config: where its trainings are logged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from twotower.training.loggers import LOGGERS, Logger

LoggerSettings = dict[str, Any]
"""The `kind` of a logger and its arguments."""


def loggers_for(settings: Iterable[Mapping[str, Any]], name: str) -> list[Logger]:
    """Creates the loggers of one training, named after it, with any name from the config in front.

    Args:
        settings: The settings of each logger.
        name: Name of the training.

    Raises:
        ConfigError: A logger's kind or an argument is unknown.
        MissingExtraError: Its library is not installed.
    """
    return [LOGGERS.make({**one, "name": ", ".join(filter(None, [one.get("name"), name]))}) for one in settings]


def in_folder(settings: LoggerSettings, folder: Path) -> LoggerSettings:
    """The settings of a logger with its `folder`, if any, resolved relative to the config's folder.

    Example:
        >>> in_folder({"kind": "tensorboard", "folder": "logs"}, Path("/work"))["folder"]
        '/work/logs'
    """
    inside = settings.get("folder")
    return {**settings, "folder": os.path.abspath(folder / inside)} if isinstance(inside, str) else settings  # noqa: PTH100
