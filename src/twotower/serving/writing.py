"""Answers that nobody reads: a client that asks for much and does not take it is cut off."""

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

SLOWEST = 1024
"""Bytes a second that a client has to take, at least, of an answer that waits for it."""


class Unread:
    """Watches what a connection has been given to send and its client has not taken.

    It looks whenever an answer is done or the server is told to pause, and from then on every so many seconds until
    everything is taken. A client that has taken less than `SLOWEST` bytes a second between two looks is cut off. What
    waits below the server's limit on an open connection is left alone: an idle connection is ended anyway.

    Args:
        transport: The connection.
        seconds: How long between two looks.
        cut_off: Called when the client is cut off.
    """

    def __init__(self, transport: Any, seconds: float, cut_off: Callable[[], None]) -> None:
        self._transport, self._seconds, self._cut_off = transport, seconds, cut_off
        self._clock: asyncio.TimerHandle | None = None
        self._paused = False
        self._left = 0

    def pause(self) -> None:
        """More waits than the server wants to hold."""
        self._paused = True
        self.watch()

    def resume(self) -> None:
        """The client has taken most of it."""
        self._paused = False
        self._left = sys.maxsize  # what waits at the next look has come since

    def watch(self) -> None:
        """Looks from now on, if anything waits."""
        if self._clock is None and self._transport.get_write_buffer_size() > 0:
            self._look_later()

    def stop(self) -> None:
        """The connection has ended."""
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
        if taken < SLOWEST * self._seconds and (self._paused or self._transport.is_closing()):
            self._cut_off()
            self._abort()
            return
        self._look_later()

    def _abort(self) -> None:
        """Ends the connection, and has the system forget at once what it still holds for it."""
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


def _waiting(transport: Any) -> int:
    """Bytes that the client has not taken: in this process and, on Linux, in the system's buffer.

    The system takes more from the process only in large steps, between which a slow client would seem to take nothing.
    """
    waiting: int = transport.get_write_buffer_size()
    if sys.platform == "linux":
        held = ioctl(transport.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4))
        waiting += int.from_bytes(held, sys.byteorder)
    return waiting
