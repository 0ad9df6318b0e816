"""Cuts off clients that request large answers and do not read them."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ

MIN_BYTES_PER_SECOND = 1024
"""A client must read a pending answer at least at this rate."""


class Unread:
    """Watches the data of a connection that its client has not read yet.

    Checks start when an answer is finished or the server pauses writing, and repeat at an interval until everything has
    been read. A client that reads less than `MIN_BYTES_PER_SECOND` between two checks is cut off. Pending data below
    the server's buffer limit on an open connection is ignored, as idle connections are closed anyway.

    Args:
        transport: The connection.
        seconds: Interval between two checks.
        cut_off: Called when the client is cut off.
    """

    def __init__(self, transport: Any, seconds: float, cut_off: Callable[[], None]) -> None:
        self._transport, self._seconds, self._cut_off = transport, seconds, cut_off
        self._clock: asyncio.TimerHandle | None = None
        self._paused = False
        self._left = 0

    def pause(self) -> None:
        """The server's buffer is full."""
        self._paused = True
        self.watch()

    def resume(self) -> None:
        """The client has read most of the buffer."""
        self._paused = False
        self._left = sys.maxsize  # data pending at the next check will have been added since

    def watch(self) -> None:
        """Starts checking, if anything is pending."""
        if self._clock is None and self._transport.get_write_buffer_size() > 0:
            self._look_later()

    def stop(self) -> None:
        """The connection is closed."""
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _look_later(self) -> None:
        self._left = _waiting(self._transport)
        self._clock = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def _look(self) -> None:
        self._clock = None
        if self._transport.get_write_buffer_size() == 0:
            return
        taken = self._left - _waiting(self._transport)
        if taken < MIN_BYTES_PER_SECOND * self._seconds and (self._paused or self._transport.is_closing()):
            self._cut_off()
            self._abort()
            return
        self._look_later()

    def _abort(self) -> None:
        """Resets the connection, so that the system drops its buffers at once."""
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


def _waiting(transport: Any) -> int:
    """Bytes that the client has not read: in this process and, on Linux, in the system's buffer.

    The system takes data from the process only in large steps; between them, a slow client would seem to read nothing.
    """
    waiting: int = transport.get_write_buffer_size()
    if sys.platform == "linux":
        held = ioctl(transport.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4))
        waiting += int.from_bytes(held, sys.byteorder)
    return waiting
