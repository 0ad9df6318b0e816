"""`Generation`: one published catalogue in an external store, and where the store holds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from twotower.errors import StoreVersionError
from twotower.retrieval.stores.columns import StoredColumn, stored_columns


@dataclass(frozen=True)
class Generation:
    """One published catalogue.

    Attributes:
        relation: Name of its table or collection.
        towers: Version id of the towers.
        candidate_id: Name of the id column.
        length: Length of the lengthened vectors.
        width: d, the width of an embedding.
        catalogue: Schema of the stored columns.
        may_name: Whether the store accepts a column name; columns that it does not accept are renamed.
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
        """The columns as stored."""
        return stored_columns(self.catalogue, self.may_name)

    @cached_property
    def by_name(self) -> dict[str, StoredColumn]:
        """The stored columns by catalogue name."""
        return {column.name: column for column in self.columns}

    @property
    def key(self) -> StoredColumn:
        """The id column."""
        return self.by_name[self.candidate_id]


def missing_generation(name: str, address: str, towers: str, others: Sequence[str]) -> StoreVersionError:
    """The error for a store that has no vectors of these towers.

    Args:
        name: The store's name.
        address: The store's address.
        towers: Version id of the required towers.
        others: Version ids of the towers whose vectors it has.
    """
    there = f"has vectors of towers {' and '.join(others)}" if others else "has none"
    return StoreVersionError(
        f"store {name!r} at {address} {there}; expected towers {towers}: publish them with twotower bundle --store"
    )
