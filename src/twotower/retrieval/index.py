"""What an index of candidates is, what it finds, and the settings of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from torch import Tensor

from twotower.errors import ConfigError

MOST = 1 << 16
"""Candidates that a search of a graph holds, at most."""

IntArray: TypeAlias = npt.NDArray[np.int64]

Pairs: TypeAlias = tuple[IntArray, IntArray]
"""(query, candidate) pairs: places among the queries of a call, and rows of the candidate table."""


@dataclass(frozen=True, eq=False)
class Hits:
    """What a search found, the best first.

    Attributes:
        candidates: Rows of the candidate table, `[n, min(k, how many are allowed)]`; −1 where nothing is left.
        scores: Their scores, of the same shape; −inf where nothing is left.
    """

    candidates: Tensor
    scores: Tensor


class Index(Protocol):
    """Finds the candidates with the highest dot products.

    Every kind gives exactly k candidates, or all that are left where fewer are, never one that is excluded or not
    allowed, with their true scores, the best first. An exact index gives the best; an approximate one nearly so.
    """

    @property
    def kind(self) -> str:
        """`exact` or `hnsw`."""
        ...

    @property
    def embeddings(self) -> Tensor:
        """The candidate embeddings, `[C, d]`."""
        ...

    def __len__(self) -> int:
        """C, how many candidates there are."""
        ...

    def search(self, queries: Tensor, k: int, excluded: Pairs | None = None, allowed: IntArray | None = None) -> Hits:
        """The k best candidates of each query that may be found.

        Args:
            queries: Query embeddings, float32 `[n, d]`.
            k: How many; fewer are found where fewer are left.
            excluded: (query, candidate) pairs that may not be found, in any order.
            allowed: Rows of the candidate table that may be found, ascending; default: all.

        Raises:
            ConfigError: k is below 1, or the queries are no float32 matrix as wide as the candidates.
            TwoTowerError: A query is not finite, or numbers are so large that a score may overflow.
        """
        ...

    def wider(self) -> Index | None:
        """The same index, of which a search looks at more candidates; None where it cannot, or need not."""
        ...

    def moved(self, embeddings: Tensor, origin: IntArray) -> Index:
        """An index of the same kind over another catalogue, most of which this one may hold already.

        Args:
            embeddings: The new catalogue's, `[C′, d]`.
            origin: For each of its candidates the row that it has in this index, −1 where it is new or has changed,
                `[C′]`.
        """
        ...


class Exact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="exact"):
    """Settings of exact search: there is nothing to set."""


class Hnsw(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hnsw"):
    """Settings of a graph of neighbours.

    Malkov and Yashunin, *Efficient and robust approximate nearest neighbor search using hierarchical navigable small
    world graphs*, TPAMI 2020, as FAISS has it.

    Attributes:
        neighbours: Neighbours of a candidate in a layer; twice as many in the lowest.
        build: Candidates held while a neighbour is looked for.
        search: Candidates held while a query is answered, at least; more find more and take longer. None for as many
            as it takes to find a little more than the parity gate asks for, on the queries that it is measured on.

    Raises:
        ConfigError: A number is out of its range.
    """

    neighbours: int = 32
    build: int = 200
    search: int | None = None

    def __post_init__(self) -> None:
        wide = 1 if self.search is None else self.search
        if not 2 <= self.neighbours <= 256 or not 1 <= self.build <= MOST or not 1 <= wide <= MOST:
            raise ConfigError(
                f"hnsw with neighbours={self.neighbours}, build={self.build}, search={self.search}; expected from 2 to "
                f"256 neighbours, and from 1 to {MOST} for the others"
            )


IndexSettings: TypeAlias = Exact | Hnsw


def pairs_of(outs: Sequence[IntArray]) -> Pairs | None:
    """(place, row) of every row that a query may not find; None where there is none."""
    counts = [len(out) for out in outs]
    if not any(counts):
        return None
    return np.repeat(np.arange(len(outs)), counts), np.concatenate(outs)
