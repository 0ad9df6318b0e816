"""`Feature`: base class of every kind. It learns from a column, encodes a column and embeds the encoded rows."""

from __future__ import annotations

import functools
import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor, nn

from twotower.arguments import checks_arguments, refuse_nameless
from twotower.errors import NotFittedError
from twotower.features.growth import Rows, SeenAt
from twotower.features.lookups import Table
from twotower.kinds import Kinds

Columns = Mapping[str, pa.ChunkedArray]
"""Columns by name, all of the same length."""

BoolArray = npt.NDArray[np.bool_]

FEATURES: Kinds[type] = Kinds("feature")
"""Features by kind; defining a subclass of `Feature` with a `kind` registers it."""


@dataclass(frozen=True)
class RecordKey:
    """The columns of the log that a record is built from.

    Attributes:
        by: The query id.
        time: The time of the event; None if the order does not matter.
        item: The chosen item; None if only times matter.
    """

    by: str
    time: str | None
    item: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(name for name in (self.by, self.time, self.item) if name is not None)


@dataclass(frozen=True)
class EncodedItems:
    """The items in one encoded row, such as those of a history.

    Attributes:
        column: The column that holds the item ids.
        ids: The item ids, nearest to the event first; None for an unknown item.
        without: The row with one item removed at a time, `[items, …]`.
    """

    column: str
    ids: list[object]
    without: Tensor


