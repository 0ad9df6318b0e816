"""Downloading an archive and unpacking it: checked, interruptible, and never half there."""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from twotower.errors import DataUnavailableError
from twotower.files import replaced_folder

TIMEOUT = 30.0
"""Seconds without an answer after which a server counts as not there."""

CHUNK = 1 << 20
LARGEST_UNPACKED = 8 << 30
"""Bytes: an archive that grows beyond this is not one of those we know."""


def fetch_archive(url: str, folder: Path, sha256: str | None, hint: str) -> None:
    """Downloads a zip archive and unpacks its one folder as `folder`, beside it first and then renamed.

    A progress bar is shown where stderr is a terminal.

    Args:
        url: Where the archive is.
        folder: What its single top folder becomes.
        sha256: What its bytes have to hash to; None where that is not known. The size that the server
            names and the checksums inside the archive are checked in either case.
        hint: What else the user could do, for the error.

    Raises:
        DataUnavailableError: No network, no such file, or what arrived is not what was expected.
    """
    import pooch  # now, as it brings tqdm, which warns in a notebook without ipywidgets

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as temporary:
        archive = Path(temporary) / "archive.zip"
        download = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=CHUNK, timeout=TIMEOUT)
        try:
            download(url, str(archive), None)
        except OSError as error:  # every error of requests is one
            if (answer := getattr(error, "response", None)) is not None:  # pooch leaves it open
                answer.close()
            raise DataUnavailableError(
                f"{folder} is not there, and {url} could not be downloaded ({error}). {hint}"
            ) from error
        if sha256 is not None and (found := pooch.file_hash(str(archive))) != sha256:
            raise DataUnavailableError(
                f"{url}: what arrived has SHA-256 {found}; expected {sha256}. Nothing was kept. {hint}"
            )
        unpack(archive, folder)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the single top folder of a zip archive as `folder`, beside it first and then renamed.

    Raises:
        DataUnavailableError: The archive is damaged, holds a path that leaves its folder, or is absurdly large.
    """
    try:
        with zipfile.ZipFile(archive) as packed, replaced_folder(folder) as building:
            members = [member for member in packed.infolist() if not member.is_dir()]
            if sum(member.file_size for member in members) > LARGEST_UNPACKED:
                raise DataUnavailableError(f"{archive} unpacks to more than {LARGEST_UNPACKED >> 30} GiB")
            for member in members:
                parts = PurePosixPath(member.filename).parts[1:]
                if not parts or ".." in parts or PurePosixPath(member.filename).is_absolute():
                    raise DataUnavailableError(f"{archive} holds {member.filename!r}, which leaves its folder")
                target = building.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, CHUNK)
    except zipfile.BadZipFile as error:
        raise DataUnavailableError(f"{archive} is damaged: {error}") from error
