from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toy import groups_log, log_of
from twotower.data import (
    Dataset,
    LastOut,
    RandomSplit,
    Seen,
    Split,
    TimeSplit,
    choose_rule,
    from_tables,
    parse_rule,
    split_by_time,
    split_last_out,
    split_random,
)
from twotower.errors import ConfigError, DataError

RULES = [RandomSplit(0.3, seed=1), TimeSplit(0.3), LastOut()]


def timed(events: list[tuple[int, int, int]]) -> Dataset:
    who, what, at = zip(*events, strict=True)
    log = pa.table({"u": list(who), "i": list(what), "t": list(at)})
    return from_tables(log, query_id="u", candidate_id="i", time="t")


def rows(data: Dataset) -> list[tuple[int, int, float]]:
    return sorted(zip(data.query_index.tolist(), data.candidate_index.tolist(), data.times.tolist(), strict=True))


events = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 6)), min_size=6, max_size=40).filter(
    lambda found: len({t for _, _, t in found}) > 3 and len({u for u, _, _ in found}) < len(found)
)


@pytest.mark.parametrize("rule", RULES, ids=str)
@given(found=events)
def test_the_parts_hold_every_event_once(
    rule: RandomSplit | TimeSplit | LastOut, found: list[tuple[int, int, int]]
) -> None:
    data = timed(found)
    train, test = rule(data)
    assert rows(train) + rows(test) == rows(train) + rows(test)
    assert sorted(rows(train) + rows(test)) == rows(data)
    assert len(train) > 0
    assert len(test) > 0


def test_a_random_split_is_numpys_permutation() -> None:
    data = groups_log(1000)
    split = split_random(data, test=0.2, seed=42)
    order = np.random.default_rng(42).permutation(1000)
    np.testing.assert_array_equal(split.train.times, data.times[order[:800]])
    np.testing.assert_array_equal(split.test.times, data.times[order[800:]])


def test_a_time_split_puts_no_instant_in_both_parts() -> None:
    data = timed([(0, 0, t) for t in (1, 1, 2, 3, 3, 3, 3, 4)])
    train, test = split_by_time(data, test=0.25)
    assert sorted(train.times) == [1, 1, 2]
    assert sorted(test.times) == [3, 3, 3, 3, 4]


def test_last_out_takes_the_last_event_of_queries_that_have_two() -> None:
    train, test = split_last_out(timed([(0, 1, 5), (0, 0, 9), (1, 0, 3), (2, 2, 4), (2, 1, 4)]))
    assert rows(test) == [(0, 0, 9.0), (2, 2, 4.0)]  # of equal times the candidate later in the table
    assert (1, 0, 3.0) in rows(train)


@pytest.mark.parametrize("rule", [TimeSplit(0.3), LastOut()], ids=str)
@given(found=events, seed=st.integers(0, 99))
def test_splits_by_time_do_not_depend_on_the_order_of_rows(
    rule: TimeSplit | LastOut, found: list[tuple[int, int, int]], seed: int
) -> None:
    shuffled = [found[i] for i in np.random.default_rng(seed).permutation(len(found))]
    one, other = rule(timed(found)), rule(timed(shuffled))
    assert one.fingerprint == other.fingerprint
    assert rows(one.test) == rows(other.test)


def test_the_fingerprint_tells_splits_apart() -> None:
    base = [(0, 0, 1), (1, 1, 2), (0, 1, 3), (1, 0, 4)]
    fingerprints = {
        LastOut()(timed(base)).fingerprint,
        TimeSplit(0.25)(timed(base)).fingerprint,
        LastOut()(timed([*base[:3], (1, 0, 5)])).fingerprint,
        LastOut()(timed([*base[:3], (1, 1, 4)])).fingerprint,
        LastOut()(timed([*base, (0, 0, 1)])).fingerprint,
        split_random(groups_log(), seed=1).fingerprint,
        split_random(groups_log(), seed=2).fingerprint,
    }
    assert len(fingerprints) == 7
    assert all(len(found) == 12 for found in fingerprints)


def test_the_same_ids_in_another_table_order_have_the_same_fingerprint() -> None:
    log = pa.table({"u": ["a", "b", "a"], "i": [1, 2, 2], "t": [1, 2, 3]})

    def split(candidates: list[int]) -> Split:
        options = {"query_id": "u", "candidate_id": "i", "time": "t"}
        return LastOut()(from_tables(log, candidates=pa.table({"i": candidates}), **options))  # type: ignore[arg-type]

    assert split([1, 2]).fingerprint == split([2, 1]).fingerprint


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_validation_part_is_cut_from_train_by_the_same_rule(rule: RandomSplit | TimeSplit | LastOut) -> None:
    split = rule(groups_log())
    inner = rule(split.train)
    assert sorted(rows(inner.train) + rows(inner.test)) == rows(split.train)
    assert inner.test.candidates is split.test.candidates


