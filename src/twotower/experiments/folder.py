"""Folders of experiments: how they are recognised, and the lock that lets one process at a time use them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from twotower.files import MarkedFolder, write_file
from twotower.locks import exclusive
from twotower.recognition import EXPERIMENT
from twotower.version import VERSION


class _Marker(msgspec.Struct):
    kind: str
    library: str = VERSION


def _folder_of(kind: str, name: str) -> MarkedFolder:
    """A kind of folder. It may contain other files, as only files written by runs are ever deleted."""

    def recognises(raw: bytes) -> bool:
        try:
            return msgspec.json.decode(raw, type=_Marker).kind == kind
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False

    return MarkedFolder(name, EXPERIMENT, recognises, ("*",))


STUDY = _folder_of("study", "a study")
TUNING = _folder_of("tuning", "a tuning")
TRAINING = _folder_of("training", "an unfinished training of `twotower train`")

KINDS = {STUDY.name: "study", TUNING.name: "tuning", TRAINING.name: "training"}


@contextmanager
def working_in(out: Path, kind: MarkedFolder, shown: Path | None = None) -> Iterator[Path]:
    """Locks a folder against other processes, marks it as this kind, and yields its path with links resolved.

    Args:
        out: The folder.
        kind: Its kind.
        shown: Path to show in errors; default: its own.

    Raises:
        ConfigError: It holds something else, or cannot be written.
        SavedFolderError: Another process is using it.
    """
    with exclusive(out, kind, shown) as folder:
        marker = folder / EXPERIMENT
        if not marker.exists():
            write_file(marker, msgspec.json.encode(_Marker(KINDS[kind.name])))
        yield folder
