"""Hostile clients of a service, for `siege.py`: they hold connections, dawdle, never read, or come all at once."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

BYTE_SECONDS = 0.2
"""Seconds between two bytes of a slow head or body."""

LOOK_SECONDS = 0.2
"""Seconds between two looks at whether a client that does not read has been cut off."""

RECEIVE_BUFFER = 1 << 16
"""Receive buffer of a client that does not read, in bytes: what it does not hold waits in the service."""

OPENING_SECONDS = 0.002
"""Seconds between two new connections of one kind, so that the system's queue of connections does not overflow."""

HOST = b"host: localhost\r\n"
LIVE = b"GET /v2/health/live HTTP/1.1\r\n" + HOST + b"\r\n"


class Kind(msgspec.Struct, frozen=True):
    """What clients of one kind did.

    Attributes:
        clients: Number of clients.
        opened: Number of connections that they opened.
        endings: Counts of how these ended, by status or error.
        longest: Seconds that the longest of them was held, counted from the last byte that the client could send.
    """

    clients: int
    opened: int
    endings: dict[str, int]
    longest: float | None


@dataclass
class Tally:
    """Counts what clients of one kind do."""

    clients: int
    opened: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    held: list[float] = field(default_factory=list)

    def frozen(self) -> Kind:
        """The counts so far."""
        return Kind(self.clients, self.opened, dict(sorted(self.endings.items())), max(self.held, default=None))


class Numbers(msgspec.Struct, frozen=True):
    """How many hostile clients there are of each kind, and how much they want.

    Attributes:
        idle: Clients that ask once and then keep their connection.
        slow_heads: Clients that send a head byte by byte.
        slow_bodies: Clients that send a body byte by byte.
        unread: Clients that ask for large answers again and again, and read none.
        flood: Clients that send a request each at the same time.
        flood_seconds: Seconds between two floods.
        queries: Number of queries that the service knows.
        k: Recommendations per query of a large answer.
    """

    idle: int
    slow_heads: int
    slow_bodies: int
    unread: int
    flood: int
    flood_seconds: float
    queries: int
    k: int


def posted(body: bytes) -> bytes:
    """A request for recommendations."""
    head = b"POST /v1/recommend HTTP/1.1\r\ncontent-type: application/json\r\n" + HOST
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def large(numbers: Numbers) -> bytes:
    """A request with a large answer: 256 queries, the most that are accepted."""
    queries = [{"query": number % numbers.queries} for number in range(256)]
    return posted(msgspec.json.encode({"queries": queries, "k": numbers.k, "exclude_seen": False}))


def awkward(numbers: Numbers, number: int) -> bytes:
    """A request that cannot be batched with others: it excludes an id, and has 16 queries."""
    queries = [{"query": (number + one) % numbers.queries} for one in range(16)]
    return posted(msgspec.json.encode({"queries": queries, "k": 10, "exclude": [number]}))


