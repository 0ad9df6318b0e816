"""Cutting a data set into train and test: at random, by time, or the last event of each query left out.

`choose_rule` picks one of these where a user names none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from twotower.arguments import checked, checks_arguments
from twotower.data.dataset import Dataset
from twotower.data.fingerprints import fingerprint
from twotower.data.log import Log
from twotower.errors import ConfigError, DataError

BoolArray = npt.NDArray[np.bool_]

DEFAULT_SHARE = 0.2
"""Share of the events that are test where a rule names none."""

ENOUGH_KNOWN = 0.5
"""A split by time is chosen when at least this share of its test events are of queries that train knows."""


@dataclass(frozen=True, eq=False)
class Split:
    """Two parts of one data set; unpacks as `train, test = split`.

    Attributes:
        train: The events to learn from.
        test: The events to be measured on.
        rule: How it was cut, as `parse_rule` reads it.
        fingerprint: Twelve hexadecimal digits that are equal exactly when both parts hold the same
            events (id, id and time), whatever the order of their rows.
    """

    train: Dataset
    test: Dataset
    rule: str
    fingerprint: str

    def __iter__(self) -> Iterator[Dataset]:
        yield self.train
        yield self.test


class SplitRule(Protocol):
    """A way to cut a data set; calling it on `split.train` cuts a validation part by the same rule."""

    @property
    def interpolates(self) -> bool:
        """Whether train has events of a query that come after those of test."""
        ...

    def __call__(self, data: Dataset) -> Split:
        """Cuts `data` in two."""
        ...


@dataclass(frozen=True)
class RandomSplit:
    """A random share of the events is test: `default_rng(seed).permutation(N)`, the first part train.

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
        """Cuts `data` in two."""
        order = np.random.default_rng(self.seed).permutation(len(data))
        cut = len(data) - round(len(data) * self.test)
        return _split(data, order[:cut], order[cut:], f"{self}, seed {self.seed}")


@dataclass(frozen=True)
class TimeSplit:
    """The latest share of the events is test, whole instants at a time: no time is in both parts.

    Attributes:
        test: Share of the events, between 0 and 1; more where the border's instant holds several.
    """

    interpolates: ClassVar[bool] = False
    test: float = DEFAULT_SHARE

    def __post_init__(self) -> None:
        _check_share(self)

    def __str__(self) -> str:
        return f"time:{self.test:g}"

    def __call__(self, data: Dataset) -> Split:
        """Cuts `data` in two."""
        is_test = self.is_test(data.times)
        return _split(data, np.flatnonzero(~is_test), np.flatnonzero(is_test), str(self))

    def is_test(self, times: npt.NDArray[np.float64]) -> BoolArray:
        """Which events of these times are test, `[N]`."""
        cut = len(times) - round(len(times) * self.test)
        is_test: BoolArray = times >= np.sort(times)[min(cut, len(times) - 1)]
        return is_test


@dataclass(frozen=True)
class LastOut:
    """The last event of each query that has at least two is test; equal times go by candidate row.

    The candidate table's order breaks ties, not the log's, so a shuffled log is cut the same way.
    """

    interpolates: ClassVar[bool] = False

    def __str__(self) -> str:
        return "last-out"

    def __call__(self, data: Dataset) -> Split:
        """Cuts `data` in two."""
        order = np.lexsort((data.candidate_index, data.times, data.query_index))
        queries = data.query_index[order]
        last = np.append(queries[1:] != queries[:-1], True)
        first = np.insert(queries[1:] != queries[:-1], 0, True)
        is_test = np.zeros(len(data), dtype=bool)
        is_test[order[last & ~first]] = True
        return _split(data, np.flatnonzero(~is_test), np.flatnonzero(is_test), str(self))


@checks_arguments
def split_random(data: Dataset, test: float = 0.2, seed: int = 42) -> Split:
    """Cuts a random share of the events off as test; see `RandomSplit`."""
    return RandomSplit(test, seed)(data)


@checks_arguments
def split_by_time(data: Dataset, test: float = 0.2) -> Split:
    """Cuts the latest share of the events off as test; see `TimeSplit`."""
    return TimeSplit(test)(data)


@checks_arguments
def split_last_out(data: Dataset) -> Split:
    """Cuts the last event of each query off as test; see `LastOut`."""
    return LastOut()(data)


