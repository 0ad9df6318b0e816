"""`scratch`: arrays backed by an unnamed file on disk instead of memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.errors import ConfigError


def scratch(length: int, kind: npt.DTypeLike, folder: Path | None = None) -> npt.NDArray[Any]:
    """An array of zeros mapped from an unnamed file, which disappears with the array or the process.

    Args:
        length: Length of the array.
        kind: Type of its values.
        folder: Folder for the file; None: the system's temporary folder.

    Raises:
        ConfigError: The folder is not writable, or the disk is full.

    Example:
        >>> flags = scratch(3, np.bool_)
        >>> flags[1] = True
        >>> flags.tolist()
        [False, True, False]
    """
    size = length * np.dtype(kind).itemsize
    if size == 0:
        return np.zeros(0, dtype=kind)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(size)
            # A plain array over the map: slices of a `memmap` are memmaps themselves, which makes them slower.
            return np.asarray(np.memmap(file, dtype=kind, mode="r+", shape=(length,)))
    except OSError as error:
        raise ConfigError(
            f"{folder or tempfile.gettempdir()} has no room for {size:,} bytes of scratch: {error}"
        ) from error
