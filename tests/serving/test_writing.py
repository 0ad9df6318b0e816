"""Answers that nobody reads: who is cut off, and who is not."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import pytest

from twotower.serving import writing
from twotower.serving.writing import MIN_BYTES_PER_SECOND, Unread

SECONDS = 1000.0
"""No clock comes to it: the test says when is the next look."""


class Transport:
    """A connection that holds some bytes, of which the test says how many the client takes."""

    def __init__(self, size: int, closing: bool = False) -> None:
        self.size, self.closing, self.aborted = size, closing, False
        self.socket, self._other = socket.socketpair()

    def close(self) -> None:
        self.socket.close()
        self._other.close()

    def get_write_buffer_size(self) -> int:
        return self.size

    def get_extra_info(self, name: str) -> Any:
        return getattr(self, name)

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted = True


async def watched(transport: Transport, taken: list[int], paused: bool = True, resumed: bool = False) -> int:
    """Lets a client take so many bytes before each look; gives how often it was cut off."""
    cuts: list[None] = []
    unread = Unread(transport, SECONDS, lambda: cuts.append(None))
    (unread.pause if paused else unread.watch)()
    for size in taken:
        transport.size -= size
        if resumed:
            unread.resume()
            unread.pause()
        if unread._clock is not None and not transport.aborted:
            unread._look()
    unread.stop()
    transport.close()
    assert transport.aborted == bool(cuts)
    return len(cuts)


ENOUGH = int(MIN_BYTES_PER_SECOND * SECONDS)


@pytest.mark.parametrize(
    ("size", "taken", "options", "cuts"),
    [
        (1 << 23, [0, 0, 0], {}, 1),
        (1 << 23, [ENOUGH - 1] * 3, {}, 1),
        (1 << 23, [ENOUGH] * 4, {}, 0),
        (1 << 23, [ENOUGH, 0, 0, 0], {}, 1),
        (1 << 23, [1 << 23, 0, 0], {}, 0),
        (1 << 23, [0, 0, 0], {"resumed": True}, 0),
        (1000, [0, 0, 0], {"paused": False}, 0),
        (0, [0, 0], {"paused": False}, 0),
    ],
    ids=["nothing", "a trickle", "enough", "then no more", "all", "most, and then more", "little", "nothing waits"],
)
def test_who_takes_too_little_of_an_answer_is_cut_off(
    size: int, taken: list[int], options: dict[str, bool], cuts: int
) -> None:
    assert asyncio.run(watched(Transport(size), taken, **options)) == cuts


def test_what_waits_on_a_connection_that_is_to_end_does_not_keep_it() -> None:
    assert asyncio.run(watched(Transport(1000, closing=True), [0, 0], paused=False)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what it holds")
def test_what_the_system_holds_counts_as_waiting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.connect(server.getsockname())
        sender, _ = server.accept()
        with sender:
            sender.setblocking(False)
            transport = Transport(7)
            transport.close()
            transport.socket = sender
            assert writing._waiting(transport) == 7
            sent = 0
            try:
                while True:
                    sent += sender.send(bytes(1 << 16))
            except BlockingIOError:
                pass
            full = writing._waiting(transport)
            assert 7 < full <= 7 + sent
            client.recv(1 << 16, socket.MSG_WAITALL)
            assert writing._waiting(transport) <= full
