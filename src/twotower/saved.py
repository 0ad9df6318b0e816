"""Saved folders: a manifest lists the size and checksum of every file, which are verified before any file is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from twotower.errors import SavedFolderError
from twotower.recognition import MANIFEST, not_this

EXPECTED = {
    "twotower retriever": "a bundle, which twotower train or bundle wrote",
    "twotower model": "a model that TwoTower.save wrote",
}
"""What errors expect, by the kind of a folder."""

LARGEST_MANIFEST = 1 << 22
"""Bytes: a larger manifest is not from twotower."""

T = TypeVar("T")


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Kind, format and files of a saved folder.

    Attributes:
        kind: `twotower model` or `twotower retriever`.
        format: Version of the folder's format.
        library: Version of twotower that wrote it.
        details: Metadata specific to this kind of folder.
        files: Every file by its path in the folder.
        digest: SHA-256 of all of the above.
    """

    kind: str
    format: int
    library: str
    details: dict[str, Any]
    files: dict[str, FileRecord]
    digest: str = ""

    @property
    def version(self) -> str:
        """Twelve hex digits that identify this content."""
        return self.digest[:12]


class _Header(msgspec.Struct, frozen=True):
    kind: str
    format: int
    library: str


@dataclass(frozen=True)
class SavedKind:
    """A kind of folder that is recognised by its manifest; see `FolderKind`.

    Attributes:
        kind: The kind in the manifest, such as `twotower model`.
    """

    kind: str

    @property
    def name(self) -> str:
        """What errors call it."""
        return "a bundle" if self.kind == "twotower retriever" else f"a saved {self.kind.removeprefix('twotower ')}"

    def files_of(self, folder: Path) -> frozenset[str] | None:
        """The files that the manifest lists, including damaged ones; None without a manifest of this kind."""
        try:
            header = read_json(folder / MANIFEST, _Header, LARGEST_MANIFEST)
            if header.kind != self.kind:
                return None
            return frozenset(read_json(folder / MANIFEST, Manifest).files) | {MANIFEST}
        except SavedFolderError:
            return None


def read_json(path: Path, kind: type[T], largest: int | None = None) -> T:
    """Reads a JSON file of a saved folder.

    Args:
        path: The file.
        kind: The expected type of its content.
        largest: Maximum size in bytes; None for no limit.

    Raises:
        SavedFolderError: It is missing, unreadable or too large, or holds something else.
    """
    try:
        if largest is not None and (size := path.stat().st_size) > largest:
            raise SavedFolderError(f"{path} has {size} bytes; expected at most {largest}")
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:  # ValueError: not UTF-8
        raise SavedFolderError(f"{path} cannot be read: {error}") from error


def write_manifest(folder: Path, kind: str, form: int, library: str, details: dict[str, Any]) -> Manifest:
    """Writes the manifest for all files in the folder; call it after they are written."""
    files = {
        path.relative_to(folder).as_posix(): FileRecord(path.stat().st_size, _sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = Manifest(kind, form, library, details, files)
    manifest = msgspec.structs.replace(manifest, digest=_digest(manifest))
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    return manifest


def check_folder(folder: Path, kind: str, newest: int) -> Manifest:
    """Reads the manifest and checks every file against it.

    Args:
        folder: The saved folder.
        kind: The expected kind.
        newest: The newest format that can be read.

    Raises:
        SavedFolderError: It is something else or has a newer format, or a file is missing, truncated or altered.
    """
    try:
        manifest = _manifest(folder, kind, newest)
        for name, record in manifest.files.items():
            _check_file(folder, name, record)
        return manifest
    except SavedFolderError:
        raise
    except Exception as error:  # the folder may hold anything, vanish meanwhile, or be unreadable
        raise SavedFolderError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error


def refuse_other(folder: Path, kind: str) -> None:
    """Refuses a folder without a manifest of this kind, and says what it is.

    Raises:
        SavedFolderError: It is something else, or its manifest cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file() or read_json(path, _Header, LARGEST_MANIFEST).kind != kind:
        raise SavedFolderError(not_this(folder, EXPECTED.get(kind, f"a {kind}")))


def _manifest(folder: Path, kind: str, newest: int) -> Manifest:
    path = folder / MANIFEST
    refuse_other(folder, kind)
    header = read_json(path, _Header, LARGEST_MANIFEST)
    if header.format > newest:
        raise SavedFolderError(
            f"{folder} has format {header.format}, written by twotower {header.library}; this version reads up to "
            f"{newest}: upgrade twotower to open it"
        )
    manifest = read_json(path, Manifest, LARGEST_MANIFEST)
    if _digest(msgspec.structs.replace(manifest, digest="")) != manifest.digest:
        raise SavedFolderError(f"{path} was altered: its digest does not match its content")
    return manifest


def listed(folder: Path, manifest: Manifest, name: str) -> Path:
    """The path of a file that the manifest lists, and that was therefore verified.

    Raises:
        SavedFolderError: The manifest does not list it.
    """
    if name not in manifest.files:
        raise SavedFolderError(f"{folder}: {name} is not in the manifest; the folder is incomplete or was altered")
    return folder / name


def _check_file(folder: Path, name: str, record: FileRecord) -> None:
    relative = PurePosixPath(name)
    path = folder / relative
    try:
        inside = not relative.is_absolute() and ".." not in relative.parts
        inside = inside and path.resolve() == folder.resolve() / relative  # no links in the path
        is_file = path.is_file()
    except (OSError, ValueError) as error:
        raise SavedFolderError(f"{folder}: {name[:200]!r} is not a valid file name: {error}") from error
    if not inside:
        raise SavedFolderError(f"{folder}: the file name {name!r} leaves the folder or is a link")
    if not is_file:
        raise SavedFolderError(f"{folder}: {name} is missing; the folder was truncated or altered")
    if path.stat().st_size != record.size:
        raise SavedFolderError(
            f"{folder}: {name} has {path.stat().st_size} bytes, expected {record.size}; it was truncated or altered"
        )
    if _sha256(path) != record.sha256:
        raise SavedFolderError(f"{folder}: {name} was altered: its checksum does not match")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(manifest: Manifest) -> str:
    return hashlib.sha256(msgspec.json.encode(manifest, order="sorted")).hexdigest()
