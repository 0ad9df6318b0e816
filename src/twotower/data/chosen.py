"""`separated`: splits the rows of a log into events, which were chosen, and exposures, which were not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.dataset import Dataset
from twotower.data.exposures import BoolArray, Exposures, FloatArray, offsets_of
from twotower.data.lookup import IntArray
from twotower.errors import DataError, DataWarning, warn


@dataclass(frozen=True, eq=False)
class Rows:
    """All rows of some queries, in the order of the log.

    Attributes:
        queries: Number of each row's query, `[rows]`.
        candidates: Row of each row's candidate in the candidate table, `[rows]`.
        times: Time of each row in seconds, `[rows]`; None if the log has no times.
        is_chosen: Which rows are events, `[rows]`.
        requests: Number of each row's request, −1 for rows without one, `[rows]`; None if the log has no requests.
        catalogue: Rows of the candidate table.
    """

    queries: IntArray
    candidates: IntArray
    times: FloatArray | None
    is_chosen: BoolArray
    requests: IntArray | None
    catalogue: int

    def lists(self) -> Lists:
        """What was shown with the events; see `Exposures`."""
        of_row = self._lists_by_time() if self.requests is None else self._lists_by_request(self.requests)
        number = int(of_row.max(initial=-1)) + 1
        others = np.flatnonzero(~self.is_chosen & (of_row >= 0))
        others = others[self._nearest_first(of_row, others)]
        pairs = of_row * self.catalogue + self.candidates
        others = others[~np.isin(pairs[others], pairs[self.is_chosen & (of_row >= 0)])]
        others = others[np.sort(np.unique(pairs[others], return_index=True)[1])]
        return Lists(of_row, np.bincount(of_row[others], minlength=number), others)

    def _lists_by_request(self, requests: IntArray) -> IntArray:
        """The list of each row, `[rows]`: that of its query and request; −1 without a request or a chosen row there."""
        keys = np.where(requests < 0, -1, self.queries * (int(requests.max(initial=0)) + 1) + requests)
        known = np.unique(keys[self.is_chosen & (keys >= 0)])
        place = np.searchsorted(known, keys)
        found = np.append(known, -2)[place] == keys
        return np.where(found, place, -1)

    def _lists_by_time(self) -> IntArray:
        """The list of each row, `[rows]`: the query's events at one time that are nearest; −1 without an event.

        Of two that are equally near, the later: a choice follows what was shown.
        """
        assert self.times is not None
        moments, moment = np.unique(self.times, return_inverse=True)
        keys = self.queries * len(moments) + moment
        known = np.unique(keys[self.is_chosen])
        after = np.searchsorted(known, keys)

        def gap(place: IntArray) -> FloatArray:
            inside = (place >= 0) & (place < len(known))
            key = known[np.where(inside, place, 0)] if len(known) else keys
            same = inside & (key // len(moments) == self.queries)
            return np.where(same, np.abs(moments[key % len(moments)] - self.times), np.inf)

        gaps = gap(after - 1), gap(after)
        nearest = np.where(gaps[1] <= gaps[0], after, after - 1)
        return np.where(np.isinf(np.minimum(*gaps)), -1, nearest)

    def _nearest_first(self, of_row: IntArray, others: IntArray) -> IntArray:
        """The order of rows that were not chosen: by list, then by distance in time from its first event, then as here.

        Args:
            of_row: The list of each row, `[rows]`.
            others: The rows to sort, each in a list.
        """
        if self.times is None:
            return np.argsort(of_row[others], kind="stable")
        begins = np.full(int(of_row.max(initial=-1)) + 1, np.inf)
        events = self.is_chosen & (of_row >= 0)
        np.minimum.at(begins, of_row[events], self.times[events])
        return np.lexsort((np.abs(self.times[others] - begins[of_row[others]]), of_row[others]))


@dataclass(frozen=True, eq=False)
class Lists:
    """What was shown with the events among some rows.

    Attributes:
        of_row: List of each row, −1 for none, `[rows]`.
        lengths: How many candidates each list has, `[lists]`.
        shown: The rows whose candidates were shown, one list after the other.
    """

    of_row: IntArray
    lengths: IntArray
    shown: IntArray


def separated(rows: Dataset, is_chosen: BoolArray, chosen: str, request: str | None) -> Dataset:
    """The chosen rows as events, with the others as their exposures; see `Exposures`.

    Rows that share no list with an event are left out, with a warning. The column `chosen` is dropped, as it is the
    same for all events.

    Args:
        rows: All rows of the log as if they were events.
        is_chosen: Which of them are, `[rows]`; at least one.
        chosen: The column it was read from.
        request: The column of request ids; None if there is none. `rows` then has times.

    Raises:
        DataError: Request ids are neither integers nor text.
    """
    times = None if rows.time is None else rows.times
    requests = None if request is None else _numbered(rows.interactions[request], request)
    every = Rows(rows.query_index, rows.candidate_index, times, is_chosen, requests, catalogue=rows.candidates.num_rows)
    lists = every.lists()
    warn_of_unused(int((~is_chosen & (lists.of_row < 0)).sum()), int((~is_chosen).sum()), chosen, request)
    exposures = Exposures(
        chosen,
        request,
        lists=lists.of_row[is_chosen],
        offsets=offsets_of(lists.lengths),
        candidates=rows.candidate_index[lists.shown],
        times=None if times is None else times[lists.shown],
    )
    events = rows.take(is_chosen)
    return replace(events, interactions=events.interactions.drop_columns([chosen]), exposures=exposures)


def warn_of_unused(unused: int, others: int, chosen: str, request: str | None) -> None:
    """Warns if rows that were not chosen belong to no event.

    Args:
        unused: Number of such rows.
        others: Number of all rows that were not chosen.
        chosen: The column that tells chosen rows from others.
        request: The column of request ids; None if there is none.
    """
    if unused:
        same = "query" if request is None else f"query and {request!r}"
        warn(
            f"{unused:,} of the {others:,} rows whose {chosen!r} is false are not used: no chosen row has the "
            f"same {same}",
            DataWarning,
        )


def check_requests(ids: pa.ChunkedArray, request: str) -> None:
    """Refuses a column that cannot hold request ids.

    Raises:
        DataError: The ids are neither integers nor text.
    """
    if not (pa.types.is_integer(ids.type) or pa.types.is_string(ids.type) or pa.types.is_null(ids.type)):
        raise DataError(
            f"interactions, column {request!r}, row 0: {ids[0].as_py()!r} is {ids.type}; expected request ids that are "
            f"integers or text",
            column=request,
        )


def _numbered(ids: pa.ChunkedArray, request: str) -> IntArray:
    """Number of each row's request, −1 for null, `[rows]`."""
    check_requests(ids, request)
    known = pc.unique(ids).drop_null()
    numbers: IntArray = pc.fill_null(pc.index_in(ids, value_set=known), -1).to_numpy().astype(np.int64)
    return numbers
