"""What every kind of feature has in common: learn from a column, encode a column, embed what was encoded."""

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
"""Features by kind; a subclass of `Feature` that has a kind is registered by being defined."""


@dataclass(frozen=True)
class RecordKey:
    """Which columns of the log a record is made of.

    Attributes:
        by: The id of the queries.
        time: The time of the events.
        item: What was chosen; None where only times matter.
    """

    by: str
    time: str
    item: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names."""
        return (self.by, self.time) if self.item is None else (self.by, self.time, self.item)


@dataclass(frozen=True)
class EncodedItems:
    """The items that one encoded row is made of, as those of a history.

    Attributes:
        column: The column that the items are ids of.
        ids: Each of them, the nearest to the event first; None for one that is not known.
        without: The row without each of them in turn, `[items, …]`.
    """

    column: str
    ids: list[object]
    without: Tensor


class Feature(nn.Module):
    """One column turned into `width` numbers.

    A kind of feature is a subclass with a `kind` (its name in configs). It

    - keeps each argument of its constructor in an attribute of the same name (so that it can be saved); its
      constructor's arguments are checked against their annotations,
    - learns its state from the training split in `fit` and makes its parameters there,
    - gives that state as an Arrow table in `learned` and takes it back in `restore`,
    - where it owns a vocabulary, takes new values into it in `grow`,
    - turns a column into a tensor in `encode`, one row a row, and such rows into embeddings in `forward`.

    Attributes:
        kind: The name of the kind in configs and saved models.
        column: The column it reads.
        width: How many numbers it gives for each row.
        paths: Arguments that are paths, which configs have relative to their folder.

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
        """The columns that it encodes; more than one for a kind that overrides `encode_columns`."""
        return (self.column,)

    @property
    def learns_from(self) -> tuple[str, ...]:
        """The columns that it learns from; default: those that it encodes."""
        return self.reads

    @property
    def may_read(self) -> tuple[str, ...]:
        """Columns that it encodes besides where they are there; default: none."""
        return ()

    @property
    def read_as(self) -> str:
        """What it makes of its column, in words for people; default: its kind."""
        return self.kind

    @property
    def record_key(self) -> RecordKey | None:
        """The columns of the record of training that it reads; None for one that reads none, see `Recorded`."""
        return None

    @property
    def look_ups(self) -> Sequence[tuple[Table, int]]:
        """The tables that it looks up in, each with how many rows one encoded row takes of it, at most.

        Default: one row of its attribute `table`, where that is a `Table`.
        """
        table = getattr(self, "table", None)
        return [(table, 1)] if isinstance(table, Table) else []

    @property
    def learned_range(self) -> tuple[float, float] | None:
        """Lowest and highest number it learned from, where it reads those beyond as the nearer of them; else None."""
        return None

    def knows(self, column: str, values: pa.ChunkedArray) -> BoolArray | None:
        """Which values of a column it learned to tell from unknown ones, `[N]`; None where it has no such column.

        Raises:
            DataError: A value cannot be read as what it learned from.
        """
        del column, values
        return None

    def fit(self, column: pa.ChunkedArray) -> None:
        """Learns the state from the training split's column and makes the parameters; default: nothing to learn."""

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """Turns a column of N rows into a tensor `[N, …]`.

        Raises:
            DataError: A value cannot be encoded; names column, row, value and what was expected.
        """
        raise NotImplementedError(f"{type(self).__name__} encodes neither a column nor several")

    def fit_columns(self, columns: Columns) -> None:
        """`fit` for a kind that learns from several columns, one row an event."""
        self.fit(columns[self.column])

    def grow(self, columns: Columns, seen_at: SeenAt | None = None) -> dict[str, Rows]:
        """Takes values that it does not know into its vocabulary, and gives up those that were not seen for long.

        What it knows of the others stays, to the bit; new values start as it has unknown ones. Default: nothing, for a
        feature without a vocabulary.

        Args:
            columns: What `fit_columns` would learn from.
            seen_at: When each row was last seen; None where nobody knows, and nothing is given up.

        Returns:
            Where the rows of each table that may have grown come from, by the name of the feature's parameter.

        Raises:
            DataError: A value cannot be read as what it learned from.
            NotFittedError: It has learned nothing yet.
        """
        del columns, seen_at
        return {}

    @property
    def shares_with(self) -> Feature | None:
        """The feature of the candidate tower whose embeddings it shares; default: none."""
        return None

    def learn_candidates(self, rows_of: Callable[[pa.Array], Columns]) -> None:
        """Learns what it reads of candidates, for a feature of the query that shares embeddings of theirs.

        Called after the features of both towers have learned; default: nothing to learn.

        Args:
            rows_of: The columns of the candidate table, given ids: a row for each.
        """

    def grow_candidates(self, rows_of: Callable[[pa.Array], Columns], items: Rows | None) -> None:
        """`learn_candidates` after `grow`; default: nothing to learn.

        Args:
            rows_of: The columns of the candidate table, given ids: nulls for one that it does not have.
            items: Where the rows of the embeddings that it shares come from; None where they are the same.
        """

    def encode_columns(self, columns: Columns) -> Tensor:
        """`encode` for a kind that reads several columns, one row an event."""
        return self.encode(columns[self.column])

    def encode_training(self, columns: Columns) -> Tensor:
        """`encode_columns` for the events that it learned from, given `learns_from`; default: no different."""
        return self.encode_columns(columns)

    def as_unknown(self, encoded: Tensor, unknown: Tensor) -> Tensor:
        """Encoded rows `[n, …]`, some of them as if training had never seen their query.

        Called only for features that identify queries: their id, and whatever is made of their record.

        Args:
            encoded: The encoded rows.
            unknown: The rows to make unknown, bool `[n]`.
        """
        del unknown
        return encoded

    def items_of(self, encoded: Tensor) -> EncodedItems | None:
        """The items that one encoded row `[1, …]` is made of, to explain by; None for a feature of no items."""
        del encoded
        return None

    @abstractmethod
    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds encoded rows `[n, …]` as `[n, width]`."""

    def learned(self) -> pa.Table:
        """The state that `fit` learned, as plain data."""
        return pa.table({})

    def restore(self, state: pa.Table) -> None:
        """Takes back what `learned` gave and makes the parameters, as `fit` does."""

    def settings(self) -> dict[str, Any]:
        """The arguments that make this feature anew, with its `kind`."""
        return {"kind": self.kind} | {name: getattr(self, name) for name in _parameters(type(self))}

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings().items() if name != "kind")


@checks_arguments
def feature_from_settings(settings: dict[str, Any]) -> Feature:
    """Makes a feature from what `Feature.settings` gives, or from a table of a TOML config.

    Raises:
        ConfigError: The kind is unknown, or an argument is unknown, missing or of the wrong type.
    """
    feature: Feature = FEATURES.make(settings)
    return feature


def require_fitted(feature: Feature, state: object | None) -> None:
    """Refuses to use a feature before `fit` or `restore`."""
    if state is None:
        raise NotFittedError(f"{feature} has not learned from data yet; call fit first")


def _checking(constructor: Callable[..., None], owner: str) -> Callable[..., None]:
    """A constructor that checks its arguments, and that what they call columns have names."""
    checked = checks_arguments(constructor, owner)

    @functools.wraps(constructor)
    def checking(self: Feature, *args: Any, **kwargs: Any) -> None:
        checked(self, *args, **kwargs)
        refuse_nameless(type(self).__name__, **{name: getattr(self, name, None) for name in _COLUMNS})

    return checking


_COLUMNS = ("columns", "column", "by", "time")
"""What arguments of features that are names of columns are called."""


def _parameters(feature_class: type[Feature]) -> list[str]:
    return list(inspect.signature(feature_class).parameters)
