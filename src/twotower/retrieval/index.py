"""What an index of candidates is, what it finds, and what its settings do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from twotower.errors import ConfigError
from twotower.kinds import Kinds

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
        """`exact`, `hnsw`, or the kind of one's own."""
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
            ConfigError: k is below 1, the queries are no float32 matrix as wide as the candidates, or a row that is
                excluded or allowed is not there.
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

    def tensors(self) -> dict[str, Tensor]:
        """What a bundle keeps of it besides the embeddings, for `IndexSettings.restore`."""
        ...


@runtime_checkable
class IndexSettings(Protocol):
    """How candidates are searched: a frozen `Settings` whose tag is the kind, and what makes the index.

    Register one of your own with `@INDEXES.register`; a bundle keeps its settings, and is loaded where the module that
    defines it was imported first. `twotower.testing.check_index` tries one out.
    """

    def make(self, embeddings: Tensor) -> Index:
        """The index of a catalogue.

        Args:
            embeddings: Candidate embeddings, float32 `[C, d]`, at least one, on the processor.

        Raises:
            MissingExtraError: A library is not installed.
            TwoTowerError: An embedding is not finite.
        """
        ...

    def restore(self, embeddings: Tensor, tensors: Mapping[str, Tensor]) -> Index:
        """The index of which `tensors` were kept in a bundle, which may be a stranger's.

        Args:
            embeddings: The candidate embeddings that it had.
            tensors: What its `tensors` gave, or anything else: check it before a library sees it.

        Raises:
            ValueError: They fit neither each other nor the embeddings.
        """
        ...


INDEXES: Kinds[type[IndexSettings]] = Kinds("index")
"""Settings of indexes by kind."""


def pairs_of(outs: Sequence[IntArray]) -> Pairs | None:
    """(place, row) of every row that a query may not find; None where there is none."""
    counts = [len(out) for out in outs]
    if not any(counts):
        return None
    return np.repeat(np.arange(len(outs)), counts), np.concatenate(outs)


def check_rows(queries: int, candidates: int, excluded: Pairs | None, allowed: IntArray | None) -> None:
    """Refuses pairs and rows that are not there; of rows that are allowed, which ascend, only the ends are looked at.

    Raises:
        ConfigError: One is not there.
    """
    named: list[tuple[str, IntArray, int]] = []
    if excluded is not None:
        named += [("a query", excluded[0], queries), ("a candidate", excluded[1], candidates)]
    for what, rows, count in named:
        if len(rows) and not 0 <= rows.min() <= rows.max() < count:
            raise ConfigError(
                f"excluded names {what} from {rows.min()} to {rows.max()}; expected rows from 0 to {count - 1}",
                field="excluded",
            )
    if allowed is not None and len(allowed) and not 0 <= allowed[0] <= allowed[-1] < candidates:
        raise ConfigError(
            f"allowed goes from {allowed[0]} to {allowed[-1]}; expected ascending rows from 0 to {candidates - 1}",
            field="allowed",
        )
