"""Resolves paths in the settings of features, which are relative to the config's folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twotower.features.base import FEATURES


def features_in_folder(settings: Any, folder: Path) -> Any:
    """A part of a config with the paths of all its features made absolute.

    Args:
        settings: Tables, lists and values from TOML.
        folder: The config's folder.

    Example:
        >>> features_in_folder({"candidate": [{"kind": "text_encoder", "model": "minilm"}]}, Path("/work"))
        {'candidate': [{'kind': 'text_encoder', 'model': '/work/minilm'}]}
    """
    if isinstance(settings, list):
        return [features_in_folder(one, folder) for one in settings]
    if not isinstance(settings, dict):
        return settings
    kind = settings.get("kind")
    paths = getattr(FEATURES[kind], "paths", ()) if isinstance(kind, str) and kind in FEATURES else ()
    return {
        name: os.path.abspath(folder / value)  # noqa: PTH100 (keep symlinks: their targets may change)
        if name in paths and isinstance(value, str)
        else features_in_folder(value, folder)
        for name, value in settings.items()
    }
