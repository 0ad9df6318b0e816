"""Folders in which experiments work: how one is recognised, and that only one process works in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from twotower.files import MarkedFolder, write_file
from twotower.locks import exclusive
from twotower.version import VERSION

MARKER = "experiment.json"


class _Marker(msgspec.Struct):
    kind: str
    library: str = VERSION


def _folder_of(kind: str, name: str) -> MarkedFolder:
    """A kind of folder. Nothing in one is ever deleted but what a run wrote, so whatever else is there may stay."""

    def recognises(raw: bytes) -> bool:
        try:
            return msgspec.json.decode(raw, type=_Marker).kind == kind
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False

    return MarkedFolder(name, MARKER, recognises, ("*",))


STUDY = _folder_of("study", "a study")
TUNING = _folder_of("tuning", "a tuning")
TRAINING = _folder_of("training", "an unfinished training of `twotower train`")

KINDS = {STUDY.name: "study", TUNING.name: "tuning", TRAINING.name: "training"}


@contextmanager
def working_in(out: Path, kind: MarkedFolder, shown: Path | None = None) -> Iterator[Path]:
    """Yields the folder, links followed and marked as of this kind; other processes are kept out of it.

    Args:
        out: The folder.
        kind: What it is.
        shown: What errors call it; default: its path.

    Raises:
        ConfigError: It holds something else, or cannot be written.
        SavedFolderError: Another process is at work in it.
    """
    with exclusive(out, kind, shown) as folder:
        marker = folder / MARKER
        if not marker.exists():
            write_file(marker, msgspec.json.encode(_Marker(KINDS[kind.name])))
        yield folder
