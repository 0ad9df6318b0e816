"""Runs a service with uvicorn until it is stopped, and shuts down without dropping requests."""

from __future__ import annotations

import asyncio
import errno
import gc
import math
import select
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
from twotower.serving.resources import raise_descriptor_limit, return_freed_memory
from twotower.serving.service import Service

SWITCH_SECONDS = 0.0005
"""Python's thread switch interval: a tenth of the default, to keep waits short."""

LINGER_SECONDS = 1.0
"""Accept connections for this long during shutdown, so that load balancers can see that the service is not ready."""

ACCEPT_SECONDS = 0.002
"""Wait this long for connections to be accepted before looking again whether others are waiting."""

ARRIVAL_SECONDS = 0.25
"""Wait this long for requests in connections that were accepted just before the service stopped listening."""

KEEP_ALIVE_SECONDS = 75
"""Keep idle connections at least this long: longer than proxies do, so that the proxy closes them."""

BACKLOG = 2048
"""Let the system queue this many connections."""


def listening(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: The address to listen on, or its name.
        port: The port; 0 for a free one.

    Raises:
        ConfigError: The port is in use, or it is not possible to listen there.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)  # prefer IPv4
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is in use by another program; choose one with --port, 0 for a free one"
            ) from error
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error


def run(service: Service, listener: socket.socket, threads: int = 1) -> None:
    """Serves until SIGTERM or SIGINT; requests in flight may finish within the settings' drain time.

    Args:
        service: The service.
        listener: The socket from `listening`.
        threads: Number of threads per search.

    Raises:
        MissingExtraError: uvicorn is not installed.
    """
    uvicorn, http = require("uvicorn", "serve"), require("uvicorn.protocols.http.httptools_impl", "serve")
    write_logs()
    torch.set_num_threads(threads)
    sys.setswitchinterval(SWITCH_SECONDS)
    return_freed_memory()
    service.connection_limit = raise_descriptor_limit()
    gc.collect()
    gc.freeze()  # what is loaded now stays: exclude it from later collections
    config = uvicorn.Config(
        noting_answers(service),
        http=partial(Connection, service, http.HttpToolsProtocol),
        ws="none",
        log_config=None,
        access_log=False,
        backlog=BACKLOG,
        server_header=False,
        timeout_keep_alive=max(KEEP_ALIVE_SECONDS, math.ceil(service.settings.seconds) + 1),
        timeout_graceful_shutdown=int(service.settings.drain_seconds) or 1,
    )
    server = _server_class(uvicorn)(config, service)
    server.run(sockets=[listener])


def _server_class(uvicorn: Any) -> type[Any]:
    class Server(uvicorn.Server):  # type: ignore[misc]
        """A server that reports not ready at once when stopped, and stops accepting connections a moment later."""

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

        def _end(self, tries: int = 100) -> None:
            waiting = select.poll()
            for server in self.servers:
                for listener in server.sockets:
                    waiting.register(listener, select.POLLIN)
            if tries > 0 and waiting.poll(0):  # closing would reset connections that are not accepted yet
                self.loop.call_later(ACCEPT_SECONDS, self._end, tries - 1)
                return
            for server in self.servers:
                server.close()
            self.loop.call_later(ARRIVAL_SECONDS, self._exit)

        def _exit(self) -> None:
            self.should_exit = True

    return Server
