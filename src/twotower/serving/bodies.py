"""Reads a request's body, up to the size limit, and its URL parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from twotower.serving.refusals import Refusal

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")

CLOSE = {"connection": "close"}
"""Closes the connection, as the rest of the body is not read."""


async def body_of(request: Request, largest: int) -> bytes:
    """The body.

    Raises:
        Refusal: Its content type is not JSON, or it is longer than allowed.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Refusal(
            415, "unsupported_media_type", f"content-type is {media_type!r}; expected application/json", headers=CLOSE
        )
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > largest:
        raise _too_large(largest)
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
        raise invalid(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, "not_json", f"the body is not valid JSON: {error}") from error
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
        raise invalid(error) from error


def invalid(error: msgspec.ValidationError) -> Refusal:
    """The refusal for a validation error, with the field that it is about.

    Example:
        >>> class Body(msgspec.Struct):
        ...     k: int
        >>> try:
        ...     msgspec.json.decode(b'{"k": "ten"}', type=Body)
        ... except msgspec.ValidationError as error:
        ...     print(invalid(error).field, "|", invalid(error).message)
        k | Expected `int`, got `str` - at `$.k`
    """
    message = str(error)
    found = re.search(r"at `(?:key in )?\$\.?(.*)`$", message)
    if found is None:
        found = re.search(r"unknown field `(.*)`$", message)
    return Refusal(400, "invalid", message, (found.group(1) or None) if found else None)


def _too_large(largest: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is longer than {largest} bytes, the limit", headers=CLOSE)
