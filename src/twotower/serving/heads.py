"""Heads of requests: a connection that brings one too slowly, or one too long, is answered so and ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from twotower.extras import require
from twotower.serving.bodies import CLOSE
from twotower.serving.refusals import Refusal
from twotower.serving.replies import Receive, Scope, Send, refused
from twotower.serving.service import Service, headers_of, new_request_id
from twotower.serving.writing import Unread

LONGEST_HEAD = 1 << 16
"""Bytes of a request before its body, at most; also of what ends a body in chunks."""

CONNECTION = "twotower.connection"
"""The key of a request's state with the `Connection` that it came by."""


class Connection(asyncio.Protocol):
    """A connection with limits for what comes before the application is called, and after.

    Without them a client that sends a byte now and then would hold a connection for ever, and one that sends headers
    without end would fill the memory. It stands before the server's own protocol, which gets all that is within the
    limits: a parser of its own says where heads begin and end, and `noting_answers` when a request is answered. A
    clock runs while something is awaited and nothing is answered. What a request does while it is answered is
    limited by the application; `Unread` ends connections whose clients do not read their answers.

    Args:
        service: What answers; its settings say how many seconds a head may take.
        protocol: Makes the server's protocol.
        app_state: What requests find in their state, from the server.
        given: What the protocol is made with besides, from the server.
    """

    def __init__(
        self, service: Service, protocol: Callable[..., Any], *, app_state: dict[str, Any], **given: Any
    ) -> None:
        self._httptools = require("httptools", "serve")
        self._service = service
        self._protocol = protocol(app_state={**app_state, CONNECTION: self}, **given)
        self._parser = self._httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's, to see the same requests
        self._clock: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._unanswered = 0  # requests whose heads are whole
        self._begun = False  # a head has, and is not whole
        self._named = 0  # bytes of this request's address and headers
        self._unread, self._read = 0, False  # bytes of which no part is whole, and whether one has become so

    def connection_made(self, transport: Any) -> None:
        """A client has connected; uvloop's transports are no `asyncio.Transport`."""
        self._transport = transport
        self._answers = Unread(transport, self._service.settings.seconds, self._service.cut_off)
        self._protocol.connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was sent away."""
        self._stop_clock()
        self._answers.stop()
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Passes on what is within the limits."""
        self._read = False
        try:
            self._parser.feed_data(data)
        except self._httptools.HttpParserUpgrade:  # to nothing that the service speaks: it is answered as it is
            pass
        except self._httptools.HttpParserError:
            self._protocol.data_received(data)  # says that it is no request
            self._transport.close()
            return
        self._unread = 0 if self._read else self._unread + len(data)
        if max(self._named, self._unread) > LONGEST_HEAD:
            message = f"the head of the request is longer than {LONGEST_HEAD} bytes, which are allowed"
            self._end(Refusal(431, "head_too_large", message, headers=CLOSE))
            return
        self._protocol.data_received(data)
        if self._clock is None and not self._unanswered:
            self._start_clock()

    def eof_received(self) -> bool | None:
        """The client sends nothing more."""
        ended: bool | None = self._protocol.eof_received()
        return ended

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._answers.pause()
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._answers.resume()
        self._protocol.resume_writing()

    def on_message_begin(self) -> None:
        """The parser has found the first byte of a request."""
        self._begun, self._read, self._named = True, True, 0
        if not self._unanswered:
            self._start_clock()

    def on_url(self, url: bytes) -> None:
        """The parser has found a part of the address."""
        self._read = True
        self._named += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser has found a header, or one of what ends a body in chunks."""
        self._read = True
        self._named += len(name) + len(value)

    def on_headers_complete(self) -> None:
        """The parser has found the end of a head: the request is the application's."""
        self._begun, self._read = False, True
        self._unanswered += 1
        self._stop_clock()

    def on_body(self, body: bytes) -> None:
        """The parser has found a part of a body."""
        del body
        self._read = True

    def answered(self) -> None:
        """The application has answered a request."""
        self._answers.watch()
        self._unanswered -= 1
        if self._begun and not self._unanswered:  # the next head came in part meanwhile
            self._start_clock()

    def _start_clock(self) -> None:
        self._stop_clock()
        self._since = time.perf_counter()
        self._clock = asyncio.get_running_loop().call_later(self._service.settings.seconds, self._late)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        if self._begun:
            seconds = self._service.settings.seconds
            message = f"the head of the request took longer than {seconds:g} s, which are allowed"
            self._end(Refusal(408, "timeout", message, headers=CLOSE))
        else:
            self._transport.close()  # nobody has asked anything, or what was asked is answered

    def _end(self, refusal: Refusal) -> None:
        self._stop_clock()
        if self._transport.is_closing():
            return
        request_id = new_request_id()
        self._transport.write(_raw(refusal, self._service.served.current.version, request_id))
        self._transport.close()
        seconds = time.perf_counter() - self._since
        self._service.answered("other", "none", refusal.status, seconds, request_id)


def noting_answers(service: Service) -> Callable[[Scope, Receive, Send], Any]:
    """The service as an application that tells the connection of a request when that is answered."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await service(scope, receive, send)
        finally:
            if scope["type"] == "http":
                scope["state"][CONNECTION].answered()

    return application


def _raw(refusal: Refusal, version: str, request_id: str) -> bytes:
    """A refusal as it goes over the wire, where there is no application to send it."""
    reply = refused(refusal, version)
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}".encode()]
    lines += [name + b": " + value for name, value in [*reply.headers, *headers_of(request_id)]]
    return b"\r\n".join([*lines, b"", reply.body])
