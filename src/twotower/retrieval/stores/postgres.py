"""A pool of PostgreSQL connections with timeouts, which replaces broken connections."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from twotower.errors import StoreUnavailableError, TwoTowerError
from twotower.extras import require

T = TypeVar("T")

ATTEMPTS = 3
"""Try a repeatable operation this many times."""

PAUSE_SECONDS = 1.0
"""After a failed connection, do not try another for this many seconds; calls then fail fast instead of queueing up."""

SETTINGS = {"hnsw.iterative_scan": "relaxed_order", "jit": "off", "plan_cache_mode": "force_custom_plan"}
"""Search the graph iteratively until enough candidates are found, and plan each search for its own parameters."""

MAX_IDLE = 8
"""Keep at most this many idle connections."""


class Connections:
    """Connections to one database.

    The password comes from `PGPASSWORD`, the file that `PGPASSFILE` names, or a service file, as libpq reads them.

    Args:
        address: `postgresql://…`, without a password.
        seconds: Timeout for connecting and for each statement.

    Raises:
        MissingExtraError: psycopg is not installed.
    """

    def __init__(self, address: str, seconds: float) -> None:
        self.address, self.seconds = address, seconds
        self.psycopg = require("psycopg", "pgvector")
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)
        self._failure: tuple[float, str] | None = None  # do not reconnect until then, and the error to raise

    def repeatable(self, work: Callable[[Any], T]) -> T:
        """Calls a function with a connection, and retries on another connection if that one breaks.

        Args:
            work: The function, run in one transaction. It may run several times, so it must be safe to repeat.

        Raises:
            StoreUnavailableError: The database cannot be reached, or does not answer in time.
            TwoTowerError: The function raises one, or the database reports another error.
        """
        for left in reversed(range(ATTEMPTS)):
            connection = self._taken()
            try:
                with connection.transaction():
                    done = work(connection)
            except (self.psycopg.OperationalError, self.psycopg.InterfaceError) as error:
                _close(connection)
                self.close()  # the idle ones may be broken as well
                if left == 0 or isinstance(error, self.psycopg.errors.QueryCanceled):
                    raise self._unavailable(error) from error
            except self.psycopg.errors.UndefinedTable:
                self._give_back(connection)
                raise
            except self.psycopg.Error as error:
                _close(connection)
                raise TwoTowerError(f"PostgreSQL at {self.address}: {_first_line(error)}") from error
            except BaseException:
                _close(connection)
                raise
            else:
                self._give_back(connection)
                return done
        raise AssertionError

    def once(self, work: Callable[[Any], T]) -> T:
        """Calls a function with a dedicated connection, without a statement timeout and without retries.

        Raises:
            StoreUnavailableError, TwoTowerError: As `repeatable`.
        """
        try:
            with self._connected(0.0) as connection:
                return work(connection)
        except (self.psycopg.OperationalError, self.psycopg.InterfaceError) as error:
            raise self._unavailable(error) from error
        except self.psycopg.Error as error:
            raise TwoTowerError(f"PostgreSQL at {self.address}: {_first_line(error)}") from error

    def close(self) -> None:
        """Closes the idle connections."""
        _close_all(self._idle)

    def _taken(self) -> Any:
        """An idle connection, or a new one.

        Raises:
            StoreUnavailableError: Connecting fails, or failed a moment ago.
        """
        with self._lock:
            if self._idle:
                return self._idle.pop()
        if self._failure is not None and time.monotonic() < self._failure[0]:
            raise StoreUnavailableError(self._failure[1])
        try:
            connection = self._connected(self.seconds)
        except (self.psycopg.OperationalError, self.psycopg.InterfaceError) as error:
            unavailable = self._unavailable(error)
            self._failure = time.monotonic() + PAUSE_SECONDS, str(unavailable)
            raise unavailable from error
        self._failure = None
        return connection

    def _give_back(self, connection: Any) -> None:
        with self._lock:
            if len(self._idle) < MAX_IDLE:
                self._idle.append(connection)
                return
        _close(connection)

    def _connected(self, seconds: float) -> Any:
        options = {"statement_timeout": round(1000 * seconds)} | SETTINGS
        return self.psycopg.connect(
            self.address,
            autocommit=True,
            connect_timeout=max(2, round(self.seconds)),
            options=" ".join(f"-c {name}={value}" for name, value in options.items()),
            application_name="twotower",
            keepalives_idle=10,
            tcp_user_timeout=round(1000 * max(self.seconds, 1.0)),
        )

    def _unavailable(self, error: Exception) -> StoreUnavailableError:
        return StoreUnavailableError(f"PostgreSQL at {self.address} is unavailable: {_first_line(error)}")


def _close(connection: Any) -> None:
    with suppress(Exception):
        connection.close()


def _close_all(connections: list[Any]) -> None:
    """Closes and removes all connections of a list, even while other threads take from it."""
    while connections:
        with suppress(IndexError):
            _close(connections.pop())


def _first_line(error: Exception) -> str:
    """The first line of the database's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
