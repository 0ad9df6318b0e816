"""Exposures of a log on disk, in unnamed files: `shown_in` finds them, `without_test` removes those shown with test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.chosen import Rows, check_requests, warn_of_unused
from twotower.data.exposures import BoolArray, Exposures
from twotower.data.fingerprints import mixed
from twotower.data.lookup import IntArray
from twotower.data.ordered import PIECE, SortedEvents, ranges
from twotower.data.scratch import scratch

NO_REQUEST = 0
"""Key of rows without a request."""


@dataclass(frozen=True, eq=False)
class ShownRows:
    """What the files of a log say about its rows, one by one.

    Attributes:
        is_chosen: Which rows are events, `[rows of the files]`.
        requests: Key of each row's request, `NO_REQUEST` for none, `[rows of the files]`; None if the log has none.
        chosen: The column that tells chosen rows from others.
        request: The column of request ids; None if there is none.
    """

    is_chosen: BoolArray
    requests: npt.NDArray[np.uint64] | None
    chosen: str
    request: str | None


def request_keys(ids: pa.ChunkedArray, request: str) -> npt.NDArray[np.uint64]:
    """64 bits for each request id, which stand for it within this process: `[N]`.

    Raises:
        DataError: The ids are neither integers nor text.
    """
    check_requests(ids, request)
    missing = ids.is_null().to_numpy()
    if pa.types.is_string(ids.type):
        texts = pc.dictionary_encode(ids.combine_chunks())
        hashes = np.array([hash(text) for text in [*texts.dictionary.to_pylist(), ""]], dtype=np.int64)
        keys = hashes[texts.indices.fill_null(-1).to_numpy()].astype(np.uint64)
    else:
        integers = ids if pa.types.is_integer(ids.type) else ids.cast(pa.int64())
        keys = integers.fill_null(0).to_numpy().astype(np.uint64)
    return np.where(missing, np.uint64(NO_REQUEST), mixed(keys, np.uint64(1)))


def _numbered(keys: npt.NDArray[np.uint64]) -> IntArray:
    """Number of each key by first appearance, which no other choice of keys would change; −1 for `NO_REQUEST`."""
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), dtype=np.int64)
    numbers[np.argsort(first)] = np.arange(len(first))
    return np.where(keys == NO_REQUEST, -1, numbers[place])


def shown_in(rows: SortedEvents, given: ShownRows, catalogue: int) -> Exposures:
    """What was shown with the events of a log on disk.

    Args:
        rows: All rows of its files, chosen or not.
        given: What the files say about them.
        catalogue: Rows of the candidate table.
    """
    lists = scratch(len(given.is_chosen), np.int64, rows.folder)
    lists[:] = -1
    candidates = scratch(len(rows), np.int64, rows.folder)
    times = None if rows.times is None else scratch(len(rows), np.float64, rows.folder)
    offsets = scratch(len(rows) + 1, np.int64, rows.folder)
    count = end = unused = others = 0
    for piece in rows.pieces():
        place = piece.events.start + np.argsort(rows.rows[piece.events])  # as in the log
        own = rows.rows[place]
        here = Rows(
            rows.query_numbers(piece)[place - piece.events.start] - piece.queries.start,
            rows.candidates[place].astype(np.int64),
            None if rows.times is None else rows.times[place],
            given.is_chosen[own],
            None if given.requests is None else _numbered(given.requests[own]),
            catalogue,
        )
        found = here.lists()
        unused += int(np.count_nonzero(~here.is_chosen & (found.of_row < 0)))
        others += int(np.count_nonzero(~here.is_chosen))
        lists[own] = np.where(here.is_chosen & (found.of_row >= 0), found.of_row + count, -1)
        offsets[count + 1 : count + len(found.lengths) + 1] = end + np.cumsum(found.lengths)
        candidates[end : end + len(found.shown)] = here.candidates[found.shown]
        if times is not None and here.times is not None:
            times[end : end + len(found.shown)] = here.times[found.shown]
        count, end = count + len(found.lengths), end + len(found.shown)
    warn_of_unused(unused, others, given.chosen, given.request)
    return Exposures(
        given.chosen,
        given.request,
        lists,
        offsets[: count + 1],
        candidates[:end],
        None if times is None else times[:end],
    )


def without_test(shown: Exposures, is_test: BoolArray, begins: float, folder: Path | None) -> Exposures:
    """Exposures for train: without what was also shown with an event of test, or shown from `begins` on.

    Args:
        shown: Those of train and test, numbered by the rows of the log's files.
        is_test: Which rows are events of test, `[rows of the files]`.
        begins: A time in seconds; infinite for any.
        folder: Folder for the unnamed files; None: the system's temporary folder.
    """
    has_test = scratch(len(shown.offsets) - 1, np.bool_)
    for start in range(0, len(is_test), PIECE):
        piece = slice(start, start + PIECE)
        of_test = shown.lists[piece][is_test[piece]]
        has_test[of_test[of_test >= 0]] = True
    lists = scratch(len(shown.lists), np.int64, folder)
    for start in range(0, len(lists), PIECE):
        piece = slice(start, start + PIECE)
        own = shown.lists[piece].copy()
        there = np.flatnonzero(own >= 0)
        own[there[has_test[own[there]]]] = -1
        lists[piece] = own
    candidates = scratch(len(shown.candidates), np.int64, folder)
    times = None if shown.times is None else scratch(len(shown.candidates), np.float64, folder)
    offsets, end = scratch(len(shown.offsets), np.int64, folder), 0
    for which, entries in ranges(shown.offsets):
        first, last = which.start, which.stop
        of_list = np.repeat(np.arange(first, last), np.diff(shown.offsets[first : last + 1]))
        kept = ~has_test[of_list]
        if shown.times is not None:
            kept &= shown.times[entries] < begins
        lengths = np.bincount(of_list[kept] - first, minlength=last - first)
        offsets[first + 1 : last + 1] = end + np.cumsum(lengths)
        number = int(lengths.sum())
        candidates[end : end + number] = shown.candidates[entries][kept]
        if times is not None and shown.times is not None:
            times[end : end + number] = shown.times[entries][kept]
        end += number
    return replace(
        shown, lists=lists, offsets=offsets, candidates=candidates[:end], times=None if times is None else times[:end]
    )
