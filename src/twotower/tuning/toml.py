"""Writing a config as the TOML that `read_config` reads."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import tomli_w

from twotower.files import write_file
from twotower.study.config import Config
from twotower.tuning.settings import without_none

PATHS = ("interactions", "queries", "candidates")


def write_config(config: Config, path: Path, comment: str) -> None:
    """Writes a config; relative paths of its data become relative to the file's folder, as they are read.

    Args:
        config: With paths relative to the current folder, as `read_config` gives them.
        path: The file.
        comment: What stands above it.
    """
    data = {name: _seen_from(path.parent, getattr(config.data, name)) for name in PATHS}
    moved = msgspec.structs.replace(config, data=msgspec.structs.replace(config.data, **data))
    settings = without_none(msgspec.to_builtins(moved))
    for side in ("query", "candidate"):
        if not settings["model"][side]:
            del settings["model"][side]  # none given: what the data has
    if not settings["tune"]:
        del settings["tune"]
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    write_file(path, head + tomli_w.dumps(settings))


def _seen_from(folder: Path, name: str | None) -> str | None:
    if name is None or Path(name).is_absolute():
        return name
    return os.path.relpath(Path(name).resolve(), folder.resolve())
