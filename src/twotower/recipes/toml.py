"""Writing a config as the TOML that `read_config` reads."""

from __future__ import annotations

from pathlib import Path

import msgspec
import tomli_w

from twotower.files import write_file
from twotower.recipes.config import Config
from twotower.recipes.overlay import without_none


def write_config(config: Config, path: Path, comment: str) -> None:
    """Writes a config; the paths of its data stay absolute, as `read_config` gives them.

    Args:
        config: What to write.
        path: The file.
        comment: What stands above it.
    """
    settings = without_none(msgspec.to_builtins(config))
    for side in ("query", "candidate"):
        if not settings["model"][side]:
            del settings["model"][side]  # none given: what the data has
    for name in ("tune", "variants", "imports"):
        if not settings[name]:
            del settings[name]
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    write_file(path, head + tomli_w.dumps(settings))
