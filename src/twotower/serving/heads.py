"""Limits on request heads: one that is too slow or too long gets an error, and its connection is closed."""

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

MAX_HEAD_BYTES = 1 << 16
"""Accept at most this many bytes before a request's body, and in the trailer of a chunked body."""

CONNECTION = "twotower.connection"
"""The key in a request's state that holds its `Connection`."""


class Connection(asyncio.Protocol):
    """A connection with limits on what happens before and after the application is called.

    Without them, a client that sends a byte now and then would hold a connection forever, and one that sends endless
    headers would fill the memory. This class wraps the server's own protocol and passes on all data within the limits.
    Its own parser finds where heads begin and end, and `noting_answers` reports when a request has been answered. A
    timer runs while the connection waits for a request and none is being answered. The application limits requests
    while it answers them; `Unread` closes connections whose clients do not read their answers.

    Args:
        service: The service; its settings limit the seconds that a head may take.
        protocol: Creates the server's protocol.
        app_state: State that the server passes to requests.
        given: Further arguments from the server for its protocol.
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
        self._unanswered = 0  # requests with complete heads
        self._head_started = False  # a head has begun and is incomplete
        self._head_bytes = 0  # bytes of this request's URL and headers
        self._unparsed, self._progressed = 0, False  # bytes of an unfinished part, and whether a part was just finished

    def connection_made(self, transport: Any) -> None:
        """A client has connected; uvloop's transports are not `asyncio.Transport`."""
        self._service.connections += 1
        self._transport = transport
        self._answers = Unread(transport, self._service.settings.seconds, self._service.cut_off)
        self._protocol.connection_made(transport)
        if self._service.connections > self._service.connection_limit:
            self._service.turned_away()
            transport.abort()
            return
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has disconnected, or was disconnected."""
        self._service.connections -= 1
        self._stop_clock()
        self._answers.stop()
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Passes data on if it is within the limits."""
        self._progressed = False
        try:
            self._parser.feed_data(data)
        except self._httptools.HttpParserUpgrade:  # not to a protocol of ours: answer it as plain HTTP
            pass
        except self._httptools.HttpParserError:
            self._protocol.data_received(data)  # reports the invalid request
            self._transport.close()
            return
        self._unparsed = 0 if self._progressed else self._unparsed + len(data)
        if max(self._head_bytes, self._unparsed) > MAX_HEAD_BYTES:
            message = f"the head of the request is longer than {MAX_HEAD_BYTES} bytes, the limit"
            self._end(Refusal(431, "head_too_large", message, headers=CLOSE))
            return
        self._protocol.data_received(data)
        if self._clock is None and not self._unanswered:
            self._start_clock()

    def eof_received(self) -> bool | None:
        """The client will send nothing more."""
        ended: bool | None = self._protocol.eof_received()
        return ended

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._answers.pause()
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The client is reading again."""
        self._answers.resume()
        self._protocol.resume_writing()

    def on_message_begin(self) -> None:
        """The parser has found the first byte of a request."""
        self._head_started, self._progressed, self._head_bytes = True, True, 0
        if not self._unanswered:
            self._start_clock()

    def on_url(self, url: bytes) -> None:
        """The parser has found part of the URL."""
        self._progressed = True
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser has found a header, or a trailer field of a chunked body."""
        self._progressed = True
        self._head_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        """The parser has found the end of a head; the application takes over."""
        self._head_started, self._progressed = False, True
        self._unanswered += 1
        self._stop_clock()

    def on_body(self, body: bytes) -> None:
        """The parser has found part of a body."""
        del body
        self._progressed = True

    def answered(self) -> None:
        """The application has answered a request."""
        self._answers.watch()
        self._unanswered -= 1
        if self._head_started and not self._unanswered:  # part of the next head has already arrived
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
        if self._head_started:
            seconds = self._service.settings.seconds
            message = f"the head of the request took longer than {seconds:g} s, the limit"
            self._end(Refusal(408, "timeout", message, headers=CLOSE))
        else:
            self._transport.close()  # no request has begun since the last answer

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
    """The service as an application that notifies a request's connection once it is answered.

    While the service drains, each answer closes its connection, so that a client does not send another request into one
    that is about to end.
    """

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        async def last(message: Any) -> None:
            if service.backend.draining and message["type"] == "http.response.start":
                message = message | {"headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        try:
            await service(scope, receive, last)
        finally:
            if scope["type"] == "http":
                scope["state"][CONNECTION].answered()

    return application


def _raw(refusal: Refusal, version: str, request_id: str) -> bytes:
    """A refusal as raw HTTP, for when no application runs to send it."""
    reply = refused(refusal, version)
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}".encode()]
    lines += [name + b": " + value for name, value in [*reply.headers, *headers_of(request_id)]]
    return b"\r\n".join([*lines, b"", reply.body])
