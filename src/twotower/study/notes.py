"""A study's results as notes that a bundle keeps and shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from twotower.errors import ConfigError
from twotower.retrieval.bundle import Details
from twotower.study.results import read_results


def study_notes(folder: Path, details: Details) -> dict[str, Any]:
    """The results of a study of a bundle's own data, as notes of the bundle.

    Args:
        folder: What `twotower study` wrote.
        details: What the bundle says of itself: the name of its data and, in the notes that `twotower train` made, the
            fingerprint of its split.

    Raises:
        ConfigError: The study is of other data or of another split.
        SavedFolderError: The folder holds no study's results.
    """
    study = read_results(folder / "results.json")
    split = details.notes.get("split", "unknown")
    fingerprint = details.notes.get("fingerprint", study.data.fingerprint)  # only `twotower train` notes it
    if (study.data.name, study.data.fingerprint) != (details.data, fingerprint):
        raise ConfigError(
            f"{folder} is a study of {study.data.name}, split {study.data.split}, fingerprint "
            f"{study.data.fingerprint}; the bundle is of {details.data}, split {split}, fingerprint {fingerprint}: "
            f"expected a study of the same data and split"
        )
    return {"study": msgspec.to_builtins(study)}
