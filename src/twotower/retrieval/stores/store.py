"""What a store of candidates is: vectors, ids and columns that are searched together, and change while they serve."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from twotower.errors import ConfigError, TwoTowerError
from twotower.kinds import Kinds
from twotower.retrieval.conditions import Condition
from twotower.retrieval.parity import Parity

FloatArray: TypeAlias = npt.NDArray[np.float32]
Id: TypeAlias = int | str


@dataclass(frozen=True, eq=False)
class Found:
    """What one query found, the best first.

    Attributes:
        candidates: The columns that the store keeps, a row for each candidate.
        scores: Their dot products with the query, float32.
    """

    candidates: pa.Table
    scores: FloatArray


class Store(Protocol):
    """Candidates of one model's towers: their vectors, ids and columns.

    A store may be changed while it is searched; a search sees it before or after a change. Several threads may use it.
    """

    @property
    def kind(self) -> str:
        """`exact`, `hnsw`, `pgvector`, `milvus`, or the kind of one's own."""
        ...

    @property
    def version(self) -> str:
        """Version id of the towers that made its vectors."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """The columns that it keeps, which conditions may name."""
        ...

    def __len__(self) -> int:
        """How many candidates there are."""
        ...

    def search(
        self,
        embeddings: Tensor,
        k: int,
        excluded: Sequence[Sequence[Id]] | None = None,
        condition: Condition | None = None,
    ) -> list[Found]:
        """The k best candidates of each query that may be found, or all that are left, with their true scores.

        Args:
            embeddings: Query embeddings, float32 `[n, d]`.
            k: How many.
            excluded: For each query the ids that it may not find; those that the store lacks do no harm.
            condition: What has to be true of a candidate's columns, parsed with the store's `schema`.

        Raises:
            ConfigError: k is below 1, or the queries are not as wide as the vectors.
            StoreUnavailableError: The store is away.
            StoreVersionError: Its vectors are gone, or of other towers, by now.
        """
        ...

    def upsert(self, candidates: pa.Table, embeddings: Tensor) -> None:
        """Adds candidates, and changes those whose id is known; all of them or none.

        Args:
            candidates: Rows with all columns that it keeps.
            embeddings: Their embeddings by the store's towers, float32 `[n, d]`.

        Raises:
            DataError: A value cannot be kept.
            StoreUnavailableError, StoreVersionError: As `search`.
        """
        ...

    def withdraw(self, ids: Iterable[Id]) -> None:
        """Takes candidates out; ids that it lacks do no harm.

        Raises:
            StoreUnavailableError, StoreVersionError: As `search`.
        """
        ...

    def wider(self) -> Store | None:
        """The same store, of which a search looks at more candidates; None where it cannot, or need not."""
        ...

    def close(self) -> None:
        """Gives back what it holds, such as connections."""
        ...


@dataclass(frozen=True, eq=False)
class Publication:
    """What is put into a store at once.

    Attributes:
        candidates: The catalogue.
        embeddings: Its embeddings, float32 `[C, d]`.
        candidate_id: Name of the id column.
        towers: Version id of the towers that made the embeddings.
        queries: Query embeddings to measure recall with, `[n, d]`.
        threshold: The least recall; None for any.
    """

    candidates: pa.Table
    embeddings: Tensor
    candidate_id: str
    towers: str
    queries: Tensor
    threshold: float | None


@runtime_checkable
class StoreSettings(Protocol):
    """Where a store is and how it is searched: a frozen `Settings` whose tag is the kind. It holds no credentials."""

    @property
    def address(self) -> str:
        """Where it is."""
        ...

    def open(self, towers: str) -> Store:
        """The vectors of these towers; nothing is asked of the server yet.

        Raises:
            MissingExtraError: A library is not installed.
        """
        ...

    def publish(self, publication: Publication) -> tuple[StoreSettings, Parity]:
        """Puts a catalogue beside the one that is live, measures it, and then makes it the live one, at one moment.

        The one that was live stays until the next time, for those who still search it.

        Returns:
            The settings, with what was found out while it was measured, and the recall.

        Raises:
            DataError: A value cannot be kept.
            ParityError: A search finds too little of what exact search finds; the live one stays.
            StoreUnavailableError: The store is away.
        """
        ...


STORES: Kinds[type[StoreSettings]] = Kinds("store")
"""Settings of stores by kind."""


def check_search(embeddings: Tensor, k: int, width: int) -> None:
    """Refuses what cannot be searched for.

    Raises:
        ConfigError: k is below 1, or the queries are no matrix of this width.
        TwoTowerError: A query is not finite.
    """
    if k < 1 or embeddings.dim() != 2 or embeddings.shape[1] != width:
        raise ConfigError(f"k={k}, queries {list(embeddings.shape)}; expected k ≥ 1 and queries [n, {width}]")
    if not bool(embeddings.isfinite().all()):
        raise TwoTowerError("a query embedding is not finite")


def check_name(name: str) -> None:
    """Refuses a name that not every store can give its tables.

    Raises:
        ConfigError: It is not made of 1 to 40 small letters, digits and underscores, a letter first.
    """
    is_plain = name.isascii() and name.replace("_", "").isalnum() and name == name.lower() and name[:1].isalpha()
    if not is_plain or len(name) > 40:
        raise ConfigError(
            f"store name {json.dumps(name)}; expected up to 40 small letters, digits and underscores, a letter first",
            field="name",
        )
