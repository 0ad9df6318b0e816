"""The interface of a candidate store: vectors, ids and columns, searched together and changed while they serve."""

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
    """The candidates found for one query, best first.

    Attributes:
        candidates: The columns that the store holds, one row per candidate.
        scores: Their dot products with the query, float32.
    """

    candidates: pa.Table
    scores: FloatArray


class Store(Protocol):
    """Candidates of one model's towers: their vectors, ids and columns.

    A store may be changed while it is searched; a search sees it either before or after a change. Several threads may
    use it at once.
    """

    @property
    def kind(self) -> str:
        """`exact`, `hnsw`, `pgvector`, `milvus`, or the kind of a custom store."""
        ...

    @property
    def version(self) -> str:
        """Version id of the towers that made its vectors."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """The columns that the store holds, which conditions may use."""
        ...

    def __len__(self) -> int:
        """The number of candidates."""
        ...

    def search(
        self,
        embeddings: Tensor,
        k: int,
        excluded: Sequence[Sequence[Id]] | None = None,
        condition: Condition | None = None,
    ) -> list[Found]:
        """The k best eligible candidates of each query, or all if there are fewer, with their true scores.

        Args:
            embeddings: Query embeddings, float32 `[n, d]`.
            k: How many.
            excluded: The ids to exclude for each query; ids that the store lacks are ignored.
            condition: A condition on the candidates' columns, parsed with the store's `schema`.

        Raises:
            ConfigError: k is below 1, or the queries are not as wide as the vectors.
            StoreUnavailableError: The store is unreachable.
            StoreVersionError: Its vectors are gone, or now belong to other towers.
        """
        ...

    def upsert(self, candidates: pa.Table, embeddings: Tensor) -> None:
        """Adds candidates, and replaces those whose id is known; all of them or none.

        Args:
            candidates: Rows with all columns that the store holds.
            embeddings: Their embeddings from the store's towers, float32 `[n, d]`.

        Raises:
            DataError: A value cannot be stored.
            StoreUnavailableError, StoreVersionError: As `search`.
        """
        ...

    def withdraw(self, ids: Iterable[Id]) -> None:
        """Removes candidates; ids that the store lacks are ignored.

        Raises:
            StoreUnavailableError, StoreVersionError: As `search`.
        """
        ...

    def wider(self) -> Store | None:
        """The same store with a wider search; None if the search cannot or need not be wider.

        Both share their resources, so closing one closes both.
        """
        ...

    def close(self) -> None:
        """Releases resources such as connections."""
        ...


@dataclass(frozen=True, eq=False)
class Publication:
    """Everything needed to publish a catalogue in a store.

    Attributes:
        candidates: The catalogue.
        embeddings: Its embeddings, float32 `[C, d]`.
        candidate_id: Name of the id column.
        towers: Version id of the towers that made the embeddings.
        queries: Query embeddings to measure recall with, `[n, d]`.
        threshold: The required recall; None for any.
        served: Version ids of towers whose vectors must stay because a service still searches them.
    """

    candidates: pa.Table
    embeddings: Tensor
    candidate_id: str
    towers: str
    queries: Tensor
    threshold: float | None
    served: frozenset[str] = frozenset()


@runtime_checkable
class StoreSettings(Protocol):
    """A store's address and search settings: a frozen `Settings` tagged with its kind. It holds no credentials."""

    @property
    def address(self) -> str:
        """The store's address."""
        ...

    def open(self, towers: str) -> Store:
        """The store, with the vectors of these towers; does not contact the server yet.

        Raises:
            MissingExtraError: A library is not installed.
        """
        ...

    def publish(self, publication: Publication) -> tuple[StoreSettings, Parity]:
        """Uploads a catalogue next to the live one, measures it, and then makes it live atomically.

        The previously live catalogue is kept until the next publication, for processes that still search it; so are
        those of the towers in `served`.

        Returns:
            The settings, with the search width found by measuring, and the recall.

        Raises:
            DataError: A value cannot be stored.
            ParityError: A search finds too little of what exact search finds; the live catalogue stays live.
            StoreUnavailableError: The store is unreachable.
        """
        ...


STORES: Kinds[type[StoreSettings]] = Kinds("store")
"""Store settings by kind."""


def check_search(embeddings: Tensor, k: int, width: int) -> None:
    """Checks the arguments of a search.

    Raises:
        ConfigError: k is below 1, or the queries are not a matrix of this width.
        TwoTowerError: A query is not finite.
    """
    if k < 1 or embeddings.dim() != 2 or embeddings.shape[1] != width:
        raise ConfigError(f"k={k}, queries {list(embeddings.shape)}; expected k ≥ 1 and queries [n, {width}]")
    if not bool(embeddings.isfinite().all()):
        raise TwoTowerError("a query embedding is not finite")


def check_name(name: str) -> None:
    """Checks that every kind of store can use a name for its tables.

    Raises:
        ConfigError: It does not consist of 1 to 40 lowercase letters, digits and underscores, with a letter first.
    """
    is_plain = name.isascii() and name.replace("_", "").isalnum() and name == name.lower() and name[:1].isalpha()
    if not is_plain or len(name) > 40:
        raise ConfigError(
            f"store name {json.dumps(name)}; expected up to 40 lowercase letters, digits and underscores, with a "
            f"letter first",
            field="name",
        )