async def read_large(port: int, numbers: Numbers) -> None:
    """Asks for one large answer, and reads it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(large(numbers))
    await _answer(reader, 0.0)
    writer.transport.abort()


async def besiege(port: int, numbers: Numbers, seconds: float) -> dict[str, Kind]:
    """Lets all hostile clients act for some seconds, and returns what they did.

    Args:
        port: The port of the service on this machine.
        numbers: How many there are of each kind.
        seconds: How long they act.
    """
    tallies: dict[str, Tally] = {}
    tasks: list[Coroutine[Any, Any, None]] = []

    def add(name: str, count: int, act: Callable[[int, Tally], Awaitable[None]], pause: float) -> None:
        tally = tallies[name] = Tally(count)
        tasks.extend(_again_and_again(act, tally, pause * number) for number in range(count))

    add("idle", numbers.idle, lambda _, tally: _idle(port, tally), OPENING_SECONDS)
    add("slow head", numbers.slow_heads, lambda _, tally: _slow(port, LIVE[:-2] + b"x: y", tally), OPENING_SECONDS)
    unfinished = posted(bytes(100_000))[:-100_000]
    add("slow body", numbers.slow_bodies, lambda _, tally: _slow(port, b"[", tally, unfinished), OPENING_SECONDS)
    asked = large(numbers)
    add("never reads", numbers.unread, lambda _, tally: _never_read(port, asked, tally), 0.5)
    flood = tallies["flood"] = Tally(numbers.flood)
    if numbers.flood:
        tasks.append(_again_and_again(lambda _, tally: _flood(port, numbers, tally), flood, 0.0))
    running = [asyncio.create_task(task) for task in tasks]
    await asyncio.sleep(seconds)
    for task in running:
        task.cancel()
    for outcome in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    return {name: tally.frozen() for name, tally in tallies.items() if tally.clients}


async def _again_and_again(act: Callable[[int, Tally], Awaitable[None]], tally: Tally, wait: float) -> None:
    await asyncio.sleep(wait)
    number = 0
    while True:
        number += 1
        try:
            await act(number, tally)
        except OSError as error:
            tally.endings[type(error).__name__] += 1
            await asyncio.sleep(1)


async def _idle(port: int, tally: Tally) -> None:
    """Asks once, and keeps the connection until the service closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    tally.opened += 1
    try:
        writer.write(LIVE)
        answer = await reader.readuntil(b"}")
        if not answer.startswith(b"HTTP/1.1 200"):
            tally.endings[_status(answer)] += 1
        await reader.read()
        tally.endings["closed"] += 1
    except asyncio.IncompleteReadError:
        tally.endings["closed before an answer"] += 1
    finally:
        writer.transport.abort()


async def _slow(port: int, endless: bytes, tally: Tally, first: bytes = b"") -> None:
    """Sends a byte now and then until the service ends the connection: of a text, whose last byte is repeated."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    tally.opened += 1
    started = time.perf_counter()
    answer = asyncio.create_task(_all_of(reader))
    try:
        writer.write(first)
        number = 0
        while not answer.done():
            writer.write(endless[min(number, len(endless) - 1) :][:1])
            number += 1
            await asyncio.wait([answer], timeout=BYTE_SECONDS)
        tally.endings[_status(answer.result())] += 1
        tally.held.append(time.perf_counter() - started)
    finally:
        answer.cancel()
        writer.transport.abort()


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    found = b""
    with suppress(ConnectionError):
        while part := await reader.read(1 << 16):
            found += part
    return found


async def _never_read(port: int, asked: bytes, tally: Tally) -> None:
    """Sends requests for large answers while the service takes them, and reads nothing, until it is cut off."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        tally.opened += 1
        ended = select.poll()
        ended.register(connection, 0)  # errors and hang-ups are reported in any case
        unsent, last_sent = asked, time.perf_counter()
        while not ended.poll(0):
            with suppress(BlockingIOError, ConnectionError):  # the service takes no more for now, or has ended it
                sent = connection.send(unsent)
                unsent, last_sent = unsent[sent:] or asked, time.perf_counter()
            await asyncio.sleep(LOOK_SECONDS)
        tally.endings["closed"] += 1
        tally.held.append(time.perf_counter() - last_sent)


async def _flood(port: int, numbers: Numbers, tally: Tally) -> None:
    """Opens all connections, sends a request on each at once, reads the answers, and waits for the next flood."""
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    try:
        for _ in range(numbers.flood):
            opened.append(await asyncio.open_connection("127.0.0.1", port))
        tally.opened += len(opened)
        started = time.perf_counter()
        for number, (_, writer) in enumerate(opened):
            writer.write(awkward(numbers, number))
        for status, held in await asyncio.gather(*(_answer(reader, started) for reader, _ in opened)):
            tally.endings[status] += 1
            tally.held.append(held)
    finally:
        for _, writer in opened:
            writer.transport.abort()
    await asyncio.sleep(numbers.flood_seconds)


async def _answer(reader: asyncio.StreamReader, started: float) -> tuple[str, float]:
    """The status of one answer, and after how many seconds it came."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        return type(error).__name__, time.perf_counter() - started
    return _status(head), time.perf_counter() - started


def _status(answer: bytes) -> str:
    return answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else "closed without an answer"
