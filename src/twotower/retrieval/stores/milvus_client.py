"""Connects to Milvus, retries, and turns its errors into those of this package."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from twotower.errors import ConfigError, StoreUnavailableError, TwoTowerError
from twotower.extras import require

T = TypeVar("T")

TOKEN, TOKEN_FILE = "MILVUS_TOKEN", "MILVUS_TOKEN_FILE"

NOT_FOUND, NOT_LOADED = 100, 101
"""Milvus's error codes for a collection that does not exist, and for one that is not loaded into memory."""

DOWN_CODES = frozenset({1, 2, 3, 5, 7, 8, 27})
"""Milvus's error codes for servers and components that are not ready, unavailable or overloaded."""

ATTEMPTS = 2
"""Try a repeatable operation this many times."""

PAUSE_SECONDS = 1.0
"""After a failed connection, do not try another for this many seconds."""

TIMED_CALLS = frozenset(
    {
        *("list_collections", "has_collection", "describe_collection", "list_aliases", "alter_collection_properties"),
        *("create_alias", "alter_alias", "create_collection", "drop_collection"),
        *("insert", "upsert", "delete", "query", "query_iterator", "search"),
    }
)
"""Give these calls a timeout; pymilvus by default waits for ever. The others take as long as a catalogue is large."""

CHANNEL = {
    "grpc.keepalive_time_ms": 300_000,  # servers close connections that ping more often than allowed
    "grpc.keepalive_permit_without_calls": False,
    "grpc.use_local_subchannel_pool": 1,  # else a new client inherits the backoff of broken ones
}
"""gRPC options; pymilvus by default pings every ten seconds, and gRPC servers close such connections."""


class MissingCollectionError(Exception):
    """A collection does not exist, or no longer exists."""


class UnloadedCollectionError(Exception):
    """A collection is not loaded into memory, as after a restart of Milvus Lite."""


class Client:
    """A client of one Milvus server, connected on first use.

    The token comes from `MILVUS_TOKEN`, or the file that `MILVUS_TOKEN_FILE` names.

    Args:
        address: `milvus://HOST:PORT/DATABASE`, `milvus+tls://…`, or the path of a file that ends in `.db`.
        seconds: Timeout for connecting and for each call.

    Raises:
        MissingExtraError: pymilvus is not installed.
    """

    def __init__(self, address: str, seconds: float) -> None:
        self.address, self.seconds = address, seconds
        self._pymilvus = require("pymilvus", "milvus")
        self._grpc = require("grpc", "milvus")
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it also raises, with whole expressions
        self._client: Any = None
        self._failure: tuple[float, str] | None = None  # do not reconnect until then, and the error to raise
        self._lock = threading.Lock()

    def repeatable(self, work: Callable[[Any], T]) -> T:
        """Calls a function with the client, and retries with a new client if the connection breaks.

        Raises:
            MissingCollectionError, UnloadedCollectionError: A collection does not exist, or is not in memory.
            StoreUnavailableError: Milvus cannot be reached, or does not answer in time.
            TwoTowerError: Milvus reports another error.
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
                is_down = (
                    not isinstance(error, self._pymilvus.MilvusException) or code in DOWN_CODES or _is_of_grpc(error)
                )
                self.close()
                if not is_down:
                    raise TwoTowerError(f"Milvus at {self.address}: {_first_line(error)}") from error
                if left == 0:
                    raise self._unavailable(error) from error
        raise AssertionError

    def close(self) -> None:
        """Closes the connection; the next call reconnects."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.close()

    def data_type(self, name: str) -> Any:
        """A Milvus data type by name."""
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
                dedicated=True,  # else clients of one address share a connection that none of them closes or repairs
                grpc_options=CHANNEL,
            )
        except (self._pymilvus.MilvusException, self._grpc.RpcError) as error:
            unavailable = self._unavailable(error)
            self._failure = time.monotonic() + PAUSE_SECONDS, str(unavailable)
            raise unavailable from error
        self._failure = None
        return _Timed(client, self.seconds)

    def _unavailable(self, error: Exception) -> StoreUnavailableError:
        return StoreUnavailableError(f"Milvus at {self.address} is unavailable: {_first_line(error)}")


class _Timed:
    """A client of pymilvus whose calls have a timeout.

    Args:
        client: The client.
        seconds: The timeout of calls that are given no other.
    """

    def __init__(self, client: Any, seconds: float) -> None:
        self._client, self._seconds = client, seconds

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        return partial(call, timeout=self._seconds) if name in TIMED_CALLS else call


def uri_of(address: str) -> tuple[str, str]:
    """The URI and the database name to pass to the client.

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
    """The token from the environment; empty if there is none.

    Raises:
        ConfigError: The token file cannot be read.
    """
    if file := os.environ.get(TOKEN_FILE):
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{TOKEN_FILE}={file}: {error}") from error
    return os.environ.get(TOKEN, "")


def _is_of_grpc(error: Exception) -> bool:
    """Whether a client error reports a network failure, after the client's own retries."""
    return "StatusCode." in str(error)


def _first_line(error: Exception) -> str:
    """The first line of the message from Milvus or gRPC."""
    details = getattr(error, "details", None)
    message = str(details() if callable(details) else getattr(error, "message", "")) or str(error)
    return (message.strip() or type(error).__name__).splitlines()[0][:300]
