"""`split_log`: splits any log into train and test; train of a log on disk stays there, as a mask of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from twotower.arguments import checks_arguments
from twotower.data.dataset import Dataset
from twotower.data.fingerprints import Fingerprint, fingerprint
from twotower.data.log import Log
from twotower.data.opening import narrowed
from twotower.data.ordered import PIECE, SortedEvents
from twotower.data.parquet import BoolArray
from twotower.data.scratch import scratch
from twotower.data.shown import without_test
from twotower.data.splits import LastOut, RandomSplit, SplitRule, TimeSplit, refuse_empty, refuse_weightless
from twotower.data.stream import ParquetLog
from twotower.errors import ConfigError

IsTest: TypeAlias = Callable[[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int32]], BoolArray]
"""Decides which events of a few complete queries are test, given their times, queries and candidates."""


@dataclass(frozen=True, eq=False)
class LogSplit:
    """Two parts of one log; unpacks as `train, test = split`.

    Attributes:
        train: The events to train on; on disk if the log is.
        test: The events to evaluate on, in memory.
        rule: The rule that split them.
        fingerprint: As in `Split`.
    """

    train: Log
    test: Dataset
    rule: str
    fingerprint: str

    def __iter__(self) -> Iterator[Log]:
        yield self.train
        yield self.test


@checks_arguments
def split_log(log: Log, rule: SplitRule) -> LogSplit:
    """Splits a log in two by a rule; a log on disk is split into the same events as one in memory.

    For a log on disk, train is the log without some rows, and test is read into memory. Splitting by time or by last
    event prepares the files first; see `ParquetLog.sorted_events`. The log caches its split by each rule.

    Args:
        log: The log.
        rule: The rule; for a log on disk, one of `RandomSplit`, `TimeSplit` and `LastOut`.

    Raises:
        ConfigError: The log is on disk and the rule is a different one.
        DataError: A part would be empty, or the files can no longer be read.

    Example:
        >>> from twotower.data import simulated
        >>> train, test = split_log(simulated(20, 30, 100), TimeSplit(0.1))
        >>> len(train), len(test)
        (90, 10)
    """
    if (events := log.in_memory) is not None:
        cut = rule(events)
        return LogSplit(cut.train, cut.test, cut.rule, cut.fingerprint)
    if not isinstance(log, ParquetLog):
        raise ConfigError(f"{log.name!r} is neither in memory nor a ParquetLog; only these can be split")
    key = f"{rule}, seed {rule.seed}" if isinstance(rule, RandomSplit) else str(rule)
    if (known := log.cuts.get(key)) is None:
        known = log.cuts[key] = _cut(log, _test_rows(log, rule), key, isinstance(rule, TimeSplit))
    assert isinstance(known, LogSplit)
    return known


def share_of(log: ParquetLog, share: float, seed: int) -> ParquetLog:
    """A random share of a log's events; with the same seed, a smaller share is a subset of a larger one.

    Args:
        log: The log.
        share: The share, above 0 and at most 1.
        seed: Seed of the sample.
    """
    order = _permuted(len(log), [seed, len(log)])
    kept = scratch(len(log), np.bool_)
    kept[order[: max(1, round(len(log) * share))]] = True
    return narrowed(log, _row_mask(kept, log.event_rows()))


def joint_fingerprint(train: Log, test: Dataset) -> str:
    """The `fingerprint` of train and test over the same tables, for train in memory or on disk."""
    if not isinstance(train, ParquetLog):
        events = train.in_memory
        assert events is not None
        return fingerprint(events, test)
    digits = Fingerprint(train.tables)
    digits.add(len(train), train.sums)
    digits.add(len(test), digits.sums(test))
    return str(digits)


def _cut(log: ParquetLog, is_test: BoolArray, rule: str, by_time: bool) -> LogSplit:
    """Splits a log into the log without the test rows, and the test rows in memory.

    Nothing shown with an event of test is in train and, in a split by time, nothing that was shown after test begins.
    """
    own = log.event_rows()
    is_train = scratch(len(own), np.bool_)
    np.greater(own, is_test, out=is_train)  # events of the log that are not test
    for rows, which in ((is_train, "train"), (is_test, "test")):
        refuse_empty(int(np.count_nonzero(rows)), which, rule, len(log))
    train, test = narrowed(log, is_train), replace(log.events_at(is_test), dropped=log.dropped)
    refuse_weightless(test, "test", rule)
    if log.exposures is not None:
        begins = float(test.times.min()) if by_time else np.inf
        train = replace(train, exposures=without_test(log.exposures, is_test, begins, log.sorted_events().folder))
    return LogSplit(train, test, rule, joint_fingerprint(train, test))


def _test_rows(log: ParquetLog, rule: SplitRule) -> BoolArray:
    """Mask of the rows of the files that are test."""
    match rule:
        case RandomSplit():
            order = _permuted(len(log), rule.seed)
            flags = scratch(len(log), np.bool_)
            flags[order[len(log) - round(len(log) * rule.test) :]] = True
            return _row_mask(flags, log.event_rows())
        case TimeSplit():
            log.require_time()
            events = log.sorted_events()
            cutoff = events.cutoff(rule.test)
            return _rows_where(log, events, lambda times, *_: times >= cutoff)
        case LastOut():
            log.require_time()
            return _rows_where(log, log.sorted_events(), _is_last)
    raise ConfigError(f"the split {rule} is a custom rule, but {log.name!r} is streamed; expected a built-in rule")


def _rows_where(log: ParquetLog, events: SortedEvents, is_test: IsTest) -> BoolArray:
    assert events.times is not None
    flags = scratch(log.rows.in_files, np.bool_, events.folder)
    for piece in events.pieces():
        place = piece.events
        chosen = is_test(events.times[place], events.query_numbers(piece), events.candidates[place])
        flags[events.rows[place][chosen]] = True
    return flags


def _is_last(
    times: npt.NDArray[np.float64], queries: npt.NDArray[np.int64], candidates: npt.NDArray[np.int32]
) -> BoolArray:
    """The last event of each query with at least two; ties in time are broken by candidate row, as in `LastOut`."""
    order = np.lexsort((candidates, times, queries))
    ends = queries[1:] != queries[:-1]
    chosen = np.zeros(len(times), dtype=bool)
    chosen[order[np.append(ends, True) & ~np.insert(ends, 0, True)]] = True
    return chosen


def _permuted(length: int, seed: int | list[int]) -> npt.NDArray[np.int64]:
    """`default_rng(seed).permutation(length)`, in an unnamed scratch file."""
    order: npt.NDArray[np.int64] = scratch(length, np.int64)
    order[:] = np.arange(length)
    np.random.default_rng(seed).shuffle(order)
    return order


def _row_mask(flags: BoolArray, own: BoolArray) -> BoolArray:
    """Turns a mask of the log's events into a mask of the files' rows; `own` marks the rows that are events."""
    mask, done = scratch(len(own), np.bool_), 0
    for start in range(0, len(own), PIECE):
        here = own[start : start + PIECE]
        count = int(np.count_nonzero(here))
        mask[start : start + PIECE][here] = flags[done : done + count]
        done += count
    return mask
