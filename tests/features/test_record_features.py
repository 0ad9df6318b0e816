"""Features that read several columns: what a query did before, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toy import groups_log
from twotower.data import split_random
from twotower.errors import ConfigError, DataError, NotFittedError
from twotower.features import Activity, Category, Elapsed, History, Normalized, feature_from_settings
from twotower.features.base import Columns, RecordKey
from twotower.features.encoders import ENCODERS, Kernels, Mean
from twotower.features.history import GAPS, GIVEN, gap_buckets
from twotower.features.record import PADDING, UNKNOWN, Record
from twotower.features.recorded import Recorded, record_groups
from twotower.model import Tower, TwoTower, load_model, save_model
from twotower.retrieval import Retriever
from twotower.training import AdamW, Trainer

LOG: dict[str, list[Any]] = {
    "who": ["a", "b", "a", "a", "b", "a"],
    "what": [10, 11, 12, 10, 13, 14],
    "at": [1, 2, 3, 3, 5, 9],
}


def columns_of(log: Mapping[str, Sequence[Any]]) -> Columns:
    return {name: pa.chunked_array([pa.array(values)]) for name, values in log.items()}


FEATURES: dict[str, Any] = (
    {since: (lambda since=since: Elapsed("at", "who", since, dim=3)) for since in ("first", "previous", "next", "last")}
    | {events: (lambda events=events: Activity("at", "who", events, dim=3)) for events in ("before", "after", "all")}
    | {"instant": lambda: Activity("at", "who", "instant", dim=3)}
    | {name: (lambda name=name: History("what", "who", "at", length=3, dim=4, encoder=name)) for name in ENCODERS}
    | {"around": lambda: History("what", "who", "at", length=3, dim=4, reach="around")}
    | {"others": lambda: History("what", "who", length=3, dim=4)}
)


@pytest.fixture(params=FEATURES)
def feature(request: pytest.FixtureRequest) -> Recorded:
    made: Recorded = FEATURES[request.param]()
    made.fit_columns(columns_of(LOG))
    return made


def test_a_row_in_a_row_out_as_wide_as_said(feature: Recorded) -> None:
    embedded = feature(feature.encode_columns(columns_of(LOG)))
    assert embedded.shape == (6, feature.width)
    assert embedded.isfinite().all()


def test_what_was_chosen_is_not_read(feature: Recorded) -> None:
    assert "what" not in feature.reads
    without = {name: values for name, values in LOG.items() if name != "what"}
    one, other = (feature.encode_columns(columns_of(log)) for log in (LOG, without))
    assert torch.equal(one.nan_to_num(), other.nan_to_num())


def test_settings_state_and_weights_make_it_anew(feature: Recorded) -> None:
    again = feature_from_settings(feature.settings())
    assert isinstance(again, Recorded)
    assert feature.record is not None
    again.take_record(Record.restored(*feature.record.tables(), feature.record_key))
    again.load_state_dict(feature.state_dict())
    columns = columns_of(LOG)
    found = [one.eval()(one.encode_columns(columns)) for one in (feature, again)]
    assert torch.equal(found[0], found[1])


def test_unknown_queries_and_missing_times_are_embedded(feature: Recorded) -> None:
    unknown = {"who": pa.chunked_array([["zoe", "a"]]), "at": pa.chunked_array([pa.array([4, None], pa.int64())])}
    assert feature(feature.encode_columns(unknown)).isfinite().all()


def test_made_unknown_a_row_is_that_of_a_query_without_a_record(feature: Recorded) -> None:
    encoded = feature.encode_columns(columns_of(LOG))
    others = feature.encode_columns(columns_of(LOG | {"who": ["zoe"] * 6}))
    mask = torch.tensor([True, False, True, True, False, False])
    made = feature.as_unknown(encoded, mask)
    assert torch.equal(made[mask].nan_to_num(-9), others[mask].nan_to_num(-9))
    assert torch.equal(made[~mask].nan_to_num(-9), encoded[~mask].nan_to_num(-9))


def test_it_cannot_be_used_before_it_has_learned() -> None:
    for make in FEATURES.values():
        with pytest.raises(NotFittedError, match="call fit first"):
            make().encode_columns(columns_of(LOG))


def fitted_history(log: Mapping[str, Sequence[Any]] = LOG, **options: Any) -> History:
    history = History("what", "who", "at", **({"length": 3, "dim": 2} | options))
    history.fit_columns(columns_of(log))
    return history


def items_of(history: History, encoded: torch.Tensor) -> list[list[int]]:
    names = [None, None, *history.vocabulary.to_pylist()]
    return [[names[row] for row in event if row != PADDING] for event in encoded[:, 0].tolist()]


def test_a_history_is_the_latest_items_strictly_before_the_event_the_latest_first() -> None:
    history = fitted_history()
    found = items_of(history, history.encode_columns(columns_of(LOG)))
    assert found[:3] == [[], [], [10]]
    assert found[3] == [10]  # what happened at the same instant is not before it
    assert found[4] == [11]
    assert sorted(found[5]) == [10, 10, 12]
    assert found[5][-1] == 10


@given(
    events=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=20),
    length=st.integers(1, 4),
)
def test_no_event_is_in_its_own_history(events: list[tuple[int, int, int]], length: int) -> None:
    who, what, at = (list(part) for part in zip(*events, strict=True))
    history = fitted_history({"who": who, "what": what, "at": at}, length=length)
    found = items_of(history, history.encode_columns(columns_of({"who": who, "at": at})))
    for (query, _, moment), items in zip(events, found, strict=True):
        before = [(t, i) for q, i, t in events if q == query and t < moment]
        assert len(items) == min(length, len(before))
        times = sorted((t for t, _ in before), reverse=True)[: len(items)]
        for place, item in enumerate(items):
            assert (times[place], item) in before


def test_a_request_may_bring_its_own_history() -> None:
    history = fitted_history()
    asked = columns_of({"who": ["a", "zoe"], "at": [9, 9], GIVEN: [[99, 11, 13], None]})
    encoded = history.encode_columns(asked)
    assert encoded[0].tolist()[0][2] == 0  # 99 is unknown
    assert encoded[0].tolist()[1] == [GAPS] * 3  # when the request chose them is not known
    assert items_of(history, encoded)[0][:2] == [13, 11]
    assert items_of(history, encoded)[1] == []


def test_the_weighted_mean_follows_its_learned_recency() -> None:
    history = fitted_history(encoder="mean").eval()
    mean = history.encode_window
    assert isinstance(mean, Mean)
    assert history.table is not None
    with torch.no_grad():
        mean.recency.copy_(torch.tensor([0.0, -100.0, -100.0]))
    encoded = history.encode_columns(columns_of(LOG))
    torch.testing.assert_close(history(encoded)[5], history.table[encoded[5, 0, 0].long()])
    with torch.no_grad():
        mean.recency.zero_()
    torch.testing.assert_close(history(encoded)[5], history.table[encoded[5, 0].long()].mean(dim=0))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_empty_history_is_the_zero_vector_and_padding_changes_nothing(encoder: str) -> None:
    short, long = fitted_history(encoder=encoder), fitted_history(encoder=encoder, length=8)
    by_place = {"encode_window.recency", "encode_window.places", "encode_window.place"}
    longer = {name: torch.zeros_like(tensor) for name, tensor in long.state_dict().items() if name in by_place}
    shorter = {name: torch.zeros_like(tensor) for name, tensor in short.state_dict().items() if name in by_place}
    short.load_state_dict(short.state_dict() | shorter)
    long.load_state_dict(short.state_dict() | longer)
    columns = columns_of(LOG)
    one, other = (history.eval()(history.encode_columns(columns)) for history in (short, long))
    assert one[0].tolist() == [0.0] * short.width
    torch.testing.assert_close(one[2], other[2])


def test_kernels_weigh_items_by_their_gap_in_time() -> None:
    log: dict[str, list[Any]] = {"who": ["a"] * 3, "what": ["x", "y", "z"], "at": [0, 95, 100]}
    history = fitted_history(log).eval()
    weights = history.encode_window
    assert isinstance(weights, Kernels)
    assert history.table is not None
    with torch.no_grad():
        weights.place.zero_()
        weights.gap.zero_()
        weights.gap[gap_buckets(np.array([5.0])), 0] = 100.0  # the first kernel sees 5 s ago alone
    encoded = history.encode_columns(columns_of({"who": ["a"], "at": [100]}))
    kernels = history(encoded)[0].view(-1, history.dim)
    y, x = (history.table[row] for row in encoded[0, 0, :2].tolist())
    torch.testing.assert_close(kernels[0], y)
    torch.testing.assert_close(kernels[1], (x + y) / 2)


def around_by_hand(events: list[tuple[int, int, int]], asked: int, length: int) -> tuple[list[int], list[int]]:
    """Times of the events of the same query before and from the instant of one on, that one left out."""
    query, _, moment = events[asked]
    others = [t for number, (q, _, t) in enumerate(events) if q == query and number != asked]
    before = sorted((t for t in others if t < moment), reverse=True)[:length]
    return before, sorted(t for t in others if t >= moment)[:length]


@given(
    events=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=20),
    length=st.integers(1, 4),
)
def test_what_lies_around_an_event_of_training_leaves_that_event_out(
    events: list[tuple[int, int, int]], length: int
) -> None:
    who, what, at = (list(part) for part in zip(*events, strict=True))
    columns = columns_of({"who": who, "what": what, "at": at})
    history = fitted_history({"who": who, "what": what, "at": at}, length=length, reach="around")
    encoded = history.encode_training(columns)
    for number, (query, item, moment) in enumerate(events):
        before, ahead = around_by_hand(events, number, length)
        rows, gaps = encoded[number].tolist()
        expected = gap_buckets(np.array([t - moment for t in (*before, *ahead)], dtype=float)).tolist()
        assert [gap for row, gap in zip(rows, gaps, strict=True) if row != PADDING] == expected
        at_instant = sorted(i for n, (q, i, t) in enumerate(events) if (q, t) == (query, moment) and n != number)
        found = items_of(history, encoded)[number]
        if len(at_instant) <= length:
            assert sorted(found[len(before) : len(before) + len(at_instant)]) == at_instant
        assert item in at_instant or all((query, item, t) in events for t in before if found == [item])


def test_an_event_that_the_record_lacks_is_left_out_of_nothing() -> None:
    history = fitted_history(reach="around")
    elsewhere = columns_of({"who": ["a", "a", "zoe"], "what": [11, 99, 10], "at": [3, 3, 3]})
    assert torch.equal(history.encode_training(elsewhere), history.encode_columns(elsewhere))
    missing = {**elsewhere, "at": pa.chunked_array([pa.array([None, None, None], pa.int64())])}
    assert torch.equal(history.encode_training(missing), history.encode_columns(missing))


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ("first", [0, 0, 2, 2, 3, 8]),
        ("previous", [np.nan, np.nan, 2, 2, 3, 6]),
        ("next", [-2, -3, -6, -6, np.nan, np.nan]),
        ("last", [-8, -3, -6, -6, 0, 0]),
    ],
)
def test_elapsed_counts_from_the_event_it_is_told(since: Any, expected: list[float]) -> None:
    elapsed = Elapsed("at", by="who", since=since)
    elapsed.fit_columns(columns_of(LOG))
    scaled = elapsed.encode_columns(columns_of(LOG)).numpy()
    np.testing.assert_allclose(np.sign(scaled) * np.expm1(np.abs(scaled)), expected, atol=1e-5)


def test_in_training_elapsed_does_not_count_from_the_event_itself() -> None:
    log = columns_of({"who": ["a", "a", "a", "b"], "at": [1, 3, 9, 5]})
    for since, expected in (("first", [-2, 2, 8, np.nan]), ("last", [-8, -6, 6, np.nan])):
        elapsed = Elapsed("at", by="who", since=since)  # type: ignore[arg-type]
        elapsed.fit_columns(log)
        scaled = elapsed.encode_training(log).numpy()
        np.testing.assert_allclose(np.sign(scaled) * np.expm1(np.abs(scaled)), expected, atol=1e-5)
        assert elapsed.low <= np.nanmin(scaled)  # what it learned from is what it will be trained on


def test_a_training_event_without_a_time_is_refused() -> None:
    with pytest.raises(DataError, match="'at', row 1: a training event has no time"):
        Elapsed("at", by="who").fit_columns(columns_of({"who": ["a", "a"], "at": [1, None]}))


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="length=0"):
        History("what", "who", "at", length=0)
    with pytest.raises(ConfigError, match="only kernels with reach='around'"):
        History("what", "who", "at", encoder="gru", reach="around")
    with pytest.raises(ConfigError, match="Elapsed: since='never'; expected one of"):
        feature_from_settings({"kind": "elapsed", "column": "at", "by": "who", "since": "never"})


def test_queries_made_unknown_in_training_are_unknown_to_all_features_alike() -> None:
    log = groups_log(200)
    features = [
        Category("user", 4, unknown_rate=0.0),
        Elapsed("at", by="user", dim=4),
        Activity("at", by="user", dim=4),
        History("item", by="user", time="at", dim=4, unknown_rate=0.0),
        Normalized("at"),
    ]
    model = TwoTower(Tower(features, unknown_query_rate=0.5), Tower([Category("item", 31)])).learn(log)
    as_themselves = model.embed_queries(log)
    renamed = replace(log, queries=log.queries.set_column(0, "user", pa.array(range(1000, 1040))))
    as_unknown = model.embed_queries(renamed)
    found = model.train().query_vectors(model.encode_queries(log).whole())
    own, other = ((found == rows).all(dim=1) for rows in (as_themselves, as_unknown))
    assert (own ^ other).all()
    assert 60 < other.sum() < 140
    assert torch.equal(found[:, -1], as_themselves[:, -1])  # the time is nobody's own


def test_a_model_with_a_history_serves_an_unknown_query_that_brings_one() -> None:
    log = groups_log(4000)
    train, _ = split_random(log)
    query = Tower([Category("user", 8), History("item", by="user", time="at", dim=16)], [16])
    model = TwoTower(query, Tower([Category("item", 16)], [16]))
    Trainer(epochs=10, batch_size=128, optimizer=AdamW(0.01)).fit(model, train)
    retriever = Retriever.build(model, log.candidates, seen=train)
    for group in range(5):
        given = [group, group + 5, group + 10, group, group + 15]
        found = retriever.recommend({"user": 999, "history": given}, k=5, exclude_seen=False)
        assert sum(one.id % 5 == group for one in found) >= 4
    assert retriever.recommend({"user": 3}) != retriever.recommend({"user": 3, "history": [1, 6, 11]})


@pytest.mark.parametrize(
    ("events", "expected", "in_training"),
    [
        ("before", [0, 0, 1, 1, 1, 3], [0, 0, 1, 1, 1, 3]),
        ("after", [3, 1, 1, 1, 0, 0], [3, 1, 1, 1, 0, 0]),
        ("instant", [1, 1, 2, 2, 1, 1], [0, 0, 1, 1, 0, 0]),
        ("all", [4, 2, 4, 4, 2, 4], [3, 1, 3, 3, 1, 3]),
    ],
)
def test_activity_counts_events_but_in_training_not_the_event_itself(
    events: Any, expected: list[int], in_training: list[int]
) -> None:
    activity = Activity("at", by="who", events=events, dim=2)
    activity.fit_columns(columns_of(LOG))
    assert activity.encode_columns(columns_of(LOG)).expm1().round().tolist() == expected
    assert activity.encode_training(columns_of(LOG)).expm1().round().tolist() == in_training
    assert activity.encode_columns(columns_of({"who": ["zoe"], "at": [4]})).tolist() == [0.0]


def test_features_of_one_log_share_one_record() -> None:
    log = groups_log(200)
    features = [
        Elapsed("at", by="user"),
        Activity("at", by="user"),
        History("item", by="user", time="at", dim=8),
        History("item", by="user", time="at", dim=8, encoder="gru"),
    ]
    model = TwoTower(Tower([Category("user", 8), *features], [8]), Tower([Category("item", 8)], [8])).learn(log)
    assert len({id(feature.record) for feature in features}) == 1
    assert [key for key, _ in record_groups(model.query.features)] == [RecordKey("user", "at", "item")]  # type: ignore[arg-type]


def test_a_saved_model_keeps_one_record_and_gives_the_same_scores(tmp_path: Path) -> None:
    log = groups_log(200)
    query = Tower([Elapsed("at", by="user"), History("item", by="user", time="at", dim=8, reach="around")], [8])
    model = TwoTower(query, Tower([Category("item", 8)], [8])).learn(log).eval()
    save_model(model, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model" / "records").iterdir()) == [
        "0-events.arrow",
        "0-items.arrow",
    ]
    assert torch.equal(load_model(tmp_path / "model").embed_queries(log), model.embed_queries(log))


def test_a_history_may_share_the_candidate_towers_item_embeddings(tmp_path: Path) -> None:
    log = groups_log(400)
    history = History("item", by="user", time="at", dim=8, encoder="mean", shared=True, unknown_rate=0.0)
    model = TwoTower(Tower([history], [8]), Tower([Category("item", 8, unknown_rate=0.0)], [8])).learn(log).eval()
    source = model.candidate.features[0]
    assert [table for table, _ in history.look_ups] == [source.table]
    assert sum(name.endswith("table") for name in model.state_dict()) == 1
    rows = source.encode(log.candidates["item"])  # type: ignore[operator]
    assert items_of(history, history.encode_columns(columns_of({"user": [999], "at": [0], GIVEN: [[4, 7]]}))) == [
        [7, 4]
    ]
    encoded = history.encode_columns(columns_of({"user": [999], "at": [0], GIVEN: [[4]]}))
    assert encoded[0, 0, 0] == rows[4]
    own = model.encode_queries(log).columns[0].values
    last_row, last_item = own[-1, 0, 0].item(), items_of(history, own)[-1][0]
    assert last_row == rows[last_item].item()
    Trainer(epochs=1).fit(model, log)
    save_model(model, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model").embed_queries(log), model.embed_queries(log))


def test_sharing_needs_a_category_of_that_column_and_width() -> None:
    def model(source: Category) -> TwoTower:
        history = History("item", by="user", time="at", dim=8, shared=True)
        return TwoTower(Tower([history], [8]), Tower([source], [8]))

    with pytest.raises(ConfigError, match="expected one of title"):
        model(Category("title", 8))
    with pytest.raises(ConfigError, match="expected dim=16 here"):
        model(Category("item", 16))


def test_a_model_remembers_what_happened_since_without_training() -> None:
    log = groups_log(400)
    early, late = log.take(np.arange(300)), log.take(np.arange(300, 400))
    query = Tower([Activity("at", by="user"), History("item", by="user", time="at", dim=8)], [8])
    model = TwoTower(query, Tower([Category("item", 8)], [8])).learn(early.take(early.query_index != 7)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    new = late.take(late.query_index == 7)
    activity, history = (column.values for column in model.encode_queries(new).columns)
    assert activity.tolist() == [0.0] * len(new)
    assert (history[:, 0] == PADDING).all()
    model.remember(log)
    activity, history = (column.values for column in model.encode_queries(new).columns)
    own = np.flatnonzero(log.query_index == 7)
    counts = [int((log.times[own] < moment).sum()) for moment in new.times]
    assert activity.expm1().round().tolist() == counts
    assert (history[:, 0] != PADDING).sum(dim=1).tolist() == [min(20, count) for count in counts]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_items_that_training_did_not_see_are_unknown_in_what_is_remembered() -> None:
    history = fitted_history({"who": ["a", "a"], "what": [10, 11], "at": [1, 2]}, encoder="mean")
    assert history.record is not None
    later = columns_of({"who": ["a", "a", "b"], "what": [11, 99, 10], "at": [3, 4, 5]})
    history.replace_record(Record.of(later, history.record_key, history.vocabulary))
    encoded = history.encode_columns(columns_of({"who": ["a", "b"], "at": [9, 9]}))
    assert items_of(history, encoded)[1] == [10]
    assert encoded[0, 0].tolist() == [UNKNOWN, 3, PADDING]


@pytest.mark.parametrize("name", ["first", "previous", "before", "all"])
def test_numbers_beyond_those_of_training_do_not_lead_out_of_its_range(name: str) -> None:
    feature: Recorded = FEATURES[name]()
    feature.fit_columns(columns_of(LOG))
    trained = feature(feature.encode_training(columns_of(LOG)))
    later = columns_of({"who": ["a", "b", "a"], "what": [10, 10, 10], "at": [10**4, 10**7, 10**9]})
    beyond = feature(feature.encode_columns(later))
    assert beyond[:, -1].max() <= trained[:, -1].max()
    assert beyond[:, -1].min() >= trained[:, -1].min()
    assert torch.equal(beyond[0], beyond[2])
