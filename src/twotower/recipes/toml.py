"""Writes a config as TOML that `read_config` can read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import tomli_w

from twotower.files import write_file
from twotower.recipes.config import Config
from twotower.recipes.overlay import without_none


def write_config(config: Config, path: Path, comment: str) -> None:
    """Writes a config; the paths of its data stay absolute, as returned by `read_config`.

    Args:
        config: The config.
        path: The file.
        comment: A comment at the top of the file.
    """
    settings = without_none(msgspec.to_builtins(config))
    for side in ("query", "candidate"):
        if not settings["model"][side]:
            del settings["model"][side]  # empty: use the default features
    for name in ("tune", "variants", "imports"):
        if not settings[name]:
            del settings[name]
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    write_file(path, head + tomli_w.dumps(settings))
