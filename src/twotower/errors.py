"""The errors twotower raises on purpose; each message states what was received and what was expected."""

from __future__ import annotations

import difflib
import errno
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

PACKAGE = str(Path(__file__).parent)


class TwoTowerError(Exception):
    """Base of every error that twotower raises on purpose.

    Attributes:
        field: The argument or key at fault, such as `where` or `[training] epochs`; None if unknown.
        column: The column at fault.
        row: The row of the table, or the position in the list of queries.
        is_reported: Whether another rank already reports this error, or the one that caused it.
    """

    def __init__(
        self, message: str = "", *, field: str | None = None, column: str | None = None, row: int | None = None
    ) -> None:
        super().__init__(message)
        self.field, self.column, self.row = field, column, row
        self.is_reported = False


class DataError(TwoTowerError, ValueError):
    """Invalid data: the message names the column, the row, the value and what was expected."""


class CellError(DataError):
    """An invalid value in a column.

    Args:
        column: The column.
        row: Its row in the table.
        reason: The value and what was expected.
        where: How the message names the cell; default: by column and row.
    """

    column: str
    row: int

    def __init__(self, column: str, row: int, reason: str, where: str | None = None) -> None:
        super().__init__(f"{where or f'column {column!r}, row {row}'}: {reason}", column=column, row=row)
        self.reason = reason


class DataWarning(UserWarning):
    """Data that is usable, but partly skipped or probably not what was intended."""


class UnknownCandidateError(DataError):
    """The requested candidate is not in the catalogue."""


class DataUnavailableError(TwoTowerError):
    """A data set is not on this machine and could not be downloaded."""


class ConfigError(TwoTowerError, ValueError):
    """An invalid configuration: the message names the key, the value and what was expected."""


class SavedFolderError(TwoTowerError):
    """A folder that should hold a saved model or bundle is truncated, altered, in a newer format or something else."""


class ParityError(TwoTowerError):
    """The recall of an approximate index against exact search is too low."""


class UpdateRefusedError(TwoTowerError):
    """A bundle trained by an update did not pass a gate; the serving bundle is unchanged."""


class StoreUnavailableError(TwoTowerError):
    """A candidate store is unreachable or timed out; the same call may succeed later."""


class StoreVersionError(TwoTowerError):
    """The store's vectors come from other towers, so scores against them would be meaningless."""


class NotFittedError(TwoTowerError, RuntimeError):
    """A feature or model was asked for embeddings before it was fitted."""


class MissingExtraError(TwoTowerError, ImportError):
    """An optional library is not installed; the message gives the `pip install` line."""


class NewIdsWarning(UserWarning):
    """Continued training meets ids that are not in the model's vocabulary; they all share one embedding."""


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
    """Adds the field, column and row to errors raised in the block, unless they are already set.

    Args:
        field: The argument or key.
        column: The column.
        row: The row, or the position in a list.
        rows: If the block sees only some of the rows: the row number of each.

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
        """Does nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Fills in the error's attributes."""
        if isinstance(error, TwoTowerError):
            if self.rows is not None and error.row is not None:
                error.row = self.rows[error.row]
            error.field = self.field if error.field is None else error.field
            error.column = self.column if error.column is None else error.column
            error.row = self.row if error.row is None else error.row


def unknown_among(name: str, known: Iterable[str], cutoff: float = 0.7) -> str:
    """What to say after an unknown name: the most similar known name, if there is one, and all known ones.

    Args:
        name: The unknown name.
        known: The known names.
        cutoff: Smallest similarity, from 0 to 1.

    Example:
        >>> unknown_among("usr", ["user", "item"])
        ", did you mean 'user'? expected one of user, item"
        >>> unknown_among("price", ["user", "item"])
        '; expected one of user, item'
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, cutoff=cutoff)
    return f"{f', did you mean {near[0]!r}?' if near else ';'} expected one of {', '.join(known)}"


def warn(message: str, category: type[Warning]) -> None:
    """Issues a warning that points at the user's line that called into the package, however deep the call stack is.

    Args:
        message: What happened and what to do about it.
        category: The warning class.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
