"""`Service`: the ASGI application that answers over HTTP."""

from __future__ import annotations

import asyncio
import hmac
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from twotower.errors import StoreUnavailableError, StoreVersionError, TwoTowerError, UnknownCandidateError
from twotower.extras import require
from twotower.serving.bodies import CLOSE, body_of, decoded, parameters
from twotower.serving.endpoints import Backend, Call, Endpoint
from twotower.serving.engine import Engine
from twotower.serving.hosts import check_origin
from twotower.serving.logs import fields, log
from twotower.serving.metrics import Metrics
from twotower.serving.openapi import description
from twotower.serving.page import files
from twotower.serving.refusals import Refusal
from twotower.serving.replies import Receive, Reply, Scope, Send, json_of, refused
from twotower.serving.routes import ENDPOINTS
from twotower.serving.served import Served
from twotower.serving.settings import Settings

if TYPE_CHECKING:
    from starlette.requests import Request

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
"""Headers of every answer; the page may load from and send to this service only."""

_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

REQUEST_POLL_SECONDS = 0.25
"""How often a worker that does not watch the folder checks for reload requests from other workers."""

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Service:
    """Answers requests from one bundle.

    Args:
        served: The loaded bundle.
        settings: The service's limits.

    Raises:
        MissingExtraError: Starlette or prometheus_client is not installed.
    """

    def __init__(self, served: Served, settings: Settings | None = None) -> None:
        self.served, self.settings = served, settings or Settings()
        self.in_flight = 0
        self.connections, self.connection_limit = 0, sys.maxsize
        self.engine = Engine(served.retriever, self.settings.waiting)
        self.metrics = Metrics(served, self.engine.waiting)
        self.backend = Backend(served, self.engine, self.metrics)
        self._app = self._application()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: answers, counts and logs one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        status = 0

        async def noting(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *headers_of(request_id)]
            await send(message)

        self.in_flight += 1
        try:
            if (refusal := self._wrong_host(scope)) is not None:
                await refused(refusal, self.served.current.version)(scope, receive, noting)
                return
            await self._app(scope, receive, noting)
        finally:
            self.in_flight -= 1
            route = scope.get("twotower.route", "none")
            self.answered(scope["method"], route, status, time.perf_counter() - started, request_id)

    def answered(self, method: str, route: str, status: int, seconds: float, request_id: str) -> None:
        """Counts and logs one request."""
        counted = method if method in ("GET", "HEAD", "POST", "OPTIONS") else "other"
        self.metrics.answered(route, counted, status, seconds)
        line = fields(
            method=method,
            path=route,
            status=status,
            ms=round(1000 * seconds, 2),
            version=self.served.current.version,
            request=request_id,
        )
        log.info("request", extra=line)

    def cut_off(self) -> None:
        """Counts and logs a client that is cut off because it does not read its answer."""
        self.metrics.refused("unread")
        log.warning("cut off", extra=fields(reason="the client does not read its answer"))

    def turned_away(self) -> None:
        """Counts a connection that is closed at once because too many are open."""
        self.metrics.refused("connections")

    def close(self) -> None:
        """Stops the watch and the engine."""
        self.served.stop()
        self.engine.stop()

    def _application(self) -> Any:
        applications, routing = (require(f"starlette.{name}", "serve") for name in ("applications", "routing"))
        exceptions = require("starlette.exceptions", "serve")
        routes = [
            routing.Route(endpoint.path, self._handler(endpoint), methods=[endpoint.method]) for endpoint in ENDPOINTS
        ]
        described = Reply(json_of(description(ENDPOINTS)))
        routes.append(routing.Route("/openapi.json", self._fixed("/openapi.json", described), methods=["GET"]))
        for path, reply in files().items():
            routes.append(routing.Route(path, self._fixed(path, reply), methods=["GET"]))

        @asynccontextmanager
        async def lifespan(app: object) -> AsyncIterator[None]:
            del app
            self.start()
            yield
            self.close()

        return applications.Starlette(
            routes=routes, lifespan=lifespan, exception_handlers={exceptions.HTTPException: self._not_routed}
        )

    def start(self) -> None:
        """Starts the engine and the watch."""
        self.engine.start()
        if self.settings.watch_seconds is not None:
            self.served.watch(self.settings.watch_seconds)
        elif self.served.has_others:
            self.served.watch(REQUEST_POLL_SECONDS, on_request_only=True)

    def _fixed(self, path: str, reply: Reply) -> Callable[[Request], Awaitable[Reply]]:
        async def handle(request: Request) -> Reply:
            request.scope["twotower.route"] = path
            return reply

        return handle

    def _handler(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Reply]]:
        decoder = None if endpoint.body is None else msgspec.json.Decoder(endpoint.body)

        async def handle(request: Request) -> Reply:
            request.scope["twotower.route"] = endpoint.path
            try:
                call = await self._call(endpoint, decoder, request)
                async with asyncio.timeout(self.settings.seconds):
                    return await endpoint.handler(call)
            except Exception as error:
                refusal = self._refusal(error)
            return refused(refusal, self.served.current.version)

        return handle

    async def _call(self, endpoint: Endpoint, decoder: msgspec.json.Decoder[Any] | None, request: Request) -> Call:
        if endpoint.changes:
            check_origin(request.headers)
        if endpoint.guarded:
            self._check_token(request)
        asked = parameters(request.query_params.multi_items(), endpoint.parameters)
        body = None
        if decoder is not None:
            body = decoded(await body_of(request, self.settings.body_bytes, self.settings.seconds), decoder)
        return Call(self.backend, request.path_params, asked, body)

    def _wrong_host(self, scope: Scope) -> Refusal | None:
        """The refusal of a request whose `Host` header is not accepted; otherwise None."""
        try:
            self.settings.hosts.check([value for name, value in scope["headers"] if name == b"host"])
        except Refusal as refusal:
            self.metrics.refused("host")
            return refusal
        return None

    def _check_token(self, request: Request) -> None:
        if self.settings.token is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(token.strip().encode(), self.settings.token.encode())
        if scheme.lower() != "bearer" or not same:
            message = "expected the header `Authorization: Bearer TOKEN` with this service's token"
            raise Refusal(401, "unauthorized", message, headers={"www-authenticate": "Bearer", **CLOSE})

    def _refusal(self, error: Exception) -> Refusal:
        """The refusal that a client gets for an error."""
        if isinstance(error, Refusal):
            if error.code == "cross_origin":
                self.metrics.refused("origin")
            return error
        if isinstance(error, UnknownCandidateError):
            return Refusal(404, "unknown_candidate", str(error), "candidate")
        if isinstance(error, StoreUnavailableError | StoreVersionError):
            return self._store_failed(error)
        if isinstance(error, TwoTowerError):
            return Refusal(400, "invalid", str(error), error.field)
        if isinstance(error, TimeoutError):
            message = f"the answer took longer than {self.settings.seconds:g} s, the limit; try again in a moment"
            return Refusal(503, "overloaded", message, headers={"retry-after": "1"})
        if type(error).__name__ == "ClientDisconnect":
            return Refusal(400, "disconnected", "the client disconnected before its body was complete")
        log.error("failure", exc_info=error, extra=fields(kind=type(error).__name__))
        return Refusal(500, "failure", "the service failed; see its log")

    def _store_failed(self, error: TwoTowerError) -> Refusal:
        """The refusal for a store that cannot answer; only the log contains its address."""
        self.metrics.store_failed()
        log.warning("store failed", extra=fields(kind=type(error).__name__, reason=str(error)))
        if isinstance(error, StoreUnavailableError):
            message = "the candidate store is unavailable; try again in a moment"
            return Refusal(503, "store_unavailable", message, headers={"retry-after": "1"})
        message = "the candidate store has vectors of another model; serve a bundle that fits it"
        return Refusal(503, "store_changed", message, headers={"retry-after": "10"})

    async def _not_routed(self, request: Request, error: Any) -> Reply:
        """404 and 405 in the common shape; OPTIONS gets the allowed methods."""
        if error.status_code == 405:
            allowed = ", ".join(sorted({*error.headers["Allow"].split(", "), "OPTIONS"}))
            if request.method == "OPTIONS":
                return Reply(b"", status=204, headers={"allow": allowed})
            message = f"{request.method} is not allowed here; expected one of {allowed}"
            refusal = Refusal(405, "method_not_allowed", message, headers={"allow": allowed})
        else:
            refusal = Refusal(error.status_code, "not_found", "there is nothing at this address; see /openapi.json")
        return refused(refusal, self.served.current.version)


def headers_of(request_id: str) -> list[tuple[bytes, bytes]]:
    """Headers that are added to every answer."""
    return [*_HEADERS, (b"x-request-id", request_id.encode())]


def new_request_id() -> str:
    """An id for a request that has none."""
    return uuid.uuid4().hex[:16]


def _request_id(scope: Scope) -> str:
    """The client's id for its request, or else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            if REQUEST_ID.fullmatch(text):
                return text
    return new_request_id()
