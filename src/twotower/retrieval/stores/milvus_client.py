"""Milvus by its client: what is away, what is missing, and what is wrong."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from twotower.errors import ConfigError, StoreUnavailableError, TwoTowerError
from twotower.extras import require

T = TypeVar("T")

TOKEN, TOKEN_FILE = "MILVUS_TOKEN", "MILVUS_TOKEN_FILE"

NOT_FOUND, NOT_LOADED = 100, 101
"""Milvus's codes for a collection that is not there, and for one that is not in memory."""

AWAY = frozenset({1, 2, 3, 5, 7, 8, 27})
"""Milvus's codes for servers and their parts that are not ready, not available or overloaded."""

ATTEMPTS = 2
"""Times that something is tried which may be repeated."""

PAUSE_SECONDS = 1.0
"""For how long nobody tries to connect after somebody could not."""

CHANNEL = {
    "grpc.keepalive_time_ms": 300_000,  # servers end connections that ping more often than they allow
    "grpc.keepalive_permit_without_calls": False,
    "grpc.use_local_subchannel_pool": 1,  # else a new client waits as long as the broken connections of others
}
"""Options of gRPC: pymilvus pings every ten seconds, which gRPC's own servers answer by hanging up."""


class MissingCollectionError(Exception):
    """A collection is not there, or not any longer."""


class UnloadedCollectionError(Exception):
    """A collection is not in memory, as after a restart of Milvus Lite."""


class Client:
    """A client of one Milvus, connected when it is first needed.

    The token comes from `MILVUS_TOKEN`, or the file that `MILVUS_TOKEN_FILE` names.

    Args:
        address: `milvus://HOST:PORT/DATABASE`, `milvus+tls://…`, or the path of a file that ends in `.db`.
        seconds: How long connecting and each call may take.

    Raises:
        MissingExtraError: pymilvus is not installed.
    """

    def __init__(self, address: str, seconds: float) -> None:
        self.address, self.seconds = address, seconds
        self._pymilvus = require("pymilvus", "milvus")
        self._grpc = require("grpc", "milvus")
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises, with whole expressions
        self._client: Any = None
        self._failure: tuple[float, str] | None = None  # until when nobody need try, and why
        self._lock = threading.Lock()

    def repeatable(self, work: Callable[[Any], T]) -> T:
        """What a function makes of the client; tried again with another one where the connection breaks.

        Raises:
            MissingCollectionError, UnloadedCollectionError: A collection is not there, or not in memory.
            StoreUnavailableError: Milvus cannot be reached, or does not answer in time.
            TwoTowerError: What else Milvus says.
        """
        for left in reversed(range(ATTEMPTS)):
            try:
                return work(self._connected())
            except (self._pymilvus.MilvusException, self._grpc.RpcError) as error:
                code = getattr(error, "code", None)
                if code == NOT_LOADED:
                    raise UnloadedCollectionError(str(error)) from error
                if code == NOT_FOUND or "not exist" in str(error) or "not found" in str(error):
                    raise MissingCollectionError(str(error)) from error
                is_away = not isinstance(error, self._pymilvus.MilvusException) or code in AWAY or _is_of_grpc(error)
                self.close()
                if not is_away:
                    raise TwoTowerError(f"Milvus at {self.address}: {_said(error)}") from error
                if left == 0:
                    raise self._away(error) from error
        raise AssertionError

    def close(self) -> None:
        """Closes the connection; the next call connects anew."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.close()

    def data_type(self, name: str) -> Any:
        """A type of Milvus's."""
        return getattr(self._pymilvus.DataType, name)

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                if self._failure is not None and time.monotonic() < self._failure[0]:
                    raise StoreUnavailableError(self._failure[1])
                self._client = self._made()
            return self._client

    def _made(self) -> Any:
        uri, database = uri_of(self.address)
        try:
            client = self._pymilvus.MilvusClient(
                uri,
                token=token(),
                db_name=database,
                timeout=self.seconds,
                dedicated=True,  # pymilvus shares a connection by address, which no client then closes or mends
                grpc_options=CHANNEL,
            )
        except (self._pymilvus.MilvusException, self._grpc.RpcError) as error:
            away = self._away(error)
            self._failure = time.monotonic() + PAUSE_SECONDS, str(away)
            raise away from error
        self._failure = None
        return client

    def _away(self, error: Exception) -> StoreUnavailableError:
        return StoreUnavailableError(f"Milvus at {self.address} is away: {_said(error)}")


def uri_of(address: str) -> tuple[str, str]:
    """What the client takes for an address, and the database.

    Example:
        >>> uri_of("milvus://db:19530/shop"), uri_of("milvus+tls://db"), uri_of("./shop.db")
        (('http://db:19530', 'shop'), ('https://db:19530', ''), ('./shop.db', ''))
    """
    if address.endswith(".db"):
        return address, ""
    parts = urlsplit(address)
    scheme = "https" if parts.scheme == "milvus+tls" else "http"
    user = f"{parts.username}@" if parts.username else ""
    return f"{scheme}://{user}{parts.hostname}:{parts.port or 19530}", parts.path.strip("/")


def token() -> str:
    """The token of the environment; empty where there is none.

    Raises:
        ConfigError: The file that it is in cannot be read.
    """
    if file := os.environ.get(TOKEN_FILE):
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{TOKEN_FILE}={file}: {error}") from error
    return os.environ.get(TOKEN, "")


def _is_of_grpc(error: Exception) -> bool:
    """Whether an error of the client says that the network failed, after its own tries."""
    return "StatusCode." in str(error)


def _said(error: Exception) -> str:
    """The first line of what Milvus, or gRPC, says."""
    details = getattr(error, "details", None)
    said = str(details() if callable(details) else getattr(error, "message", "")) or str(error)
    return (said.strip() or type(error).__name__).splitlines()[0][:300]
