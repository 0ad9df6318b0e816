"""Heads of requests: a connection that brings one too slowly, or one too long, is answered so and ended."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from twotower.serving.bodies import CLOSE
from twotower.serving.logs import fields, log
from twotower.serving.refusals import Refusal
from twotower.serving.replies import refused
from twotower.serving.service import HEADERS, Service

LONGEST_HEAD = 1 << 16
"""Bytes of a request before its body, at most."""


def limited(protocol: type[Any], service: Service) -> type[Any]:
    """The protocol of a connection, with limits for what comes before it calls the application.

    Without them a client that sends a byte now and then would hold a connection for ever, and one that sends headers
    without end would fill the memory.

    Args:
        protocol: uvicorn's protocol over httptools, which calls it when a head begins and when it is whole.
        service: What answers; its settings say how many seconds a head may take.
    """

    class Limited(protocol):  # type: ignore[misc]
        """A connection, with a clock that runs until it brings a head, and while one is only partly there."""

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._clock: asyncio.TimerHandle | None = None
            self._begun, self._head_bytes = False, 0
            self._start_clock()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_clock()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._begun, self._head_bytes = True, 0
            self._start_clock()

        def on_headers_complete(self) -> None:
            self._begun = False
            self._stop_clock()
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            goes_on = self._begun
            super().data_received(data)
            if goes_on and self._begun:  # what comes with a head's beginning may be another request's end
                self._head_bytes += len(data)
                if self._head_bytes > LONGEST_HEAD:
                    message = f"the head of the request is longer than {LONGEST_HEAD} bytes, which are allowed"
                    self._end(Refusal(431, "head_too_large", message, headers=CLOSE))

        def _start_clock(self) -> None:
            self._stop_clock()
            self._clock = asyncio.get_running_loop().call_later(service.settings.seconds, self._late)

        def _stop_clock(self) -> None:
            if self._clock is not None:
                self._clock.cancel()

        def _late(self) -> None:
            if self._begun:
                message = f"the head of the request took longer than {service.settings.seconds:g} s, which are allowed"
                self._end(Refusal(408, "timeout", message, headers=CLOSE))
            else:
                self.transport.close()  # nobody has asked anything

        def _end(self, refusal: Refusal) -> None:
            self._stop_clock()
            if self.transport.is_closing():
                return
            self.transport.write(_raw(refusal, service.served.current.version))
            self.transport.close()
            service.metrics.answered("none", "other", refusal.status, service.settings.seconds)
            log.info("request", extra=fields(status=refusal.status, reason=refusal.message))

    return Limited


def _raw(refusal: Refusal, version: str) -> bytes:
    """A refusal as it goes over the wire, where there is no application to send it."""
    reply = refused(refusal, version)
    fixed = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}".encode()]
    lines += [name + b": " + value for name, value in [*reply.headers, *fixed]]
    return b"\r\n".join([*lines, b"", reply.body])
