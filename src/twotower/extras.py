"""Extras: optional dependencies, and the line that installs a missing one."""

from __future__ import annotations

import importlib
from types import ModuleType

from twotower.errors import ConfigError


def require(module: str, extra: str) -> ModuleType:
    """Imports a module that one of twotower's extras installs.

    Args:
        module: Its name, such as `optuna`.
        extra: The extra that installs it, such as `tune`.

    Raises:
        ConfigError: It is not installed; the message has the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise  # it is there; something that it needs is not
        raise ConfigError(f"this needs {module}, which is not installed: pip install 'twotower[{extra}]'") from error
