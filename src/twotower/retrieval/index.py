"""The interface of an index of candidates, its search results, and its settings."""

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
    """Results of a search, best first.

    Attributes:
        candidates: Rows of the candidate table, `[n, min(k, number allowed)]`; −1 where no candidate is left.
        scores: Their scores, of the same shape; −inf where no candidate is left.
    """

    candidates: Tensor
    scores: Tensor


class Index(Protocol):
    """Finds the candidates with the highest dot products.

    Every kind returns exactly k candidates, or all eligible ones if there are fewer, with their true scores, best
    first. It never returns one that is excluded or not allowed. An exact index returns the k best; an approximate
    index nearly does.
    """

    @property
    def kind(self) -> str:
        """`exact`, `hnsw`, or the kind of a custom index."""
        ...

    @property
    def embeddings(self) -> Tensor:
        """The candidate embeddings, `[C, d]`."""
        ...

    def __len__(self) -> int:
        """C, how many candidates there are."""
        ...

    def search(self, queries: Tensor, k: int, excluded: Pairs | None = None, allowed: IntArray | None = None) -> Hits:
        """The k best eligible candidates of each query.

        Args:
            queries: Query embeddings, float32 `[n, d]`.
            k: How many; fewer are found if fewer are eligible.
            excluded: (query, candidate) pairs to exclude, in any order.
            allowed: Rows of the candidate table that are eligible, ascending; default: all.

        Raises:
            ConfigError: k is below 1, the queries are not a float32 matrix as wide as the candidates, or an excluded
                or allowed row does not exist.
            TwoTowerError: A query is not finite, or values are so large that a score may overflow.
        """
        ...

    def wider(self) -> Index | None:
        """The same index with a wider search; None if the search cannot or need not be wider."""
        ...

    def moved(self, embeddings: Tensor, origin: IntArray) -> Index:
        """An index of the same kind over another catalogue, which may share most candidates with this one.

        Args:
            embeddings: The new catalogue's embeddings, `[C′, d]`.
            origin: The row that each new candidate has in this index, −1 if it is new or has changed, `[C′]`.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What a bundle stores besides the embeddings, for `IndexSettings.restore`."""
        ...


@runtime_checkable
class IndexSettings(Protocol):
    """How candidates are searched: a frozen `Settings` that is tagged with its kind and builds the index.

    Register your own with `@INDEXES.register`. A bundle stores the settings; to load it, import the module that defines
    them first. `twotower.testing.check_index` tests an implementation.
    """

    def make(self, embeddings: Tensor) -> Index:
        """Build the index of a catalogue.

        Args:
            embeddings: Candidate embeddings, float32 `[C, d]`, at least one, on the CPU.

        Raises:
            MissingExtraError: A library is not installed.
            TwoTowerError: An embedding is not finite.
        """
        ...

    def restore(self, embeddings: Tensor, tensors: Mapping[str, Tensor]) -> Index:
        """Restore an index from a bundle, which may come from an untrusted source.

        Args:
            embeddings: The candidate embeddings of the index.
            tensors: What `Index.tensors` returned, or anything else: check them before passing them to a library.

        Raises:
            ValueError: The tensors do not fit each other or the embeddings.
        """
        ...


INDEXES: Kinds[type[IndexSettings]] = Kinds("index")
"""Index settings by kind."""


def pairs_of(outs: Sequence[IntArray]) -> Pairs | None:
    """(place, row) pairs of all rows excluded for the query at each place; None if there are none."""
    counts = [len(out) for out in outs]
    if not any(counts):
        return None
    return np.repeat(np.arange(len(outs)), counts), np.concatenate(outs)


def check_rows(queries: int, candidates: int, excluded: Pairs | None, allowed: IntArray | None) -> None:
    """Check that pairs and rows exist; allowed rows ascend, so only their ends are checked.

    Raises:
        ConfigError: One does not exist.
    """
    named: list[tuple[str, IntArray, int]] = []
    if excluded is not None:
        named += [("queries", excluded[0], queries), ("candidates", excluded[1], candidates)]
    for what, rows, count in named:
        if len(rows) and not 0 <= rows.min() <= rows.max() < count:
            raise ConfigError(
                f"excluded names {what} {rows.min()} to {rows.max()}; expected rows from 0 to {count - 1}",
                field="excluded",
            )
    if allowed is not None and len(allowed) and not 0 <= allowed[0] <= allowed[-1] < candidates:
        raise ConfigError(
            f"allowed names rows {allowed[0]} to {allowed[-1]}; expected ascending rows from 0 to {candidates - 1}",
            field="allowed",
        )
