"""The errors twotower raises on purpose; each message says what was received and what was expected."""

from __future__ import annotations


class TwoTowerError(Exception):
    """Base of every error that twotower raises on purpose."""


class DataError(TwoTowerError, ValueError):
    """Data that cannot be used: names the column, the row, the value and what was expected."""


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


class NotFittedError(TwoTowerError, RuntimeError):
    """A feature or model was asked for embeddings before it had learned from data."""


class MissingExtraError(TwoTowerError, ImportError):
    """A part of twotower that needs an optional library which is not installed: names the `pip install` line."""


class NewIdsWarning(UserWarning):
    """Training that goes on with a fitted model meets ids that it did not learn, which therefore share an embedding."""
