"""Swaps two folders in one step where the system can."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

RENAME_EXCHANGE = 2
"""Flag of Linux's renameat2: swap two names atomically."""

AT_FDCWD = -100
"""Flag of Linux's renameat2: paths are relative to the working folder."""


def exchanged(one: Path, other: Path) -> bool:
    """Swaps two folders atomically; False if one is missing or the system cannot do it."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # no such function, or no such library
        return False
    done: int = rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), ctypes.c_uint(RENAME_EXCHANGE))
    return done == 0
