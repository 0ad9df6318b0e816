"""A study's results as notes that a bundle keeps and shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from twotower.errors import ConfigError
from twotower.experiments.results import RESULTS, read_results
from twotower.retrieval.bundle import Details


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
    study = read_results(folder / RESULTS)
    split = details.notes.get("split", "unknown")
    fingerprint = details.notes.get("fingerprint")  # only `twotower train` notes it
    if not any(cut.name == details.data and fingerprint in (None, cut.fingerprint) for cut in study.cuts):
        first = study.cuts[0]
        raise ConfigError(
            f"{folder} is a study of {first.name}, split {first.split}, fingerprint {first.fingerprint}; the bundle is "
            f"of {details.data}, split {split}, fingerprint {fingerprint}: expected a study of the same data and split"
        )
    return {"study": msgspec.to_builtins(study)}