@checks_arguments
def parse_rule(text: str, seed: int = 42) -> SplitRule:
    """Reads a rule as the command line writes it: `random:0.2`, `time:0.2` or `last-out`.

    Raises:
        ConfigError: The text is none of these.
    """
    kind, colon, share = text.partition(":")
    if kind in ("random", "time"):
        try:
            test = float(share) if colon else DEFAULT_SHARE
        except ValueError as error:
            raise ConfigError(f"split {text!r}: {share!r} is no share; expected a number between 0 and 1") from error
        return RandomSplit(test, seed) if kind == "random" else TimeSplit(test)
    if text == "last-out":
        return LastOut()
    raise ConfigError(f"split {text!r} is unknown; expected random:SHARE, time:SHARE or last-out")


@dataclass(frozen=True)
class ChosenRule:
    """The rule that suits a data set, and why.

    Attributes:
        rule: The rule.
        reason: A sentence for reports.
    """

    rule: SplitRule
    reason: str


@checks_arguments
def choose_rule(data: Log, seed: int = 42, part: str = "test") -> ChosenRule:
    """The rule that measures what a service can reach, as far as the log allows.

    By time where the log has times. Where most of the last events are of queries without earlier ones, or the times
    are too few to cut test and validation, each query's last event. At random where neither works.

    Args:
        data: The events to cut.
        seed: Seed of a random split.
        part: What the reason calls the part that is cut off.

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
            f"Split at random ({at_random}): the log has no times, so past and future cannot be told apart. "
            f"A service sees only the past; its figures may be lower.",
        )
    by_time = TimeSplit()
    known, several = _share_of_known(data, by_time)
    if known is not None and known >= ENOUGH_KNOWN:
        return ChosenRule(
            by_time,
            f"Split by time ({by_time}): the last {DEFAULT_SHARE:.0%} of the events are {part}, because the log has "
            f"times. A random split would train on choices made after those it is measured on.",
        )
    if data.query_counts().max() > 2 and several:
        why = (
            "the times are too few to cut by"
            if known is None
            else f"only {known:.0%} of the last {DEFAULT_SHARE:.0%} of the events are of queries with earlier events"
        )
        return ChosenRule(LastOut(), f"Split by leaving out the last event of each query (last-out) as {part}: {why}.")
    return ChosenRule(
        at_random,
        f"Split at random ({at_random}): the log has too few times, or too few events of each query, to tell past "
        f"from future. A service sees only the past; its figures may be lower.",
    )


def _share_of_known(data: Log, rule: TimeSplit) -> tuple[float | None, bool]:
    """Share of the test events whose query train knows, and whether there are several times.

    The share is None where test or a validation part would leave nothing.
    """
    events = data.sorted_events()
    assert events.times is not None
    several = events.border(1.0) < events.border(0.0)
    border = events.border(rule.test)
    left = events.before(border)
    if left == 0 or events.before(events.border(rule.test, left)) == 0:
        return None, several
    there = np.diff(events.offsets) > 0
    knows = np.zeros(len(events.queries), dtype=bool)
    knows[there] = events.times[events.offsets[:-1][there]] < border
    found = 0
    for piece in events.pieces():
        is_test = events.times[piece.events] >= border
        found += int(np.count_nonzero(knows[events.query_numbers(piece)[is_test]]))
    return found / (len(events) - left), several


def _split(data: Dataset, train: npt.NDArray[np.int64], test: npt.NDArray[np.int64], rule: str) -> Split:
    for rows, which in ((train, "train"), (test, "test")):
        refuse_empty(len(rows), which, rule, len(data))
    parts = data.take(train), data.take(test)
    for part, which in zip(parts, ("train", "test"), strict=True):
        refuse_weightless(part, which, rule)
    return Split(*parts, rule=rule, fingerprint=fingerprint(*parts))


def refuse_empty(rows: int, which: str, rule: str, events: int) -> None:
    """Refuses a part of no rows.

    Args:
        rows: How many it has.
        which: `train` or `test`.
        rule: How it was cut.
        events: How many events were cut.

    Raises:
        DataError: It has none.
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
        rule: How it was cut.

    Raises:
        DataError: Every event has.
    """
    if part.weight is not None and not part.candidate_weights().any():
        raise DataError(
            f"interactions, column {part.weight!r}: split {rule} leaves {which} no event of a weight above 0; "
            f"expected at least one in each part",
            column=part.weight,
        )


def _check_share(rule: RandomSplit | TimeSplit) -> None:
    object.__setattr__(rule, "test", checked(type(rule).__name__, "test", rule.test, float))
    if not 0 < rule.test < 1:
        raise ConfigError(f"a test share of {rule.test:g} leaves a part empty; expected a number between 0 and 1")
