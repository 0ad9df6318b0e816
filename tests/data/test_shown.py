"""Exposures of logs on disk: the same as those of a log in memory, whatever is done with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data import Dataset, ParquetLog, from_tables, ordered, shown, split_log, stream_parquet
from twotower.data.exposures import Exposures
from twotower.data.ordered import SortedEvents
from twotower.data.splits import LastOut, RandomSplit, SplitRule, TimeSplit
from twotower.data.streamed_splits import share_of
from twotower.errors import ConfigError, DataError, DataWarning
from twotower.model.exposed import exposed_with
from twotower.recipes.data_config import DataConfig

pytest.importorskip("duckdb")

ROLES: dict[str, Any] = {"query_id": "who", "candidate_id": "what", "chosen": "clicked"}
TIMED: dict[str, Any] = ROLES | {"time": "at"}
KNOWN = pa.table({"what": np.random.default_rng(0).permutation(30)})
RULES = [RandomSplit(0.3, seed=7), TimeSplit(0.25), LastOut()]
UNUSED = pytest.mark.filterwarnings("ignore:.*are not used|dropped:twotower.errors.DataWarning")


def table_of(rows: int, seed: int = 0) -> pa.Table:
    """Requests of some rows, with ids as text; some rows belong to no request."""
    draw = np.random.default_rng(seed)
    request = draw.integers(max(1, rows // 5), size=rows)
    texts = [None if draw.random() < 0.1 else f"r{one}" for one in request.tolist()]
    return pa.table(
        {
            "who": pa.array(request % 11).cast(pa.string()),
            "what": draw.integers(30, size=rows),
            "at": request * 3 + draw.integers(5, size=rows),
            "visit": pa.array(texts, pa.string()),
            "clicked": np.append(draw.random(rows - 1) < 0.3, True),
            "weight": pa.array([2.0 if heavy else None for heavy in draw.random(rows) < 0.5], pa.float64()),
        }
    )


def both(table: pa.Table, folder: Path, **options: Any) -> tuple[Dataset, ParquetLog]:
    """The table in memory and on disk; weights only of chosen rows are given."""
    own = table["weight"].combine_chunks().fill_null(1.0)
    weights = [one if is_chosen else None for one, is_chosen in zip(own.to_pylist(), table["clicked"], strict=True)]
    table = table.set_column(5, "weight", pa.array(weights, pa.float64()))
    pq.write_table(table, folder / "log.parquet", row_group_size=70)
    options = options | {"weight": "weight"}
    whole = from_tables(folder / "log.parquet", **options)
    return whole, stream_parquet(folder / "log.parquet", **options, buffer=128)


def lists_of(events: Dataset) -> list[list[tuple[int, float]]]:
    """What was shown with each event, as (candidate, time) pairs in order."""
    assert events.exposures is not None
    return by_number(events.exposures, np.arange(len(events)))


def by_number(exposures: Exposures, numbers: npt.NDArray[np.int64]) -> list[list[tuple[int, float]]]:
    found: list[list[tuple[int, float]]] = [[] for _ in numbers]
    times = np.zeros(len(exposures)) if exposures.times is None else exposures.times
    for event, entry in zip(*exposures.pairs(numbers), strict=True):
        found[event].append((int(exposures.candidates[entry]), float(times[entry])))
    return found


def on_disk(log: ParquetLog) -> list[list[tuple[int, float]]]:
    """As `lists_of`, for the events of a log on disk in log order."""
    assert log.exposures is not None
    return by_number(log.exposures, np.flatnonzero(log.event_rows()))


@pytest.fixture(params=[{"time": "at"}, {"time": "at", "request": "visit"}, {"request": "visit"}], ids=str)
def roles(request: pytest.FixtureRequest) -> dict[str, Any]:
    return ROLES | dict(request.param)


@UNUSED
@pytest.mark.parametrize("known", [None, KNOWN, KNOWN.slice(0, 20)], ids=["own", "table", "some dropped"])
def test_a_log_on_disk_has_the_events_and_exposures_of_one_in_memory(
    known: pa.Table | None, roles: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SortedEvents.pieces, "__defaults__", (40,))
    monkeypatch.setattr(shown, "PIECE", 40)
    whole, log = both(table_of(600), tmp_path, **roles, candidates=known, unknown_candidates="drop")
    assert (len(log), log.dropped, log.fingerprint) == (len(whole), whole.dropped, whole.identity()[0])
    assert log.candidate_weights().tolist() == whole.candidate_weights().tolist()
    assert on_disk(log) == lists_of(whole)
    assert any(lists_of(whole))
    assert log.exposures is not None
    assert whole.exposures is not None
    assert len(log.exposures) == len(whole.exposures)
    assert set(log.columns) == set(whole.columns)
    read = log.events_at(log.event_rows())
    assert read.interactions.equals(whole.interactions)
    assert lists_of(read) == lists_of(whole)


@UNUSED
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("request_id", [None, "visit"])
def test_it_is_split_alike(
    rule: SplitRule, request_id: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "PIECE", 40)
    monkeypatch.setattr(ordered.ranges, "__defaults__", (40,))
    whole, log = both(table_of(600), tmp_path, **TIMED, request=request_id)
    expected, found = split_log(whole, rule), split_log(log, rule)
    assert isinstance(found.train, ParquetLog)
    assert isinstance(expected.train, Dataset)
    assert found.fingerprint == expected.fingerprint
    assert in_any_order(found.test) == in_any_order(expected.test)
    train = found.train.events_at(found.train.event_rows())
    assert in_any_order(train) == in_any_order(expected.train)
    assert any(lists_of(train))
    again = split_log(found.train, rule), split_log(expected.train, rule)
    assert len(again[0].test) == len(again[1].test)
    if not isinstance(rule, RandomSplit):  # whose parts depend on the order of the events, which is random in memory
        assert in_any_order(again[0].test) == in_any_order(again[1].test)


def in_any_order(events: Dataset) -> list[str]:
    """Each event and what was shown with it, sorted."""
    rows = events.interactions.select(["who", "what", "at", "visit"]).to_pylist()
    return sorted(f"{row}: {shown}" for row, shown in zip(rows, lists_of(events), strict=True))


@UNUSED
@pytest.mark.parametrize("count", [1, 3])
def test_the_negatives_of_each_event_are_those_in_memory(
    count: int, roles: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, log = both(table_of(600), tmp_path, **roles)
    expected = exposed_with(whole, count)
    monkeypatch.setattr(SortedEvents.pieces, "__defaults__", (40,))
    found, again = exposed_with(log, count), exposed_with(whole, count)
    assert expected is not None
    assert found is not None
    assert again is not None
    assert found[np.flatnonzero(log.event_rows())].tolist() == expected.tolist() == again.tolist()
    assert (expected >= 0).any()


@UNUSED
def test_parts_in_any_order_know_the_numbers_of_their_events(tmp_path: Path) -> None:
    whole, log = both(table_of(600), tmp_path, **TIMED)
    place = np.cumsum(log.event_rows()) - 1
    for part in log.shuffled(3, 0, 16, ["\x00row"]):
        numbers = place[part.interactions["\x00row"].to_numpy()]
        assert part.query_index.tolist() == whole.query_index[numbers].tolist()
        assert part.candidate_index.tolist() == whole.candidate_index[numbers].tolist()
        assert part.times.tolist() == whole.times[numbers].tolist()


@UNUSED
def test_the_numbers_of_lists_do_not_depend_on_how_texts_are_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, log = both(table_of(600), tmp_path, **ROLES, request="visit")
    original = shown.request_keys
    monkeypatch.setattr("twotower.data.opening.request_keys", lambda *given: -original(*given))  # 0 stays 0
    again = stream_parquet(tmp_path / "log.parquet", **ROLES, request="visit", weight="weight", buffer=128)
    assert again.identity() == log.identity()


@UNUSED
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(8, 60), seed=st.integers(0, 99), request_id=st.sampled_from([None, "visit"]))
def test_small_logs_of_any_shape_are_read_alike(
    rows: int, seed: int, request_id: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole, log = both(table_of(rows, seed), tmp_path_factory.mktemp("log"), **TIMED, request=request_id)
    assert on_disk(log) == lists_of(whole)


@UNUSED
def test_a_share_of_the_events_keeps_what_was_shown_with_them(tmp_path: Path) -> None:
    _, log = both(table_of(600), tmp_path, **TIMED)
    some = share_of(log, 0.5, 0)
    assert log.exposures is not None
    assert on_disk(some) == by_number(log.exposures, np.flatnonzero(some.event_rows()))


@UNUSED
def test_the_identity_of_a_log_has_its_exposures(tmp_path: Path) -> None:
    table = table_of(600)
    _, log = both(table, tmp_path, **TIMED)
    again = stream_parquet(tmp_path / "log.parquet", **TIMED, weight="weight", buffer=128)
    plain = stream_parquet(tmp_path / "log.parquet", **TIMED | {"request": "visit"}, weight="weight", buffer=128)
    assert log.identity() == again.identity()
    assert log.identity()[:1] == plain.identity()[:1]
    assert log.identity() != plain.identity()


@UNUSED
def test_parts_in_other_files_have_exposures_too(tmp_path: Path) -> None:
    _, log = both(table_of(600), tmp_path, **TIMED)
    rows = pa.table(
        {"who": ["new"] * 3, "what": [1, 2, 3], "at": [1, 2, 3], "clicked": [True, False, False], "weight": [1.0] * 3}
    )
    part = log.part(rows)
    assert lists_of(part) == [
        [(int(log.candidates["what"].index(2).as_py()), 2.0), (int(log.candidates["what"].index(3).as_py()), 3.0)]
    ]
    with pytest.raises(DataError, match="column 'clicked' is missing"):
        log.part(rows.drop_columns(["clicked"]))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("clicked", [1] * 6 + [2, 0], "'clicked', row 6: 2; expected true for a row that was chosen, else false"),
        ("clicked", [False] * 8, "'clicked': none of the 8 rows was chosen; expected at least one"),
        ("visit", [[1]] * 8, "'visit', row 0: .* expected request ids that are integers or text"),
    ],
)
def test_wrong_values_are_refused_as_in_memory(column: str, values: list[Any], message: str, tmp_path: Path) -> None:
    table = table_of(8)
    table = table.set_column(table.column_names.index(column), column, pa.array(values))
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=5)
    for read in (from_tables, stream_parquet):
        with pytest.raises(DataError, match=message):
            read(tmp_path / "log.parquet", **TIMED, request="visit")


def test_a_row_that_was_not_chosen_is_checked_too(tmp_path: Path) -> None:
    table = pa.table({"who": [1, 1, 2], "what": [1, None, 2], "at": [1, 2, 3], "clicked": [True, False, True]})
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(DataError, match="'what', row 1: null"):
        stream_parquet(tmp_path / "log.parquet", **TIMED, candidates=pa.table({"what": [1, 2]}))


@UNUSED
def test_rows_without_an_event_and_dropped_events_are_counted_in_a_warning(tmp_path: Path) -> None:
    table = pa.table(
        {
            "who": [1, 1, 2, 3],
            "what": [1, 2, 1, 9],
            "at": [1, 2, 3, 4],
            "clicked": [True, False, False, True],
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    known: dict[str, Any] = {"candidates": pa.table({"what": [1, 2]}), "unknown_candidates": "drop"}
    for read in (from_tables, stream_parquet):
        with pytest.warns(DataWarning) as caught:
            log = read(tmp_path / "log.parquet", **TIMED, **known)
        messages = sorted(str(one.message) for one in caught)
        assert "1 of the 2 rows whose 'clicked' is false are not used" in messages[0]
        assert "dropped 1 of 2 events (50.0%): their 'what' is not in the candidate table, such as 9" in messages[1]
        assert (len(log), log.dropped) == (1, 1)
    table = table.set_column(1, "what", pa.array([7, 2, 1, 9]))
    pq.write_table(table, tmp_path / "other.parquet")
    for read in (from_tables, stream_parquet):
        with pytest.raises(DataError, match="no events are left: all 2 have a 'what' that is not"):
            read(tmp_path / "other.parquet", **TIMED, **known)


def test_roles_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pq.write_table(table_of(8), tmp_path / "log.parquet")
    own: dict[str, Any] = {"query_id": "who", "candidate_id": "what"}
    with pytest.raises(ConfigError, match="request='visit' without chosen"):
        stream_parquet(tmp_path / "log.parquet", **own, time="at", request="visit")
    with pytest.raises(ConfigError, match="chosen='clicked' without time and request"):
        stream_parquet(tmp_path / "log.parquet", **own, chosen="clicked")


@UNUSED
def test_a_config_opens_it(tmp_path: Path) -> None:
    whole, _ = both(table_of(300), tmp_path, **TIMED)
    config = DataConfig(interactions=str(tmp_path / "log.parquet"), stream=True, weight="weight", **TIMED)
    assert on_disk(config.open()) == lists_of(whole)