@pytest.mark.parametrize(
    ("text", "rule"), [("random:0.3", RandomSplit(0.3, 5)), ("time", TimeSplit()), ("last-out", LastOut())]
)
def test_rules_are_read_from_text(text: str, rule: RandomSplit | TimeSplit | LastOut) -> None:
    assert parse_rule(text, seed=5) == rule


@pytest.mark.parametrize("text", ["random:x", "random:", "random:1.5", "time:nan", "time:0", "first-out", "last-out:2"])
def test_unknown_rules_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse_rule(text)


@pytest.mark.parametrize(
    ("text", "meant"), [("last", "last-out"), ("lastout", "last-out"), ("times:0.2", "time:SHARE")]
)
def test_a_rule_that_is_nearly_one_is_named(text: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"split '{text}' is unknown, did you mean '{meant}'"):
        parse_rule(text)


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(DataError, match=r"last-out of 2 events leaves test empty"):
        split_last_out(timed([(0, 0, 1), (1, 0, 2)]))
    with pytest.raises(DataError, match="leaves train empty"):
        split_by_time(timed([(0, 0, 1), (1, 0, 1)]))


def test_a_split_by_time_needs_times() -> None:
    data = from_tables(pa.table({"u": [1, 1], "i": [1, 2]}), query_id="u", candidate_id="i")
    with pytest.raises(DataError, match="no time column"):
        split_by_time(data)


def test_seen_has_each_pair_once() -> None:
    seen = Seen.of(log_of([(1, 2), (1, 0), (1, 2), (3, 3)], queries=4, candidates=4))
    assert [seen.by(query).tolist() for query in range(4)] == [[], [0, 2], [], [3]]
    position, candidates = seen.pairs(np.array([3, 0, 1, 1]))
    assert position.tolist() == [0, 2, 2, 3, 3]
    assert candidates.tolist() == [3, 0, 2, 0, 2]


def lives(queries: int, events: int, overlap: bool) -> Dataset:
    """Queries with so many events each: all over the time, or one query after the other."""
    return timed(
        [
            (q, (q + n) % 7, n * queries + q if overlap else q * events + n)
            for q in range(queries)
            for n in range(events)
        ]
    )


def test_a_log_with_times_is_cut_by_time() -> None:
    chosen = choose_rule(lives(20, 10, overlap=True))
    assert chosen.rule == TimeSplit(0.2)
    assert "the last 20% of the events are test" in chosen.reason


def test_where_the_last_events_are_of_new_queries_the_last_of_each_query_is_left_out() -> None:
    chosen = choose_rule(lives(20, 10, overlap=False))
    assert chosen.rule == LastOut()
    assert "only 0% of the last 20% of the events belong to queries with earlier events" in chosen.reason


def test_a_log_without_times_is_cut_at_random_and_says_what_that_hides() -> None:
    log = from_tables(pa.table({"u": [1, 2] * 5, "i": [1, 2, 3, 4, 5] * 2}), query_id="u", candidate_id="i")
    chosen = choose_rule(log, seed=7)
    assert chosen.rule == RandomSplit(0.2, seed=7)
    assert "no times, so past and future cannot be separated" in chosen.reason


@pytest.mark.parametrize(
    "found",
    [
        [(q, i, 5) for q in range(4) for i in range(5)],  # one instant
        [(q, i, i // 3) for q in range(4) for i in range(5)],  # two, of which train would have one
        [(q, q % 3, q) for q in range(20)],  # one event a query
        [(q, n, 2 * q + n) for q in range(20) for n in range(2)],  # none left to validate on
    ],
)
def test_the_rule_that_is_chosen_can_cut_test_and_validation(found: list[tuple[int, int, int]]) -> None:
    rule = choose_rule(timed(found)).rule
    assert len(rule(rule(timed(found)).train).test) > 0


@given(found=events, seed=st.integers(0, 99))
def test_the_choice_does_not_depend_on_the_order_of_rows(found: list[tuple[int, int, int]], seed: int) -> None:
    shuffled = [found[i] for i in np.random.default_rng(seed).permutation(len(found))]
    assert choose_rule(timed(found)) == choose_rule(timed(shuffled))


def test_queries_with_one_event_stay_in_train_when_the_last_is_left_out() -> None:
    train, test = LastOut()(timed([(0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 0, 9)]))
    assert rows(train) == [(0, 0, 1.0), (1, 2, 3.0), (2, 0, 9.0)]
    assert rows(test) == [(0, 1, 2.0)]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="split seed -1; expected a whole number of at least 0"):
        parse_rule("random:0.2", seed=-1)
