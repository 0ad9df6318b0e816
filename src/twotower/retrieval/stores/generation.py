"""`Generation`: one catalogue that was published in a store outside the process, and where it lies there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from twotower.errors import StoreVersionError
from twotower.retrieval.stores.columns import StoredColumn, stored_columns


@dataclass(frozen=True)
class Generation:
    """One catalogue that was published.

    Attributes:
        relation: Name of the table or collection that it is in.
        towers: Version id of the towers.
        candidate_id: Name of the id column.
        length: Length of all lengthened vectors.
        width: d, numbers of an embedding.
        catalogue: Columns that are kept.
        may_name: Whether the store can give a column this name; another one is found where it cannot.
    """

    relation: str
    towers: str
    candidate_id: str
    length: float
    width: int
    catalogue: pa.Schema
    may_name: Callable[[str], bool]

    @cached_property
    def columns(self) -> list[StoredColumn]:
        """The columns, as they are stored."""
        return stored_columns(self.catalogue, self.may_name)

    @cached_property
    def by_name(self) -> dict[str, StoredColumn]:
        """The columns by name."""
        return {column.name: column for column in self.columns}

    @property
    def key(self) -> StoredColumn:
        """The id column."""
        return self.by_name[self.candidate_id]


def missing_generation(name: str, address: str, towers: str, others: Sequence[str]) -> StoreVersionError:
    """The error of a store that has no vectors of these towers.

    Args:
        name: The store's.
        address: Where it is.
        towers: Version id of the towers that were looked for.
        others: Those of which it has vectors.
    """
    there = f"has vectors of towers {' and '.join(others)}" if others else "has none"
    return StoreVersionError(
        f"store {name!r} at {address} {there}; expected towers {towers}: publish them with twotower bundle --store"
    )
