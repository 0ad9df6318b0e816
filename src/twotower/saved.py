"""Saved folders: a manifest with the size and checksum of every file, checked before anything is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from twotower.errors import SavedFolderError

MANIFEST = "manifest.json"
LARGEST_MANIFEST = 1 << 22
"""Bytes: a larger manifest is not one of ours."""

T = TypeVar("T")


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes and SHA-256 of one file."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a saved folder is and holds.

    Attributes:
        kind: `twotower model` or `twotower retriever`.
        format: Version of the folder's format.
        library: Version of twotower that wrote it.
        details: What this kind of folder says of itself.
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
        """Twelve digits that name this very content."""
        return self.digest[:12]


class _Header(msgspec.Struct, frozen=True):
    kind: str
    format: int
    library: str


@dataclass(frozen=True)
class SavedKind:
    """A kind of folder that has a manifest, by which one that may be replaced is recognised; see `FolderKind`.

    Attributes:
        kind: As the manifest says it, `twotower model`.
    """

    kind: str

    @property
    def name(self) -> str:
        """What it is, as errors say it."""
        return f"a saved {self.kind.removeprefix('twotower ')}"

    def files_of(self, folder: Path) -> frozenset[str] | None:
        """The files that the manifest lists, damaged ones included; None where there is no such manifest."""
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
        kind: What it holds.
        largest: Bytes of it, at most; None for any number.

    Raises:
        SavedFolderError: It is missing, cannot be read, is larger, or holds something else.
    """
    try:
        if largest is not None and (size := path.stat().st_size) > largest:
            raise SavedFolderError(f"{path} has {size} bytes; expected at most {largest}")
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:  # bytes that are no text: ValueError
        raise SavedFolderError(f"{path} cannot be read: {error}") from error


def write_manifest(folder: Path, kind: str, form: int, library: str, details: dict[str, Any]) -> Manifest:
    """Writes the manifest of all files that are in the folder, as the last of them."""
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
        kind: What it has to be.
        newest: The newest format that can be read.

    Raises:
        SavedFolderError: It is something else, of a newer format, or a file is missing, truncated or altered.
    """
    try:
        manifest = _manifest(folder, kind, newest)
        for name, record in manifest.files.items():
            _check_file(folder, name, record)
        return manifest
    except SavedFolderError:
        raise
    except Exception as error:  # anything may lie there, vanish, or be closed to us
        raise SavedFolderError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error


def _manifest(folder: Path, kind: str, newest: int) -> Manifest:
    path = folder / MANIFEST
    if not folder.exists():
        raise SavedFolderError(f"{folder} does not exist; expected a folder that twotower wrote")
    if not path.is_file():
        raise SavedFolderError(f"{folder} was not written by twotower: it has no {MANIFEST}")
    header = read_json(path, _Header, LARGEST_MANIFEST)
    if header.kind != kind:
        raise SavedFolderError(f"{folder} is a {header.kind!r}; expected a {kind!r}")
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
    """The path of a file that the manifest lists, and that was checked with it.

    Raises:
        SavedFolderError: It does not list that file.
    """
    if name not in manifest.files:
        raise SavedFolderError(f"{folder}: {name} is not in the manifest; the folder is incomplete or was altered")
    return folder / name


def _check_file(folder: Path, name: str, record: FileRecord) -> None:
    relative = PurePosixPath(name)
    path = folder / relative
    try:
        inside = not relative.is_absolute() and ".." not in relative.parts
        inside = inside and path.resolve() == folder.resolve() / relative  # no link on the way
        is_file = path.is_file()
    except (OSError, ValueError) as error:
        raise SavedFolderError(f"{folder}: {name[:200]!r} is no file name: {error}") from error
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
