"""`Eligible`: which candidates a request may get, by what it excludes, allows and asks for, and by what was chosen."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pyarrow as pa

from twotower.data.seen import Seen
from twotower.errors import about
from twotower.features.history import GIVEN
from twotower.retrieval.conditions import matching_rows
from twotower.retrieval.ids import Ids
from twotower.retrieval.index import IntArray
from twotower.retrieval.requests import EXCLUDED, Request

CONDITIONS = 16
"""Conditions whose candidates are kept, for requests that ask for the same again."""


class Eligible:
    """Rows of the candidates that filters name.

    Args:
        candidates: The catalogue.
        ids: Its ids.
        seen: What each query has chosen in training.
    """

    def __init__(self, candidates: pa.Table, ids: Ids, seen: Seen) -> None:
        self.candidates, self.ids, self.seen = candidates, ids, seen
        self._matching = lru_cache(CONDITIONS)(self._matching_rows)

    def named(self, ids: Iterable[object], field: str) -> IntArray:
        """Rows of those ids that the catalogue has, ascending.

        Args:
            ids: The ids.
            field: The argument that they come from, for errors.

        Raises:
            DataError: An id is of the wrong type.
        """
        with about(field):
            return self.ids.rows(ids)

    def allowed(self, allow: Iterable[object] | None, where: str | None) -> IntArray | None:
        """Rows that an allow list and a condition leave, ascending; None where there is neither.

        Raises:
            ConfigError: The condition cannot be read.
            DataError: An id is of the wrong type.
        """
        listed = None if allow is None else self.named(allow, "allow")
        with about("where"):
            matching = None if where is None else self._matching(where)
        if listed is None or matching is None:
            return matching if listed is None else listed
        return np.intersect1d(listed, matching, assume_unique=True)

    def chosen_by(self, query: Request, row: int | None) -> IntArray:
        """Rows that a query has chosen: in training, by its row in the query table, and as it says itself.

        Raises:
            DataError: An id of its history is of the wrong type.
        """
        recorded = np.empty(0, dtype=np.int64) if row is None else self.seen.by(row)
        given = [value for value in query.get(GIVEN, ()) if value is not None]
        with about("query", column=GIVEN):
            return np.concatenate([recorded, self.ids.rows(given)]) if given else recorded

    def excluded_by(self, ids: Iterable[object]) -> IntArray:
        """Rows that a query asks not to get, of those that the catalogue has.

        Raises:
            DataError: An id is of the wrong type.
        """
        with about("query", column=EXCLUDED):
            return self.ids.rows(ids)

    def _matching_rows(self, where: str) -> IntArray:
        return matching_rows(self.candidates, where)
