"""What the serving process takes from the system: memory is returned once freed, and connections leave descriptors."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

if sys.platform != "win32":
    import resource

MMAP_BYTES = 1 << 20
"""Map buffers of at least this size separately, so that they are returned to the system when freed."""

M_MMAP_THRESHOLD = -3
"""The parameter of glibc's `mallopt` for `MMAP_BYTES`."""

MAX_DESCRIPTORS = 1 << 16
"""Raise the limit on open descriptors to at most this, even if the system allows more."""

RESERVED_DESCRIPTORS = 64
"""Descriptors that connections must leave, for loading bundles and for the process itself."""


def return_freed_memory() -> None:
    """Makes glibc return large buffers to the system when they are freed; does nothing with other C libraries.

    By default, glibc keeps freed buffers of up to 32 MB for later use. After a few hundred large answers, such as those
    to clients that did not read them, the process would stay large forever.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)


def raise_descriptor_limit() -> int:
    """Raises the limit on open descriptors as far as the system allows, and returns how many connections then fit.

    The usual limit is 1,024, which a thousand idle connections reach; the process itself may raise it.
    """
    if sys.platform == "win32":
        return sys.maxsize
    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if highest == resource.RLIM_INFINITY else min(highest, MAX_DESCRIPTORS)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        with suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, highest))
            limit = wanted
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(limit - RESERVED_DESCRIPTORS, limit // 2)
