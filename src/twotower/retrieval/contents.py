"""`Contents`: what a bundle holds, as whoever answers from it shows it."""

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
        """Twelve digits that name this very content."""
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
        """What each query has chosen in training, the latest first where times are known."""
        return self.bundle.seen

    @property
    def index(self) -> Index:
        """The embeddings of the candidates, and how they are searched."""
        return self.bundle.index

    @property
    def details(self) -> Details:
        """What the bundle says of itself."""
        return self.bundle.details

    @property
    def reranked_by_default(self) -> int | None:
        """How many candidates are re-ranked unless a call says otherwise; None: none."""
        return None if self.details.rerank is None else self.details.rerank.n
