"""`Eligible`: which candidates a request may get, given its filters and what its query has chosen."""

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

CACHED_CONDITIONS = 16
"""Cache the matching candidates of this many conditions."""


class Eligible:
    """Candidate rows that filters include or exclude.

    Args:
        candidates: The catalogue.
        ids: Its ids.
        seen: What each query chose in training.
    """

    def __init__(self, candidates: pa.Table, ids: Ids, seen: Seen) -> None:
        self.candidates, self.ids, self.seen = candidates, ids, seen
        self._matching = lru_cache(CACHED_CONDITIONS)(self._matching_rows)

    def named(self, ids: Iterable[object], field: str) -> IntArray:
        """Rows of these ids, ascending; ids that the catalogue lacks are ignored.

        Args:
            ids: The ids.
            field: The argument they come from, for errors.

        Raises:
            DataError: An id is of the wrong type.
        """
        with about(field):
            return self.ids.rows(ids)

    def allowed(self, allow: Iterable[object] | None, where: str | None) -> IntArray | None:
        """Rows that pass both the allow list and the condition, ascending; None if there is neither.

        Raises:
            ConfigError: The condition cannot be parsed.
            DataError: An id is of the wrong type.
        """
        listed = None if allow is None else self.named(allow, "allow")
        with about("where"):
            matching = None if where is None else self._matching(where)
        if listed is None or matching is None:
            return matching if listed is None else listed
        return np.intersect1d(listed, matching, assume_unique=True)

    def chosen_by(self, query: Request, row: int | None) -> IntArray:
        """Rows that a query has chosen: in training, found by its query table row, and in the history it sends.

        Raises:
            DataError: An id of its history is of the wrong type.
        """
        recorded = np.empty(0, dtype=np.int64) if row is None else self.seen.by(row)
        given = [value for value in query.get(GIVEN, ()) if value is not None]
        with about("query", column=GIVEN):
            return np.concatenate([recorded, self.ids.rows(given)]) if given else recorded

    def excluded_by(self, ids: Iterable[object]) -> IntArray:
        """Rows that a query excludes; ids that the catalogue lacks are ignored.

        Raises:
            DataError: An id is of the wrong type.
        """
        with about("query", column=EXCLUDED):
            return self.ids.rows(ids)

    def _matching_rows(self, where: str) -> IntArray:
        return matching_rows(self.candidates, where)
