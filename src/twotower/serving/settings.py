"""What a service allows, and how it listens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from twotower.errors import ConfigError
from twotower.serving.hosts import Hosts

LARGEST_K = 1000
"""Candidates that one answer may hold for a query."""

LARGEST_BATCH = 256
"""Queries in one request."""

LONGEST_LIST = 10_000
"""Ids in one of a request's lists."""

LONGEST_CONDITION = 2_000
"""Letters of a condition."""

LONGEST_TEXT = 1_000
"""Letters of an id in a path, or of a search."""


@dataclass(frozen=True)
class Settings:
    """What one service allows.

    Attributes:
        token: What requests have to bring as `Authorization: Bearer …`; None for nothing.
        body_bytes: Bytes of a body, at most.
        seconds: A request that takes longer, its body included, is given up.
        waiting: Requests that may wait at once; others are told to come again.
        watch_seconds: How often the bundle's folder is looked at; None for never.
        drain_seconds: How long requests in flight have when the service is told to end.
        hosts: What requests may call it; default: what a machine calls itself.
    """

    token: str | None = None
    body_bytes: int = 1 << 20
    seconds: float = 10.0
    waiting: int = 512
    watch_seconds: float | None = 0.25
    drain_seconds: float = 10.0
    hosts: Hosts = field(default_factory=Hosts)


def read_token(path: Path) -> str:
    """The token that a file holds, without the white space around it.

    Raises:
        ConfigError: The file cannot be read, or holds none, or one that no header can carry.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path}: {error}") from error
    return checked_token(token, f"--token-file {path}")


def checked_token(token: str, source: str) -> str:
    """The token, if a header can carry it.

    Raises:
        ConfigError: It is empty, or has other signs than visible ASCII.

    Example:
        >>> checked_token("two words", "TWOTOWER_TOKEN")
        Traceback (most recent call last):
        twotower.errors.ConfigError: TWOTOWER_TOKEN: expected a token of visible ASCII signs without spaces
    """
    if not token or not all("!" <= sign <= "~" for sign in token):
        raise ConfigError(f"{source}: expected a token of visible ASCII signs without spaces")
    return token
