"""Limits and settings of a service."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from twotower.errors import ConfigError
from twotower.serving.hosts import Hosts

MAX_K = 1000
"""Return at most this many candidates per query."""

MAX_QUERIES = 256
"""Accept at most this many queries per request."""

MAX_IDS = 10_000
"""Accept at most this many ids in each list of a request."""

MAX_CONDITION_LENGTH = 2_000
"""Accept at most this many characters in a condition."""

MAX_TEXT_LENGTH = 1_000
"""Accept at most this many characters in a path's id or in a search text."""


@dataclass(frozen=True)
class Settings:
    """Settings of one service.

    Attributes:
        token: The token that requests must send as `Authorization: Bearer …`; None for no token.
        body_bytes: Maximum size of a body, in bytes.
        seconds: How long a client may take for the headers and for the body, and the service for the answer, each.
        waiting: How many requests may wait at once; further ones are asked to retry.
        watch_seconds: How often to check the bundle's folder; None for never.
        drain_seconds: How long requests in flight may take during shutdown.
        hosts: Accepted `Host` headers; default: the names of the machine itself.
    """

    token: str | None = None
    body_bytes: int = 1 << 20
    seconds: float = 10.0
    waiting: int = 512
    watch_seconds: float | None = 0.25
    drain_seconds: float = 10.0
    hosts: Hosts = field(default_factory=Hosts)


def read_token(path: Path) -> str:
    """The token in a file, without surrounding whitespace.

    Raises:
        ConfigError: The file cannot be read, is empty, or its token cannot be sent in a header.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path}: {error}") from error
    return checked_token(token, f"--token-file {path}")


def checked_token(token: str, source: str) -> str:
    """The token, if it can be sent in a header.

    Raises:
        ConfigError: It is empty, or has characters other than visible ASCII.

    Example:
        >>> checked_token("two words", "TWOTOWER_TOKEN")
        Traceback (most recent call last):
        twotower.errors.ConfigError: TWOTOWER_TOKEN: expected a token of visible ASCII characters without spaces
    """
    if not token or not all("!" <= sign <= "~" for sign in token):
        raise ConfigError(f"{source}: expected a token of visible ASCII characters without spaces")
    return token
