"""`Reply`: an answer that sends itself over ASGI, and errors in their common shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

import msgspec

from twotower.serving.answers import ErrorAnswer, ErrorDetails
from twotower.serving.refusals import Refusal

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = "application/json"

_encoder = msgspec.json.Encoder(enc_hook=str)


class Reply:
    """One answer: a status, a body and headers. It is an ASGI application that sends itself."""

    def __init__(
        self, body: bytes, media_type: str = JSON, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status, self.body = status, body
        named = {"content-length": str(len(body)), **(headers or {})}
        if body:
            named["content-type"] = media_type
        self.headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer, without the body for HEAD."""
        del receive
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self.body})


def json_of(answer: object) -> bytes:
    """An answer as JSON."""
    return _encoder.encode(answer)


def refused(refusal: Refusal, version: str) -> Reply:
    """A refusal in the common shape of all errors."""
    answer = ErrorAnswer(ErrorDetails(refusal.code, refusal.message, refusal.field), version)
    return Reply(json_of(answer), status=refusal.status, headers=refusal.headers)
