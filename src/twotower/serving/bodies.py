"""Reads a request's body, up to the size and time limits, and its URL parameters."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from twotower.serving.mistakes import invalid
from twotower.serving.refusals import Refusal

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")

CLOSE = {"connection": "close"}
"""Closes the connection, as the rest of the body is not read."""

EXCERPT_BYTES = 20
"""Bytes of a malformed body that its error shows."""


async def body_of(request: Request, largest: int, seconds: float) -> bytes:
    """The body.

    Args:
        request: The request.
        largest: Maximum size of the body, in bytes.
        seconds: How long the client may take to send it.

    Raises:
        Refusal: Its content type is not JSON, it is longer than allowed, or the client takes too long.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Refusal(
            415, "unsupported_media_type", f"content-type is {media_type!r}; expected application/json", headers=CLOSE
        )
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > largest:
        raise _too_large(largest)
    try:
        async with asyncio.timeout(seconds):
            return await _received(request, largest)
    except TimeoutError as error:
        message = f"the body took longer than {seconds:g} s, the limit"
        raise Refusal(408, "timeout", message, headers=CLOSE) from error


async def _received(request: Request, largest: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > largest:
            raise _too_large(largest)
        parts.append(part)
    return b"".join(parts)


def decoded(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """A body, decoded to its struct.

    Raises:
        Refusal: It is not JSON, or does not fit the struct.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        values = _plain(body)
        if (name := _repeated(body)) is not None:  # `values` has its last value, and the error may be about another
            raise Refusal(400, "invalid", f"{name} is repeated; expected it once", name) from error
        raise invalid(error, values, decoder.type) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, "not_json", _not_json(body, str(error))) from error
    except RecursionError as error:
        raise Refusal(400, "not_json", "the body is nested too deeply") from error


def parameters(pairs: Iterable[tuple[str, str]], kind: type[T]) -> T:
    """The query parameters of a URL, as a struct.

    Raises:
        Refusal: A name is unknown or repeated, or a value is invalid.
    """
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise Refusal(400, "invalid", f"{name} is repeated; expected it once", name)
        values[name] = value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error, values, kind) from error


def _plain(body: bytes) -> Any:
    """A body without types.

    Raises:
        Refusal: It is not JSON after the first value that does not fit, or a number in it is out of range.
    """
    try:
        return msgspec.json.decode(body)
    except msgspec.ValidationError as error:
        raise Refusal(400, "invalid", "the body has a number that is out of range; expected at most 1.8e308") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, "not_json", _not_json(body, str(error))) from error
    except RecursionError as error:
        raise Refusal(400, "not_json", "the body is nested too deeply") from error


def _not_json(body: bytes, error: str) -> str:
    """Where a body stops being JSON."""
    if not body.strip():
        return "the body is empty; expected a JSON object"
    if (found := re.fullmatch(r"JSON is malformed: (.*) \(byte (\d+)\)", error)) is None:
        return f"the body is not valid JSON: {error}"
    place = int(found[2])
    text = body[place : place + EXCERPT_BYTES].decode(errors="replace")
    return f"the body is not valid JSON: {found[1]} at byte {place}{f', {text!r}' if text else ''}"


def _too_large(largest: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is longer than {largest} bytes, the limit", headers=CLOSE)


def _repeated(body: bytes) -> str | None:
    """A name that some object of a JSON body has twice."""
    found: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                found.append(name)
            names.add(name)

    try:
        json.loads(body, object_pairs_hook=note)
    except RecursionError as error:
        raise Refusal(400, "not_json", "the body is nested too deeply") from error
    except ValueError:  # Python reads less than msgspec, which has read it
        return None
    return found[0] if found else None
