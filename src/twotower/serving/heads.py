"""Heads of requests: a connection that brings one too slowly, or one too long, is answered so and ended."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Any

from twotower.serving.bodies import CLOSE
from twotower.serving.refusals import Refusal
from twotower.serving.replies import refused
from twotower.serving.service import Service, headers_of, new_request_id

LONGEST_HEAD = 1 << 16
"""Bytes of a request before its body, at most; also of what ends a body in chunks."""


def limited(protocol: type[Any], service: Service) -> type[Any]:
    """The protocol of a connection, with limits for what comes before it calls the application, and after.

    Without them a client that sends a byte now and then would hold a connection for ever, and one that sends headers
    without end would fill the memory. What a request does while it is answered is limited by the application.

    Args:
        protocol: uvicorn's protocol over httptools, which calls it with each part of a request as that is whole.
        service: What answers; its settings say how many seconds a head may take.
    """

    class Limited(protocol):  # type: ignore[misc]
        """A connection, with a clock that runs while something is awaited and nothing is answered."""

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._clock: asyncio.TimerHandle | None = None
            self._since = 0.0
            self._begun = False  # a head has, and is not whole
            self._named = 0  # bytes of this request's address and headers
            self._unread, self._read = 0, False  # bytes of which no part is whole, and whether one has become so
            self._start_clock()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_clock()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._read = False
            super().data_received(data)
            self._unread = 0 if self._read else self._unread + len(data)
            if max(self._named, self._unread) > LONGEST_HEAD:
                message = f"the head of the request is longer than {LONGEST_HEAD} bytes, which are allowed"
                self._end(Refusal(431, "head_too_large", message, headers=CLOSE))
            elif self._clock is None and not self._answering() and self.timeout_keep_alive_task is None:
                self._start_clock()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._begun, self._read, self._named = True, True, 0
            if not self._answering():
                self._start_clock()

        def on_url(self, url: bytes) -> None:
            super().on_url(url)
            self._read = True
            self._named += len(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._read = True
            self._named += len(name) + len(value)
            if self._begun:  # else it is of what ends a body in chunks, which nobody asks for
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._begun, self._read = False, True
            self._stop_clock()
            super().on_headers_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._begun and not self._answering():  # the next head came in part meanwhile
                self._unset_keepalive_if_required()
                self._start_clock()

        def on_body(self, body: bytes) -> None:
            self._read = True
            super().on_body(body)

        def _answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _start_clock(self) -> None:
            self._stop_clock()
            self._since = time.perf_counter()
            self._clock = asyncio.get_running_loop().call_later(service.settings.seconds, self._late)

        def _stop_clock(self) -> None:
            if self._clock is not None:
                self._clock.cancel()
                self._clock = None

        def _late(self) -> None:
            if self._begun:
                message = f"the head of the request took longer than {service.settings.seconds:g} s, which are allowed"
                self._end(Refusal(408, "timeout", message, headers=CLOSE))
            else:
                self.transport.close()  # nobody has asked anything, or what was asked is answered

        def _end(self, refusal: Refusal) -> None:
            self._stop_clock()
            if self.transport.is_closing():
                return
            request_id = new_request_id()
            self.transport.write(_raw(refusal, service.served.current.version, request_id))
            self.transport.close()
            service.answered("other", "none", refusal.status, time.perf_counter() - self._since, request_id)

    return Limited


def _raw(refusal: Refusal, version: str, request_id: str) -> bytes:
    """A refusal as it goes over the wire, where there is no application to send it."""
    reply = refused(refusal, version)
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}".encode()]
    lines += [name + b": " + value for name, value in [*reply.headers, *headers_of(request_id)]]
    return b"\r\n".join([*lines, b"", reply.body])
