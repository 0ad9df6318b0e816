"""The errors twotower raises on purpose; each message says what was received and what was expected."""

from __future__ import annotations

import errno
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

PACKAGE = str(Path(__file__).parent)


class TwoTowerError(Exception):
    """Base of every error that twotower raises on purpose.

    Attributes:
        field: The argument or key that it is about, such as `where` or `[training] epochs`; None where it is not said.
        column: The column that it is about.
        row: The row of the table, or the place in the list of queries.
        is_said: Whether another of the processes that work together says it, or what led to it.
    """

    def __init__(
        self, message: str = "", *, field: str | None = None, column: str | None = None, row: int | None = None
    ) -> None:
        super().__init__(message)
        self.field, self.column, self.row = field, column, row
        self.is_said = False


class DataError(TwoTowerError, ValueError):
    """Data that cannot be used: names the column, the row, the value and what was expected."""


class CellError(DataError):
    """A value in a column that cannot be used.

    Attributes:
        reason: What the value is, and what was expected: the message without column and row.
    """

    def __init__(self, column: str, row: int, reason: str) -> None:
        super().__init__(f"column {column!r}, row {row}: {reason}", column=column, row=row)
        self.reason = reason


class DataWarning(UserWarning):
    """Data that can be used, of which something is left out or probably not as it was meant."""


class UnknownCandidateError(DataError):
    """A candidate was asked about that the catalogue does not hold."""


class DataUnavailableError(TwoTowerError):
    """A data set that is neither on this machine nor could be downloaded."""


class ConfigError(TwoTowerError, ValueError):
    """A configuration that cannot be used: names the key, the value and what was expected."""


class SavedFolderError(TwoTowerError):
    """A saved model or bundle that is truncated, altered, of a newer format or not one at all."""


class ParityError(TwoTowerError):
    """An approximate index finds too few of the candidates that exact search finds."""


class UpdateRefusedError(TwoTowerError):
    """A bundle that an update has trained did not pass a gate; the one that is served is as it was."""


class StoreUnavailableError(TwoTowerError):
    """A store of candidates cannot be reached, or does not answer in time; the same call may succeed later."""


class StoreVersionError(TwoTowerError):
    """A store has no vectors of these towers: scores with vectors of others would mean nothing."""


class NotFittedError(TwoTowerError, RuntimeError):
    """A feature or model was asked for embeddings before it had learned from data."""


class MissingExtraError(TwoTowerError, ImportError):
    """A part of twotower that needs an optional library which is not installed: names the `pip install` line."""


class NewIdsWarning(UserWarning):
    """Training that goes on with a fitted model meets ids that it did not learn, which therefore share an embedding."""


SYSTEM_ERRORS = {
    None,  # as from NumPy, of a write that was cut short
    errno.EIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
}
"""Errors of disk, memory and file descriptors. A missing file, for example, is a mistake in a config instead."""


def is_system_failure(error: BaseException | None) -> bool:
    """Whether the machine caused an error, such as a full disk: the same work may succeed later.

    Args:
        error: The error; its causes are considered, too.

    Example:
        >>> is_system_failure(OSError(errno.ENOSPC, "No space left on device")), is_system_failure(ConfigError("dim=0"))
        (True, False)
    """
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SYSTEM_ERRORS):
            return True
        if found := re.search(r"\(os error (\d+)\)", str(error)):  # from Rust libraries, such as safetensors
            return int(found[1]) in SYSTEM_ERRORS
        error = error.__cause__ or error.__context__
    return False


class about:  # noqa: N801 (read as a word: `with about("where"):`)
    """Errors raised inside are about this, as far as they do not say it themselves.

    Args:
        field: The argument or key.
        column: The column.
        row: The row, or the place in a list.
        rows: Where what runs inside sees some rows alone, the number of each.

    Example:
        >>> try:
        ...     with about("exclude"):
        ...         raise DataError("no such id")
        ... except DataError as error:
        ...     print(error.field)
        exclude
    """

    def __init__(
        self, field: str, *, column: str | None = None, row: int | None = None, rows: Sequence[int] | None = None
    ) -> None:
        self.field, self.column, self.row, self.rows = field, column, row, rows

    def __enter__(self) -> None:
        """Nothing is to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Completes the error."""
        if isinstance(error, TwoTowerError):
            if self.rows is not None and error.row is not None:
                error.row = self.rows[error.row]
            error.field = self.field if error.field is None else error.field
            error.column = self.column if error.column is None else error.column
            error.row = self.row if error.row is None else error.row


def warn(message: str, category: type[Warning]) -> None:
    """Warns at the line of the user's code that called the package, however deep inside it this is.

    Args:
        message: What happened and what to do about it.
        category: Its class.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
