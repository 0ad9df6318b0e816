"""`Contents`: read access to the parts of a bundle."""

from __future__ import annotations

import pyarrow as pa

from twotower.data.seen import Seen
from twotower.model.two_tower import TwoTower
from twotower.retrieval.bundle import Bundle, Details
from twotower.retrieval.index import Index


class Contents:
    """The parts of a bundle by name.

    Args:
        bundle: The bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @property
    def version(self) -> str:
        """Version id of the bundle: twelve hexadecimal digits of a hash of its content."""
        return self.bundle.details.version

    @property
    def model(self) -> TwoTower:
        """The towers."""
        return self.bundle.model

    @property
    def candidates(self) -> pa.Table:
        """The catalogue."""
        return self.bundle.candidates

    @property
    def queries(self) -> pa.Table:
        """The query table."""
        return self.bundle.queries

    @property
    def seen(self) -> Seen:
        """What each query chose in training, latest first where times are known."""
        return self.bundle.seen

    @property
    def index(self) -> Index:
        """The candidate embeddings, and how they are searched."""
        return self.bundle.index

    @property
    def details(self) -> Details:
        """Metadata of the bundle."""
        return self.bundle.details

    @property
    def reranked_by_default(self) -> int | None:
        """The default number of candidates to re-rank; None for no re-ranking."""
        return None if self.details.rerank is None else self.details.rerank.n