class Feature(nn.Module):
    """Turns one column into `width` numbers per row.

    Each kind of feature is a subclass with a `kind` (its name in configs). It

    - stores each constructor argument in an attribute of the same name, so that it can be saved; arguments are
      checked against their annotations,
    - learns its state from the training split in `fit` and creates its parameters there,
    - returns that state as an Arrow table from `learned` and restores it in `restore`,
    - adds new values to its vocabulary in `grow`, if it has one,
    - encodes a column as a tensor in `encode`, row by row, and embeds encoded rows in `forward`.

    Attributes:
        kind: The name of the kind in configs and saved models.
        column: The column it reads.
        width: How many numbers it outputs per row.
        paths: Arguments that are paths; in a config they are relative to the config's folder.

    Example:
        >>> import pyarrow as pa, pyarrow.compute as pc, torch
        >>> class Hour(Feature):
        ...     kind = "hour_of_day"
        ...     def __init__(self, column: str, dim: int = 4) -> None:
        ...         super().__init__()
        ...         self.column, self.dim, self.width = column, dim, dim
        ...         self.table = torch.nn.Embedding(24, dim)
        ...     def encode(self, column: pa.ChunkedArray) -> torch.Tensor:
        ...         return torch.tensor([int(second) // 3600 % 24 for second in column.to_pylist()])
        ...     def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        ...         return self.table(encoded)
        >>> hour = feature_from_settings({"kind": "hour_of_day", "column": "timestamp"})
        >>> hour(hour.encode(pa.chunked_array([[0, 7200]]))).shape
        torch.Size([2, 4])
    """

    kind: ClassVar[str]
    paths: ClassVar[tuple[str, ...]] = ()
    column: str
    width: int

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _checking(cls.__init__, cls.__name__)  # type: ignore[method-assign]
        if "kind" in cls.__dict__:
            FEATURES.register(cls)

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns it encodes; more than one for a kind that overrides `encode_columns`."""
        return (self.column,)

    @property
    def learns_from(self) -> tuple[str, ...]:
        """The columns it learns from; default: those it encodes."""
        return self.reads

    @property
    def may_read(self) -> tuple[str, ...]:
        """Columns that a request may pass besides, encoded if it does; default: none."""
        return ()

    @property
    def read_as(self) -> str:
        """How it reads its column, as shown to users; default: its kind."""
        return self.kind

    @property
    def record_key(self) -> RecordKey | None:
        """The columns of the training record it reads (see `Recorded`); None if it reads no record."""
        return None

    @property
    def look_ups(self) -> Sequence[tuple[Table, int]]:
        """The embedding tables it uses, each with the maximum number of rows looked up per encoded row.

        Default: one row of its attribute `table`, if that is a `Table`.
        """
        table = getattr(self, "table", None)
        return [(table, 1)] if isinstance(table, Table) else []

    @property
    def learned_range(self) -> tuple[float, float] | None:
        """Lowest and highest number it learned from, if it clips numbers to that range; else None."""
        return None

    def knows(self, column: str, values: pa.ChunkedArray) -> BoolArray | None:
        """Which values of a column training has seen, `[N]`; None if it tracks no values of that column.

        Raises:
            DataError: A value cannot be cast to the type it learned from.
        """
        del column, values
        return None

    def fit(self, column: pa.ChunkedArray) -> None:
        """Learns the state from the training split's column and creates the parameters; default: nothing to learn."""

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """Turns a column of N rows into a tensor `[N, …]`.

        Raises:
            DataError: A value cannot be encoded; names column, row, value and what was expected.
        """
        raise NotImplementedError(f"{type(self).__name__} encodes neither a column nor several")

    def fit_columns(self, columns: Columns) -> None:
        """`fit` for a kind that learns from several columns, one row per event."""
        self.fit(columns[self.column])

    def grow(self, columns: Columns, seen_at: SeenAt | None = None) -> dict[str, Rows]:
        """Adds new values to the vocabulary and retires values not seen for a while.

        The embeddings of the other values stay bit-identical; new values start from the embedding of the unknown
        value. Default: nothing, for a feature without a vocabulary.

        Args:
            columns: What `fit_columns` would learn from.
            seen_at: When each row was last seen; None if unknown, and no value is retired.

        Returns:
            Where the rows of each table that may have grown come from, by the name of the feature's parameter.

        Raises:
            DataError: A value cannot be cast to the type it learned from.
            NotFittedError: The feature has not been fitted.
        """
        del columns, seen_at
        return {}

    @property
    def shares_with(self) -> Feature | None:
        """The candidate tower's feature whose embeddings it shares; default: none."""
        return None

    @property
    def item_means(self) -> int:
        """Of how many means of candidates' embeddings, concatenated, its output consists; default: none."""
        return 0

    def learn_candidates(self, rows_of: Callable[[pa.Array], Columns]) -> None:
        """Learns from the candidate table, for a query feature that shares candidate embeddings.

        Called after the features of both towers have been fitted; default: nothing to learn.

        Args:
            rows_of: Returns the columns of the candidate table for given ids, one row per id.
        """

    def grow_candidates(self, rows_of: Callable[[pa.Array], Columns], items: Rows | None) -> None:
        """`learn_candidates` after `grow`; default: nothing to learn.

        Args:
            rows_of: Returns the columns of the candidate table for given ids; nulls for an id that it lacks.
            items: Where the rows of the shared embeddings come from; None if they have not changed.
        """

    def encode_columns(self, columns: Columns) -> Tensor:
        """`encode` for a kind that reads several columns, one row per event."""
        return self.encode(columns[self.column])

    def encode_training(self, columns: Columns) -> Tensor:
        """`encode_columns` for the events it learned from, given the columns in `learns_from`; default: the same."""
        return self.encode_columns(columns)

    def as_unknown(self, encoded: Tensor, unknown: Tensor) -> Tensor:
        """Encoded rows `[n, …]`, with some changed as if training had never seen their query.

        Called only for features that identify the query: its id, and those that read its record.

        Args:
            encoded: The encoded rows.
            unknown: The rows to make unknown, bool `[n]`.
        """
        del unknown
        return encoded

    def items_of(self, encoded: Tensor) -> EncodedItems | None:
        """The items in one encoded row `[1, …]`, for explanations; None if the feature reads no items."""
        del encoded
        return None

    @abstractmethod
    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds encoded rows `[n, …]` as `[n, width]`."""

    def learned(self) -> pa.Table:
        """The state that `fit` learned, as plain data."""
        return pa.table({})

    def restore(self, state: pa.Table) -> None:
        """Restores the state that `learned` returned and creates the parameters, as `fit` does."""

    def settings(self) -> dict[str, Any]:
        """The constructor arguments and the `kind`, from which `feature_from_settings` rebuilds this feature."""
        return {"kind": self.kind} | {name: getattr(self, name) for name in _parameters(type(self))}

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings().items() if name != "kind")


@checks_arguments
def feature_from_settings(settings: dict[str, Any]) -> Feature:
    """Builds a feature from what `Feature.settings` returns, or from a table of a TOML config.

    Raises:
        ConfigError: The kind is unknown, or an argument is unknown, missing or of the wrong type.
    """
    feature: Feature = FEATURES.make(settings)
    return feature


def require_fitted(feature: Feature, state: object | None) -> None:
    """Raises `NotFittedError` for a feature used before `fit` or `restore`."""
    if state is None:
        raise NotFittedError(f"{feature} has not learned from data yet; call fit first")


def _checking(constructor: Callable[..., None], owner: str) -> Callable[..., None]:
    """Wraps a constructor so that it checks its arguments and rejects empty column names."""
    checked = checks_arguments(constructor, owner)

    @functools.wraps(constructor)
    def checking(self: Feature, *args: Any, **kwargs: Any) -> None:
        checked(self, *args, **kwargs)
        refuse_nameless(type(self).__name__, **{name: getattr(self, name, None) for name in _COLUMNS})

    return checking


_COLUMNS = ("columns", "column", "by", "time")
"""Arguments of features that name columns."""


def _parameters(feature_class: type[Feature]) -> list[str]:
    return list(inspect.signature(feature_class).parameters)
