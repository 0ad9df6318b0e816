"""`separated`: splits the rows of a log into events, which were chosen, and exposures, which were not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.dataset import Dataset
from twotower.data.exposures import BoolArray, Exposures, FloatArray
from twotower.data.lookup import IntArray
from twotower.errors import DataError, DataWarning, warn


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
    lists = _lists_by_time(rows, is_chosen) if request is None else _lists_by_request(rows, is_chosen, request)
    events, others = rows.take(is_chosen), rows.take(~is_chosen)
    own, shown = lists[is_chosen], lists[~is_chosen]
    times = None if rows.time is None else others.times
    order = _nearest_first(events, own, shown, times)
    order = order[shown[order] >= 0]
    pairs = shown * rows.candidates.num_rows + others.candidate_index
    there = own >= 0
    order = order[~np.isin(pairs[order], own[there] * rows.candidates.num_rows + events.candidate_index[there])]
    order = order[np.sort(np.unique(pairs[order], return_index=True)[1])]
    if unused := int((shown < 0).sum()):
        same = "query" if request is None else f"query and {request!r}"
        warn(
            f"{unused:,} of the {len(others):,} rows whose {chosen!r} is false are not used: no chosen row has the "
            f"same {same}",
            DataWarning,
        )
    lengths = np.bincount(shown[order], minlength=int(lists.max(initial=-1)) + 1)
    exposures = Exposures(
        chosen,
        request,
        lists=own,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        candidates=others.candidate_index[order],
        times=None if times is None else times[order],
    )
    return replace(events, interactions=events.interactions.drop_columns([chosen]), exposures=exposures)


def _lists_by_request(rows: Dataset, is_chosen: BoolArray, request: str) -> IntArray:
    """The list of each row, `[rows]`: that of its query and request; −1 without a request or a chosen row there."""
    ids = rows.interactions[request]
    if not (pa.types.is_integer(ids.type) or pa.types.is_string(ids.type) or pa.types.is_null(ids.type)):
        raise DataError(
            f"interactions, column {request!r}, row 0: {ids[0].as_py()!r} is {ids.type}; expected request ids that are "
            f"integers or text",
            column=request,
        )
    requests = pc.unique(ids).drop_null()
    codes = pc.fill_null(pc.index_in(ids, value_set=requests), -1).to_numpy().astype(np.int64)
    keys = np.where(codes < 0, -1, rows.query_index * max(1, len(requests)) + codes)
    known = np.unique(keys[is_chosen & (keys >= 0)])
    place = np.searchsorted(known, keys)
    found = np.append(known, -2)[place] == keys
    return np.where(found, place, -1)


def _lists_by_time(rows: Dataset, is_chosen: BoolArray) -> IntArray:
    """The list of each row, `[rows]`: the query's events at one time that are nearest; −1 without an event.

    Of two that are equally near, the later: a choice follows what was shown.
    """
    moments, moment = np.unique(rows.times, return_inverse=True)
    keys = rows.query_index * len(moments) + moment
    known = np.unique(keys[is_chosen])
    after = np.searchsorted(known, keys)

    def gap(place: IntArray) -> FloatArray:
        inside = (place >= 0) & (place < len(known))
        key = known[np.where(inside, place, 0)]
        same = inside & (key // len(moments) == rows.query_index)
        return np.where(same, np.abs(moments[key % len(moments)] - rows.times), np.inf)

    gaps = gap(after - 1), gap(after)
    nearest = np.where(gaps[1] <= gaps[0], after, after - 1)
    return np.where(np.isinf(np.minimum(*gaps)), -1, nearest)


def _nearest_first(events: Dataset, own: IntArray, shown: IntArray, times: FloatArray | None) -> IntArray:
    """The order of the exposures: by list, then by distance in time from its first event, then as in the log."""
    if times is None:
        return np.argsort(shown, kind="stable")
    begins = np.full(max(own.max(initial=-1), shown.max(initial=-1)) + 2, np.inf)
    np.minimum.at(begins, own, events.times)
    begins[-1] = 0  # list −1
    return np.lexsort((np.abs(times - begins[shown]), shown))
