"""Splits a data set into train and test: at random, by time, or by leaving out the last event of each query.

`choose_rule` picks one of these when the user names none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from twotower.arguments import checked, checks_arguments
from twotower.data.dataset import Dataset
from twotower.data.fingerprints import fingerprint
from twotower.data.log import Log
from twotower.errors import ConfigError, DataError, unknown_among

BoolArray = npt.NDArray[np.bool_]

DEFAULT_SHARE = 0.2
"""Share of the events in test when a rule names none."""

MIN_KNOWN_SHARE = 0.5
"""Split by time if at least this share of the test events then belong to queries that are in train."""


@dataclass(frozen=True, eq=False)
class Split:
    """Two parts of one data set; unpacks as `train, test = split`.

    Attributes:
        train: The events to train on.
        test: The events to evaluate on.
        rule: The rule that split them, as `parse_rule` reads it.
        fingerprint: Hash of both parts, 12 hex digits: the same for the same events (query id, candidate id
            and time), whatever the order of their rows.
    """

    train: Dataset
    test: Dataset
    rule: str
    fingerprint: str

    def __iter__(self) -> Iterator[Dataset]:
        yield self.train
        yield self.test


class SplitRule(Protocol):
    """A way to split a data set; call it on `split.train` to cut off a validation part by the same rule."""

    @property
    def interpolates(self) -> bool:
        """Whether train may have events of a query that are later than its events in test."""
        ...

    def __call__(self, data: Dataset) -> Split:
        """Splits `data` in two."""
        ...


@dataclass(frozen=True)
class RandomSplit:
    """A random share of the events is test: the end of `default_rng(seed).permutation(N)`; train is the rest.

    Attributes:
        test: Share of the events, between 0 and 1.
        seed: Seed of the permutation.
    """

    interpolates: ClassVar[bool] = True
    test: float = DEFAULT_SHARE
    seed: int = 42

    def __post_init__(self) -> None:
        _check_share(self)
        object.__setattr__(self, "seed", checked("RandomSplit", "seed", self.seed, int))
        if self.seed < 0:
            raise ConfigError(f"split seed {self.seed}; expected a whole number of at least 0")

    def __str__(self) -> str:
        return f"random:{self.test:g}"

    def __call__(self, data: Dataset) -> Split:
        """Splits `data` in two."""
        order = np.random.default_rng(self.seed).permutation(len(data))
        cut = len(data) - round(len(data) * self.test)
        return _split(data, order[:cut], order[cut:], f"{self}, seed {self.seed}")


@dataclass(frozen=True)
class TimeSplit:
    """The latest share of the events is test; events with the same time stay together.

    Attributes:
        test: Share of the events, between 0 and 1; test gets more if several events share the cutoff time.
    """

    interpolates: ClassVar[bool] = False
    test: float = DEFAULT_SHARE

    def __post_init__(self) -> None:
        _check_share(self)

    def __str__(self) -> str:
        return f"time:{self.test:g}"

    def __call__(self, data: Dataset) -> Split:
        """Splits `data` in two."""
        times = data.times
        is_test = self.is_test(times)
        begins = float(times[is_test].min(initial=np.inf))
        return _split(data, np.flatnonzero(~is_test), np.flatnonzero(is_test), str(self), begins)

    def is_test(self, times: npt.NDArray[np.float64]) -> BoolArray:
        """Which events are test, given their times, `[N]`."""
        cut = len(times) - round(len(times) * self.test)
        is_test: BoolArray = times >= np.sort(times)[min(cut, len(times) - 1)]
        return is_test


@dataclass(frozen=True)
class LastOut:
    """The last event of each query with at least two events is test; ties in time are broken by candidate row.

    Ties follow the candidate table rather than the log, so a shuffled log is split the same way.
    """

    interpolates: ClassVar[bool] = False

    def __str__(self) -> str:
        return "last-out"

    def __call__(self, data: Dataset) -> Split:
        """Splits `data` in two."""
        order = np.lexsort((data.candidate_index, data.times, data.query_index))
        queries = data.query_index[order]
        last = np.append(queries[1:] != queries[:-1], True)
        first = np.insert(queries[1:] != queries[:-1], 0, True)
        is_test = np.zeros(len(data), dtype=bool)
        is_test[order[last & ~first]] = True
        return _split(data, np.flatnonzero(~is_test), np.flatnonzero(is_test), str(self))


@checks_arguments
def split_random(data: Dataset, test: float = 0.2, seed: int = 42) -> Split:
    """Splits off a random share of the events as test; see `RandomSplit`."""
    return RandomSplit(test, seed)(data)


@checks_arguments
def split_by_time(data: Dataset, test: float = 0.2) -> Split:
    """Splits off the latest share of the events as test; see `TimeSplit`."""
    return TimeSplit(test)(data)


@checks_arguments
def split_last_out(data: Dataset) -> Split:
    """Splits off the last event of each query as test; see `LastOut`."""
    return LastOut()(data)


@checks_arguments
def parse_rule(text: str, seed: int = 42) -> SplitRule:
    """Parses a rule in command-line notation: `random:0.2`, `time:0.2` or `last-out`.

    Raises:
        ConfigError: The text is none of these.
    """
    kind, colon, share = text.partition(":")
    if kind in ("random", "time"):
        try:
            test = float(share) if colon else DEFAULT_SHARE
        except ValueError as error:
            raise ConfigError(f"split {text!r}: {share!r} is not a share; expected a number between 0 and 1") from error
        return RandomSplit(test, seed) if kind == "random" else TimeSplit(test)
    if text == "last-out":
        return LastOut()
    known = ["random:SHARE", "time:SHARE", "last-out"]
    raise ConfigError(f"split {text!r} is unknown{unknown_among(text, known, cutoff=0.4)}")


@dataclass(frozen=True)
class ChosenRule:
    """The split rule chosen for a data set, and why.

    Attributes:
        rule: The rule.
        reason: A sentence for reports.
    """

    rule: SplitRule
    reason: str


@checks_arguments
def choose_rule(data: Log, seed: int = 42, part: str = "test") -> ChosenRule:
    """Chooses the rule that comes closest to how a live service would perform, as far as the log allows.

    Splits by time if the log has times. If most of the latest events belong to queries without earlier ones, or there
    are too few distinct times for test and validation, splits off each query's last event. Otherwise, at random.

    Args:
        data: The events to split.
        seed: Seed of a random split.
        part: Name of the part that is split off, for the reason.

    Example:
        >>> import pyarrow as pa
        >>> from twotower.data import from_tables
        >>> log = pa.table({"who": [1, 2] * 10, "what": [1, 2, 3, 4] * 5, "at": range(20)})
        >>> print(choose_rule(from_tables(log, query_id="who", candidate_id="what", time="at")).rule)
        time:0.2
    """
    at_random = RandomSplit(seed=seed)
    if data.time is None:
        return ChosenRule(
            at_random,
            f"Split at random ({at_random}): the log has no times, so past and future cannot be separated. "
            f"A service sees only the past, so its metrics may be lower.",
        )
    by_time = TimeSplit()
    known, several = _known_share(data, by_time)
    if known is not None and known >= MIN_KNOWN_SHARE:
        return ChosenRule(
            by_time,
            f"Split by time ({by_time}): the last {DEFAULT_SHARE:.0%} of the events are {part}, because the log has "
            f"times. A random split would train on choices made after the ones it is evaluated on.",
        )
    if data.query_counts().max() > 2 and several:
        why = (
            "the log has too few distinct times to split by time"
            if known is None
            else f"only {known:.0%} of the last {DEFAULT_SHARE:.0%} of the events belong to queries with earlier events"
        )
        return ChosenRule(LastOut(), f"Split off the last event of each query (last-out) as {part}: {why}.")
    return ChosenRule(
        at_random,
        f"Split at random ({at_random}): the log has too few distinct times, or too few events per query, to separate "
        f"past from future. A service sees only the past, so its metrics may be lower.",
    )


def _known_share(data: Log, rule: TimeSplit) -> tuple[float | None, bool]:
    """Share of the test events whose query is in train, and whether the log has more than one distinct time.

    The share is None if splitting off test and a validation part would leave no events.
    """
    events = data.sorted_events()
    assert events.times is not None
    several = events.cutoff(1.0) < events.cutoff(0.0)
    cutoff = events.cutoff(rule.test)
    left = events.count_before(cutoff)
    if left == 0 or events.count_before(events.cutoff(rule.test, left)) == 0:
        return None, several
    there = np.diff(events.offsets) > 0
    knows = np.zeros(len(events.queries), dtype=bool)
    knows[there] = events.times[events.offsets[:-1][there]] < cutoff
    found = 0
    for piece in events.pieces():
        is_test = events.times[piece.events] >= cutoff
        found += int(np.count_nonzero(knows[events.query_numbers(piece)[is_test]]))
    return found / (len(events) - left), several


def _split(
    data: Dataset, train: npt.NDArray[np.int64], test: npt.NDArray[np.int64], rule: str, begins: float = np.inf
) -> Split:
    """Splits into the events at these rows; nothing shown from `begins` on, in seconds, is in train."""
    for rows, which in ((train, "train"), (test, "test")):
        refuse_empty(len(rows), which, rule, len(data))
    parts = _without_exposures_of(data, train, test, begins), data.take(test)
    for part, which in zip(parts, ("train", "test"), strict=True):
        refuse_weightless(part, which, rule)
    return Split(*parts, rule=rule, fingerprint=fingerprint(*parts))


def _without_exposures_of(
    data: Dataset, train: npt.NDArray[np.int64], test: npt.NDArray[np.int64], begins: float
) -> Dataset:
    """The events of train, without what was also shown with an event of test, or shown from `begins` on."""
    part, shown = data.take(train), data.exposures
    if shown is None or part.exposures is None:
        return part
    shared = np.isin(shown.lists[train], shown.lists[test])
    return replace(part, exposures=part.exposures.without(shared).before(begins))


def refuse_empty(rows: int, which: str, rule: str, events: int) -> None:
    """Refuses an empty part.

    Args:
        rows: Number of rows in the part.
        which: `train` or `test`.
        rule: The split rule.
        events: Number of events that were split.

    Raises:
        DataError: The part is empty.
    """
    if rows == 0:
        raise DataError(
            f"split {rule} of {events} events leaves {which} empty; expected at least one event in each part"
        )


def refuse_weightless(part: Log, which: str, rule: str) -> None:
    """Refuses a part in which every event has weight 0.

    Args:
        part: The part.
        which: `train` or `test`.
        rule: The split rule.

    Raises:
        DataError: Every event has weight 0.
    """
    if part.weight is not None and not part.candidate_weights().any():
        raise DataError(
            f"interactions, column {part.weight!r}: split {rule} leaves no event in {which} with a weight above 0; "
            f"expected at least one in each part",
            column=part.weight,
        )


def _check_share(rule: RandomSplit | TimeSplit) -> None:
    object.__setattr__(rule, "test", checked(type(rule).__name__, "test", rule.test, float))
    if not 0 < rule.test < 1:
        raise ConfigError(f"a test share of {rule.test:g} leaves a part empty; expected a number between 0 and 1")
