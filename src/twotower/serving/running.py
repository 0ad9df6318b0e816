"""Running a service with uvicorn until it is told to end, and ending without cutting anybody off."""

from __future__ import annotations

import asyncio
import errno
import gc
import math
import socket
import sys
from functools import partial
from types import FrameType
from typing import Any

import torch

from twotower.errors import ConfigError
from twotower.extras import require
from twotower.serving.heads import Connection, noting_answers
from twotower.serving.logs import fields, log, write_logs
from twotower.serving.service import Service

SWITCH_SECONDS = 0.0005
"""How long a thread may keep others from running Python: less than a tenth of Python's own, for short waits."""

LINGER_SECONDS = 1.0
"""For how long a service that ends still takes connections, so that others can see that it is not ready."""

KEEP_ALIVE_SECONDS = 75
"""For how long an idle connection is kept, at least: longer than proxies keep theirs, so that it is they who end it."""

LONGEST_QUEUE = 2048
"""Connections that the system may keep waiting."""


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: The address to listen at, or a name of it.
        port: The port; 0 for a free one.

    Raises:
        ConfigError: The port is taken, or nothing may listen there.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)  # of a name's addresses, IPv4's
        return socket.create_server(address[:2], family=family, backlog=LONGEST_QUEUE)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is taken by another program; choose one with --port, 0 for a free one"
            ) from error
        raise ConfigError(f"nothing can listen at {host}, port {port}: {error.strerror or error}") from error


def run(service: Service, listener: socket.socket, threads: int = 1) -> None:
    """Serves until SIGTERM or SIGINT; requests in flight are finished within the time that the settings give.

    Args:
        service: What answers.
        listener: What `listening` gave.
        threads: Threads of one search.

    Raises:
        MissingExtraError: uvicorn is not installed.
    """
    uvicorn, http = require("uvicorn", "serve"), require("uvicorn.protocols.http.httptools_impl", "serve")
    write_logs()
    torch.set_num_threads(threads)
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # what is loaded stays, and need not be looked through again
    config = uvicorn.Config(
        noting_answers(service),
        http=partial(Connection, service, http.HttpToolsProtocol),
        ws="none",
        log_config=None,
        access_log=False,
        backlog=LONGEST_QUEUE,
        server_header=False,
        timeout_keep_alive=max(KEEP_ALIVE_SECONDS, math.ceil(service.settings.seconds) + 1),
        timeout_graceful_shutdown=int(service.settings.drain_seconds) or 1,
    )
    server = _server_class(uvicorn)(config, service)
    server.run(sockets=[listener])


def _server_class(uvicorn: Any) -> type[Any]:
    class Server(uvicorn.Server):  # type: ignore[misc]
        """Says at once that it is not ready, and stops taking connections a moment later."""

        def __init__(self, config: Any, service: Service) -> None:
            super().__init__(config)
            self.service = service

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                host, port = self.servers[0].sockets[0].getsockname()[:2]
                version = self.service.served.current.version
                log.info("listening", extra=fields(host=host, port=port, version=version))

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            del sig, frame
            if self.service.backend.draining:
                self.force_exit = self.should_exit = True
                return
            self.service.backend.draining = True
            self.loop.call_soon_threadsafe(self._end_soon)

        async def serve(self, sockets: Any = None) -> None:
            self.loop = asyncio.get_running_loop()
            await super().serve(sockets=sockets)
            log.info("ended", extra=fields(version=self.service.served.current.version))

        def _end_soon(self) -> None:
            log.info("draining", extra=fields(in_flight=self.service.in_flight))
            self.loop.call_later(LINGER_SECONDS, self._end)

        def _end(self) -> None:
            self.should_exit = True

    return Server
