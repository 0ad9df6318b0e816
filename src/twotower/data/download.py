"""Downloads and unpacks archives: checked, safe to interrupt, and never left half unpacked."""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from twotower.errors import DataUnavailableError
from twotower.files import replaced_folder

TIMEOUT = 30.0
"""Seconds without a response after which the download fails."""

CHUNK = 1 << 20
LARGEST_UNPACKED = 8 << 30
"""Bytes; an archive that unpacks to more is refused, as no known one does."""


def fetch_archive(url: str, folder: Path, sha256: str | None, hint: str) -> None:
    """Downloads a zip archive and unpacks its single top folder as `folder`.

    The archive is unpacked beside `folder` and then renamed. A progress bar is shown if stderr is a terminal.

    Args:
        url: URL of the archive.
        folder: Where its single top folder goes.
        sha256: Expected SHA-256 of the archive; None if unknown. The size that the server announces and the
            checksums inside the archive are checked in either case.
        hint: What the user can do instead, for the error.

    Raises:
        DataUnavailableError: There is no network or no such file, or the download is not what was expected.
    """
    import pooch  # imported here because it imports tqdm, which warns in notebooks without ipywidgets

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as temporary:
        archive = Path(temporary) / "archive.zip"
        download = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=CHUNK, timeout=TIMEOUT)
        try:
            download(url, str(archive), None)
        except OSError as error:  # includes every error that requests raises
            if (answer := getattr(error, "response", None)) is not None:  # pooch leaves it open
                answer.close()
            raise DataUnavailableError(
                f"{folder} does not exist, and {url} could not be downloaded ({error}). {hint}"
            ) from error
        if sha256 is not None and (found := pooch.file_hash(str(archive))) != sha256:
            raise DataUnavailableError(
                f"{url}: the download has SHA-256 {found}; expected {sha256}. Nothing was kept. {hint}"
            )
        unpack(archive, folder)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the single top folder of a zip archive beside `folder`, then renames it to `folder`.

    Raises:
        DataUnavailableError: The archive is damaged, has a path outside its folder, or exceeds `LARGEST_UNPACKED`.
    """
    try:
        with zipfile.ZipFile(archive) as packed, replaced_folder(folder) as building:
            members = [member for member in packed.infolist() if not member.is_dir()]
            if sum(member.file_size for member in members) > LARGEST_UNPACKED:
                raise DataUnavailableError(f"{archive} unpacks to more than {LARGEST_UNPACKED >> 30} GiB")
            for member in members:
                parts = PurePosixPath(member.filename).parts[1:]
                if not parts or ".." in parts or PurePosixPath(member.filename).is_absolute():
                    raise DataUnavailableError(f"{archive} contains {member.filename!r}, which is outside its folder")
                target = building.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, CHUNK)
    except zipfile.BadZipFile as error:
        raise DataUnavailableError(f"{archive} is damaged: {error}") from error
