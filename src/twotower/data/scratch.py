"""`scratch`: arrays that live in a nameless file on disk instead of in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.errors import ConfigError


def scratch(length: int, kind: npt.DTypeLike, folder: Path | None = None) -> npt.NDArray[Any]:
    """An array of zeros that is mapped from a file without a name, which is gone when the array or the process is.

    Args:
        length: Its length.
        kind: Type of its values.
        folder: Where the file lies; None: where the system keeps temporary files.

    Raises:
        ConfigError: The folder cannot be written, or the disk is full.

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
            # A plain array over the map: slices of a `memmap` are slower, as each of them is one, too.
            return np.asarray(np.memmap(file, dtype=kind, mode="r+", shape=(length,)))
    except OSError as error:
        raise ConfigError(
            f"{folder or tempfile.gettempdir()} cannot hold {size:,} bytes of scratch: {error}"
        ) from error
