"""Imports modules named by the user, which define their own features and other parts."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from twotower.errors import ConfigError


def located(names: Iterable[str], folder: Path) -> tuple[str, ...]:
    """Replaces names of files or packages in a folder by absolute paths, so that other processes find them.

    Other names, such as dotted ones, are unchanged and looked up on `sys.path`.

    Args:
        names: Names of modules, such as `my_features`, or paths of `.py` files.
        folder: The folder that they are relative to.

    Raises:
        ConfigError: A path does not exist, or a name is not a valid module name.
    """
    return tuple(_located(name, folder.absolute()) for name in names)


def import_modules(names: Iterable[str]) -> None:
    """Imports modules by name, or by the absolute path that `located` returns.

    The folder of a path is appended to the end of `sys.path`.

    Raises:
        ConfigError: There is no such module, or importing it fails; the message gives the cause.
    """
    for name in names:
        try:
            _import(name)
        except ConfigError:
            raise
        except Exception as error:  # user code may raise anything
            raise ConfigError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def _import(name: str) -> None:
    path = Path(name)
    if not path.is_absolute():
        importlib.import_module(name)
        return
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    found = getattr(importlib.import_module(path.stem), "__file__", None) or ""
    if not Path(found).resolve().is_relative_to(path.resolve()):
        raise ConfigError(f"module {name!r} cannot be imported: another module has the same name, {found}; rename it")


def _located(name: str, folder: Path) -> str:
    if name.endswith(".py") or os.sep in name:
        path = Path(os.path.normpath(folder / name))
        if not path.exists():
            raise ConfigError(f"module {name!r} cannot be imported: {path} does not exist")
        return str(path)
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"module {name!r} cannot be imported; expected a name such as my_features, or a .py file")
    for path in (folder / f"{name}.py", folder / name):
        if path.is_file() or (path / "__init__.py").is_file():
            return str(path)
    return name
