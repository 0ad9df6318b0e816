"""`Versions`: the earlier versions of an updated bundle, kept beside it, and which version is served."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from twotower.errors import ConfigError, SavedFolderError
from twotower.experiments.drift import InputSummary
from twotower.files import MarkedFolder, check_file_target, replaced_folder, write_file
from twotower.locks import exclusive, locked
from twotower.retrieval.bundle import FORMAT, KIND, load_bundle
from twotower.retrieval.continued import moments_of
from twotower.retrieval.publishing import republish
from twotower.saved import Manifest, SavedKind, check_folder
from twotower.training.moments import is_moments

MARKER = "versions.json"
CANDIDATE, REFUSED = "candidate", "refused"
MAX_ENTRIES = 1_000
"""How many publications before the latest stay in the history."""

VERSION = "^[0-9a-f]+$"
"""Version ids name folders that are later deleted, so nothing else may pass as one."""


class Published(msgspec.Struct, frozen=True):
    """A bundle that was published.

    Attributes:
        version: Its version, which is also the name of its folder.
        at: Time of publication, in ISO 8601.
        withdrawn: Whether it was rolled back.
    """

    version: Annotated[str, msgspec.Meta(pattern=VERSION)]
    at: str
    withdrawn: bool = False


class History(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of `versions.json`.

    Attributes:
        published: The published bundles, the latest last.
        inputs: The input distributions of the latest update.
    """

    published: list[Published] = []
    inputs: InputSummary | None = None


def _recognises(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw, type=History)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True


VERSIONS = MarkedFolder("the kept versions of a bundle", MARKER, _recognises, ("*",))


class Versions:
    """The folder `BUNDLE.versions`, locked against other processes.

    Args:
        bundle: The served bundle.
        folder: The folder of its versions.
    """

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.bundle, self.folder = bundle, folder
        marker = folder / MARKER
        self.history = msgspec.json.decode(marker.read_bytes(), type=History) if marker.exists() else History()
        self._write(self.history)
        self._record_current()

    @property
    def current(self) -> str | None:
        """Version of the served bundle; None if there is none yet."""
        if not self.bundle.exists():
            return None
        return _version_of(check_folder(self.bundle, KIND, FORMAT))

    @property
    def kept(self) -> list[str]:
        """Versions whose folder exists, the latest published last."""
        versions = dict.fromkeys(one.version for one in reversed(self.history.published))
        return [version for version in reversed(versions) if (self.folder / version).is_dir()]

    def publish(self, candidate: Path, most: int, inputs: InputSummary | None) -> str:
        """Replaces the served bundle with a finished one in one step, and deletes all but the latest versions.

        Args:
            candidate: The bundle, with its moments beside it.
            most: How many versions to keep; the served one is always kept.
            inputs: Its input distributions.
        """
        version = _version_of(check_folder(candidate, KIND, FORMAT))
        self._keep(candidate, version)
        self._serve(version)
        self._add(version, inputs)
        shutil.rmtree(candidate)
        moments_of(candidate).unlink(missing_ok=True)
        self._drop_all_but(most)
        return version

    def refuse(self, candidate: Path) -> Path:
        """Keeps a refused bundle for inspection, replacing the one refused before."""
        refused = self.folder / REFUSED
        _copy(candidate, refused)
        shutil.rmtree(candidate)
        moments_of(candidate).unlink(missing_ok=True)
        return refused

    def roll_back(self) -> tuple[str, str]:
        """Serves the previously published version and marks the current one as withdrawn.

        If a store no longer has the vectors of that version, they are published again.

        Returns:
            The version served now, and the one served before.

        Raises:
            ConfigError: There is no earlier version.
        """
        self._record_current()
        current, published = self.current, self.history.published
        bad = {one.version for one in published if one.withdrawn} | {current}
        good = [one.version for one in published if one.version not in bad and one.version in self.kept]
        if current is None or not good:
            kept = f"; kept: {', '.join(self.kept)}" if self.kept else ", and no versions are kept"
            raise ConfigError(f"{self.bundle} has no earlier version to go back to{kept}")
        version = good[-1]
        republish(load_bundle(self.folder / version), frozenset({load_bundle(self.bundle).details.towers}))
        self._serve(version)
        withdrawn = [
            msgspec.structs.replace(one, withdrawn=one.withdrawn or one.version == current)
            for one in self.history.published
        ]
        self._write(msgspec.structs.replace(self.history, published=withdrawn))
        self._add(version)
        return version, current

    def _record_current(self) -> None:
        """Keeps the served bundle if another command wrote it, or an update was killed before recording it."""
        current = self.current
        if current is not None and (not self.history.published or self.history.published[-1].version != current):
            self._keep(self.bundle, current)
            self._add(current)

    def _serve(self, version: str) -> None:
        """Replaces the served bundle with a kept one. If another command has changed it meanwhile, keeps that first."""
        with locked(self.bundle):
            self._record_current()
            _copy(self.folder / version, self.bundle)

    def _add(self, version: str, inputs: InputSummary | None = None) -> None:
        published = [
            *self.history.published[-MAX_ENTRIES:],
            Published(version, datetime.now(UTC).isoformat(timespec="seconds")),
        ]
        self._write(History(published, self.history.inputs if inputs is None else inputs))

    def _keep(self, bundle: Path, version: str) -> None:
        if not (self.folder / version).is_dir():
            _copy(bundle, self.folder / version)

    def _drop_all_but(self, most: int) -> None:
        for version in self.kept[: -max(1, most)]:
            shutil.rmtree(self.folder / version)
            moments_of(self.folder / version).unlink(missing_ok=True)

    def _write(self, history: History) -> None:
        self.history = history
        write_file(self.folder / MARKER, msgspec.json.format(msgspec.json.encode(history), indent=1))


@contextmanager
def versions_of(bundle: Path) -> Iterator[Versions]:
    """Yields the versions of a bundle and locks out other processes.

    Raises:
        ConfigError: `BUNDLE.versions` holds something else, or cannot be written.
        SavedFolderError: Another process is using it, or the bundle cannot be read.
    """
    real = Path(os.path.realpath(bundle))
    with exclusive(real.with_name(f"{real.name}.versions"), VERSIONS, shown=bundle) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        yield Versions(real, folder)


def _copy(source: Path, target: Path) -> None:
    """Replaces a bundle with a copy of another one, including its moments if it has any.

    Raises:
        SavedFolderError: The bundle, or its copy, is damaged.
    """
    check_folder(source, KIND, FORMAT)
    moments = moments_of(target)
    with locked(target):
        with replaced_folder(target, SavedKind(KIND)) as building:
            shutil.copytree(source, building, dirs_exist_ok=True)
            check_folder(building, KIND, FORMAT)
        if (own := moments_of(source)).is_file():
            write_file(check_file_target(moments, is_moments, "moments"), own.read_bytes())
        elif moments.is_file() and is_moments(moments):
            moments.unlink()


def _version_of(manifest: Manifest) -> str:
    version = manifest.details.get("version")
    if not isinstance(version, str) or not re.fullmatch(VERSION, version):
        raise SavedFolderError(f"the bundle's manifest has version {version!r}; expected hexadecimal digits")
    return version
