"""What twotower finds at a path, so that an error says which command takes it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import msgspec

MANIFEST = "manifest.json"
"""The file that marks a saved model or bundle."""

EXPERIMENT = "experiment.json"
"""The file that marks a study, a tuning or an unfinished training."""


class _Marker(msgspec.Struct, frozen=True):
    kind: str


@dataclass(frozen=True)
class Found:
    """What is at a path.

    Attributes:
        what: What it is, such as `a study`.
        advice: What to do with it: a sentence without a full stop.
    """

    what: str
    advice: str


def what_is(path: Path) -> Found | None:
    """What is at a path; None if twotower did not write it and it is no config.

    Example:
        >>> what_is(Path("shop.toml")).what
        'a config'
    """
    if path.suffix == ".toml":
        return Found("a config", f"Train a model from it: twotower train {quoted(path)} --out BUNDLE")
    saved = {
        "twotower retriever": Found("a bundle", "For a bundle, see twotower evaluate, recommend, bundle and serve"),
        "twotower model": _of_model(path),
        "twotower triton repository": Found("a Triton model repository", "Triton Inference Server takes it"),
    }
    of_study = f"Make a bundle of one of its runs: twotower bundle {quoted(path)} --run NAME --out BUNDLE"
    of_tuning = f"Train its best config: twotower train {quoted(path / 'best.toml')} --out BUNDLE"
    experiments = {
        "study": Found("a study", of_study),
        "tuning": Found("a tuning", of_tuning),
        "training": Found("an unfinished training", "Rerun its twotower train to finish it"),
    }
    return saved.get(_kind(path / MANIFEST)) or experiments.get(_kind(path / EXPERIMENT))


def quoted(path: Path) -> str:
    """A path as a command line needs it.

    Example:
        >>> quoted(Path("my shop"))
        "'my shop'"
    """
    return shlex.quote(str(path))


def not_this(path: Path, expected: str) -> str:
    """The message for a path that holds something other than expected, and what to do with it."""
    if not path.exists():
        return f"{path} does not exist; expected {expected}"
    if (found := what_is(path)) is not None:
        return f"{path} is {found.what}; expected {expected}. {found.advice}"
    return f"{path} {'is a file' if path.is_file() else 'was not written by twotower'}; expected {expected}"


def _of_model(path: Path) -> Found:
    if _kind(path.parent / MANIFEST) == "twotower retriever":
        return Found("the model inside a bundle", f"Pass the bundle, {path.parent}")
    return Found("a saved model without candidates", "Make a bundle of it with tt.Retriever.build")


def _kind(marker: Path) -> str:
    try:
        return msgspec.json.decode(marker.read_bytes(), type=_Marker).kind
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return ""
