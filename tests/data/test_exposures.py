"""Logs that say what was shown and not chosen: which rows are events, and where the others go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from twotower import data
from twotower.data import Dataset, from_tables
from twotower.data.dataset import concat
from twotower.data.given import given_parts
from twotower.errors import ConfigError, DataError, DataWarning
from twotower.recipes.data_config import DataConfig

COLUMNS: dict[str, Any] = {"query_id": "who", "candidate_id": "what"}
TIMED: dict[str, Any] = COLUMNS | {"time": "at", "chosen": "clicked"}
LOG = pa.table(
    {
        "who": ["ann"] * 6 + ["bob"] * 3,
        "what": ["tea", "rum", "gin", "ale", "tea", "rum", "gin", "tea", "ale"],
        "at": [10, 11, 18, 20, 25, 26, 10, 11, 12],
        "visit": [1, 1, 2, 2, 2, None, 1, 1, 3],
        "clicked": [True, False, False, True, False, False, True, False, False],
    }
)


def shown_with(log: Dataset) -> list[list[Any]]:
    """The candidates shown with each event, in order."""
    assert log.exposures is not None
    names = log.candidates[log.candidate_id].to_pylist()
    lists: list[list[Any]] = [[] for _ in range(len(log))]
    for event, entry in zip(*log.exposures.pairs(np.arange(len(log))), strict=True):
        lists[event].append(names[log.exposures.candidates[entry]])
    return lists


def chosen_in(log: Dataset) -> list[Any]:
    return [log.candidates[log.candidate_id][row].as_py() for row in log.candidate_index.tolist()]


def test_rows_that_were_not_chosen_are_no_events() -> None:
    log = from_tables(LOG, **TIMED)
    assert chosen_in(log) == ["tea", "ale", "gin"]
    assert log.candidate_counts().tolist() == [1, 1, 0, 1]  # ale, gin, rum, tea
    assert log.query_counts().tolist() == [2, 1]
    assert data.Seen.of(log).by(0).tolist() == [0, 3]
    assert log.columns == ["who", "what", "at", "visit"]
    assert data.describe(log).exposures == 6


def test_without_requests_they_belong_to_the_event_nearest_in_time_nearest_first() -> None:
    assert shown_with(from_tables(LOG, **TIMED)) == [["rum"], ["gin", "tea", "rum"], ["tea", "ale"]]


def test_of_two_equally_near_events_the_later_has_them() -> None:
    log = pa.table(
        {"who": [1, 1, 1], "what": [1, 2, 3], "at": [10, 12, 11], "clicked": [True, True, False]},
    )
    found = from_tables(log, **TIMED)
    assert found.exposures is not None
    assert found.exposures.counts.tolist() == [0, 1]


def test_rows_of_one_request_were_shown_together_whatever_their_times() -> None:
    with pytest.warns(
        DataWarning, match="2 of the 6 rows whose 'clicked' is false are not used: .* same query and 'visit'"
    ):
        log = from_tables(LOG, **TIMED, request="visit")
    assert shown_with(log) == [["rum"], ["gin", "tea"], ["tea"]]


def test_events_of_one_request_share_what_it_showed_but_not_what_was_chosen_there() -> None:
    rows = pa.table(
        {
            "who": [1] * 6,
            "what": [1, 2, 3, 2, 3, 4],
            "visit": ["a"] * 6,
            "clicked": [1, 1, 0, 0, 0, 0],  # 2 was shown twice and chosen once; 3 was shown twice
        }
    )
    log = from_tables(rows, **COLUMNS, chosen="clicked", request="visit")
    assert log.exposures is not None
    assert shown_with(log) == [[3, 4], [3, 4]]
    assert log.exposures.counts.tolist() == [2, 2]
    assert len(log.exposures) == 2


def test_rows_of_a_query_that_never_chose_are_not_used() -> None:
    log = pa.table({"who": [1, 2], "what": [1, 1], "at": [1, 2], "clicked": [True, False]})
    with pytest.warns(DataWarning, match="1 of the 1 rows whose 'clicked' is false are not used: no chosen row"):
        found = from_tables(log, **TIMED)
    assert len(found) == 1
    assert found.queries.num_rows == 2
    assert shown_with(found) == [[]]


def test_weights_and_unknown_candidates_of_other_rows_do_not_matter() -> None:
    log = LOG.append_column("weight", pa.array([2.0, None, None, 1.0, None, None, 3.0, None, None]))
    found = from_tables(log, **TIMED, weight="weight")
    assert found.weights.tolist() == [2.0, 1.0, 3.0]
    known = pa.table({"what": ["tea", "ale", "gin"]})
    few = from_tables(LOG, **TIMED, candidates=known, unknown_candidates="drop")
    assert few.dropped == 0
    assert shown_with(few) == [[], ["gin", "tea"], ["tea", "ale"]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 0, 2] + [0] * 6, "'clicked', row 2: 2; expected true for a row that was chosen, else false"),
        ([1, 0, None] + [0] * 6, "'clicked', row 2: null; expected true"),
        (["yes"] * 9, "'clicked', row 0: 'yes' is string; expected true"),
        ([1.0] * 9, "'clicked', row 0: 1.0 is double; expected true"),
        ([False] * 9, "'clicked': none of the 9 rows was chosen; expected at least one"),
    ],
)
def test_wrong_values_are_refused_with_column_row_value_and_expectation(values: list[Any], message: str) -> None:
    log = LOG.set_column(4, "clicked", pa.array(values))
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        from_tables(log, **TIMED)


def test_roles_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="request='visit' without chosen"):
        from_tables(LOG, **COLUMNS, time="at", request="visit")
    with pytest.raises(ConfigError, match="chosen='clicked' without time and request"):
        from_tables(LOG, **COLUMNS, chosen="clicked")
    with pytest.raises(ConfigError, match="time and chosen are both 'at'"):
        from_tables(LOG, **COLUMNS, time="at", chosen="at")
    with pytest.raises(DataError, match="column 'liked' is missing"):
        from_tables(LOG, **COLUMNS, time="at", chosen="liked")
    lists = LOG.set_column(3, "visit", pa.array([[1]] * 9))
    with pytest.raises(DataError, match=r"'visit', row 0: .* expected request ids that are integers or text"):
        from_tables(lists, **TIMED, request="visit")


def many(events: int = 3000, seed: int = 0) -> Dataset:
    """Requests of several rows, some with one chosen row, some with two."""
    draw = np.random.default_rng(seed)
    request = np.sort(draw.integers(events // 6, size=events))
    when = draw.integers(10**6, size=events // 6)
    rows = {
        "who": draw.integers(20, size=events // 6)[request],
        "what": draw.integers(50, size=events),
        "at": when[request] + draw.integers(60, size=events),
        "visit": request,
        "clicked": draw.random(events) < 0.25,
    }
    with pytest.warns(DataWarning, match="are not used"):
        return from_tables(pa.table(rows), **TIMED, request="visit")


@pytest.mark.parametrize("rule", [data.RandomSplit(0.3, 1), data.TimeSplit(0.3), data.LastOut()], ids=str)
def test_no_split_leaks_what_was_shown_with_a_test_event_into_train(rule: data.splits.SplitRule) -> None:
    log = many()
    train, test = rule(log)
    assert train.exposures is not None
    assert test.exposures is not None
    of_train, of_test = (set(part.interactions["visit"].to_pylist()) for part in (train, test))
    shared = of_train & of_test
    assert shared  # else this shows nothing
    has = train.exposures.counts > 0
    assert has.any()
    assert not shared & set(np.array(train.interactions["visit"].to_pylist())[has].tolist())
    whole = dict(zip(log.interactions["visit"].to_pylist(), shown_with(log), strict=True))
    for visit, own in zip(test.interactions["visit"].to_pylist(), shown_with(test), strict=True):
        assert own == whole[visit]
    if isinstance(rule, data.TimeSplit):
        assert train.exposures.times is not None
        assert train.exposures.times.max() < test.times.min()


def test_a_time_split_drops_what_was_shown_later_than_its_event_of_train() -> None:
    log = pa.table(
        {
            "who": [1, 1, 1, 2, 2],
            "what": [1, 2, 3, 1, 2],
            "at": [10, 12, 90, 5, 50],
            "clicked": [True, False, False, True, True],
        }
    )
    train, test = data.split_by_time(from_tables(log, **TIMED), test=0.3)
    assert chosen_in(train) == [1, 1]
    assert shown_with(train) == [[2], []]
    assert len(test) == 1


def test_take_and_concat_keep_what_was_shown_with_each_event() -> None:
    log = many()
    expected = shown_with(log)
    order = np.random.default_rng(0).permutation(len(log))
    assert shown_with(log.take(order)) == [expected[row] for row in order]
    parts = [log.take(np.arange(20)), replace(log.take(np.arange(20, 30)), exposures=None), log.take(np.arange(30, 60))]
    assert shown_with(concat(parts)) == [*expected[:20], *[[]] * 10, *expected[30:60]]
    few = log.take(np.arange(5))
    assert few.exposures is not None
    lists = dict(zip(few.exposures.lists.tolist(), shown_with(few), strict=True))
    assert len(few.exposures) == sum(len(shown) for number, shown in lists.items() if number >= 0)


def test_the_identity_of_a_log_has_its_exposures() -> None:
    log = many()
    assert log.exposures is not None
    other = replace(log, exposures=log.exposures.without(np.arange(len(log)) == 0))
    assert log.identity()[:1] == other.identity()[:1]
    assert log.identity() != other.identity()


def test_given_parts_are_read_alike() -> None:
    log = from_tables(LOG, **TIMED)
    _, parts = given_parts(log, {"test": LOG.slice(3, 3)}, own_queries=True)
    assert shown_with(parts["test"]) == [["tea", "rum"]]
    with pytest.raises(DataError, match="test: column 'clicked' is missing"):
        given_parts(log, {"test": LOG.drop_columns(["clicked"])}, own_queries=True)


def test_a_config_reads_them(tmp_path: Path) -> None:
    pa.parquet.write_table(LOG, tmp_path / "log.parquet")
    config = DataConfig(interactions=str(tmp_path / "log.parquet"), **TIMED)
    assert shown_with(config.load()) == [["rum"], ["gin", "tea", "rum"], ["tea", "ale"]]
