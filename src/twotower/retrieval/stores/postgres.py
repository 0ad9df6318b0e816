"""Connections to PostgreSQL: kept for the next call, made anew where they broke, with limits on how long all takes."""

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
"""Times that something is tried which may be repeated."""

PAUSE_SECONDS = 1.0
"""For how long nobody tries to connect after somebody could not, so that many do not wait one after the other."""

SETTINGS = {"hnsw.iterative_scan": "relaxed_order", "jit": "off", "plan_cache_mode": "force_custom_plan"}
"""The graph is searched on until enough candidates are found; a plan is made for the very values of each search."""

KEPT = 8
"""Connections that are kept, at most."""


class Connections:
    """Connections to one database.

    The password comes from `PGPASSWORD`, the file that `PGPASSFILE` names, or a service file, as libpq reads them.

    Args:
        address: `postgresql://…`, without a password.
        seconds: How long connecting and each statement may take.

    Raises:
        MissingExtraError: psycopg is not installed.
    """

    def __init__(self, address: str, seconds: float) -> None:
        self.address, self.seconds = address, seconds
        self.psycopg = require("psycopg", "pgvector")
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)
        self._failure: tuple[float, str] | None = None  # until when nobody need try, and why

    def repeatable(self, work: Callable[[Any], T]) -> T:
        """What a function makes of a connection; tried again on another one where a connection breaks.

        Args:
            work: What to do, in one transaction. It may run several times, so it has to be safe to repeat.

        Raises:
            StoreUnavailableError: The database cannot be reached, or does not answer in time.
            TwoTowerError: Whatever the function raises, or the database says of it.
        """
        for left in reversed(range(ATTEMPTS)):
            connection = self._taken()
            try:
                with connection.transaction():
                    done = work(connection)
            except (self.psycopg.OperationalError, self.psycopg.InterfaceError) as error:
                _close(connection)
                self.close()  # the others may be broken as well
                if left == 0 or isinstance(error, self.psycopg.errors.QueryCanceled):
                    raise self._away(error) from error
            except self.psycopg.errors.UndefinedTable:
                self._give_back(connection)
                raise
            except self.psycopg.Error as error:
                _close(connection)
                raise TwoTowerError(f"PostgreSQL at {self.address}: {_said(error)}") from error
            except BaseException:
                _close(connection)
                raise
            else:
                self._give_back(connection)
                return done
        raise AssertionError

    def once(self, work: Callable[[Any], T]) -> T:
        """What a function makes of a connection of its own, without a limit of time and without another try.

        Raises:
            StoreUnavailableError, TwoTowerError: As `repeatable`.
        """
        try:
            with self._connected(0.0) as connection:
                return work(connection)
        except (self.psycopg.OperationalError, self.psycopg.InterfaceError) as error:
            raise self._away(error) from error
        except self.psycopg.Error as error:
            raise TwoTowerError(f"PostgreSQL at {self.address}: {_said(error)}") from error

    def close(self) -> None:
        """Closes those that are kept."""
        _close_all(self._idle)

    def _taken(self) -> Any:
        """A connection that was kept, or another one.

        Raises:
            StoreUnavailableError: None can be had, or could not a moment ago.
        """
        with self._lock:
            if self._idle:
                return self._idle.pop()
        if self._failure is not None and time.monotonic() < self._failure[0]:
            raise StoreUnavailableError(self._failure[1])
        try:
            connection = self._connected(self.seconds)
        except (self.psycopg.OperationalError, self.psycopg.InterfaceError) as error:
            away = self._away(error)
            self._failure = time.monotonic() + PAUSE_SECONDS, str(away)
            raise away from error
        self._failure = None
        return connection

    def _give_back(self, connection: Any) -> None:
        with self._lock:
            if len(self._idle) < KEPT:
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

    def _away(self, error: Exception) -> StoreUnavailableError:
        return StoreUnavailableError(f"PostgreSQL at {self.address} is away: {_said(error)}")


def _close(connection: Any) -> None:
    with suppress(Exception):
        connection.close()


def _close_all(connections: list[Any]) -> None:
    """Empties a list of connections, also while others take from it."""
    while connections:
        with suppress(IndexError):
            _close(connections.pop())


def _said(error: Exception) -> str:
    """The first line of what the database says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
