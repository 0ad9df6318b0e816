"""Features that read several columns: what a query did before, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from twotower.features import Activity, Category, Elapsed, Feature, History, feature_from_settings
from twotower.features.base import Columns
from twotower.features.history import GIVEN
from twotower.model import Tower, TwoTower
from twotower.retrieval import Retriever
from twotower.training import AdamW, Trainer

LOG: dict[str, list[Any]] = {
    "who": ["a", "b", "a", "a", "b", "a"],
    "what": [10, 11, 12, 10, 13, 14],
    "at": [1, 2, 3, 3, 5, 9],
}


def columns_of(log: Mapping[str, Sequence[Any]]) -> Columns:
    return {name: pa.chunked_array([pa.array(values)]) for name, values in log.items()}


ENCODERS = ("summaries", "mean", "gru", "attention")
FEATURES: dict[str, Any] = {
    "first": lambda: Elapsed("at", by="who", since="first", dim=3),
    "previous": lambda: Elapsed("at", by="who", since="previous", dim=3),
    "before": lambda: Activity("at", by="who", events="before", dim=3),
    "in all": lambda: Activity("at", by="who", events="all", dim=3),
} | {name: (lambda name=name: History("what", "who", "at", length=3, dim=4, encoder=name)) for name in ENCODERS}


@pytest.fixture(params=FEATURES)
def feature(request: pytest.FixtureRequest) -> Feature:
    made: Feature = FEATURES[request.param]()
    made.fit_columns(columns_of(LOG))
    return made


def test_a_row_in_a_row_out_as_wide_as_said(feature: Feature) -> None:
    embedded = feature(feature.encode_columns(columns_of(LOG)))
    assert embedded.shape == (6, feature.width)
    assert embedded.isfinite().all()


def test_what_was_chosen_is_not_read(feature: Feature) -> None:
    assert "what" not in feature.reads
    without = {name: values for name, values in LOG.items() if name != "what"}
    one, other = (feature.encode_columns(columns_of(log)) for log in (LOG, without))
    assert torch.equal(one.nan_to_num(), other.nan_to_num())


def test_settings_state_and_weights_make_it_anew(feature: Feature) -> None:
    again = feature_from_settings(feature.settings())
    again.restore(feature.learned())
    again.load_state_dict(feature.state_dict())
    columns = columns_of(LOG)
    found = [one.eval()(one.encode_columns(columns)) for one in (feature, again)]
    assert torch.equal(found[0], found[1])


def test_unknown_queries_and_missing_times_are_embedded(feature: Feature) -> None:
    strangers = {"who": pa.chunked_array([["zoe", "a"]]), "at": pa.chunked_array([pa.array([4, None], pa.int64())])}
    assert feature(feature.encode_columns(strangers)).isfinite().all()


def test_it_cannot_be_used_before_it_has_learned() -> None:
    for make in FEATURES.values():
        with pytest.raises(NotFittedError, match="call fit first"):
            make().encode_columns(columns_of(LOG))


def fitted_history(log: Mapping[str, Sequence[Any]] = LOG, **options: Any) -> History:
    history = History("what", "who", "at", **({"length": 3, "dim": 2} | options))
    history.fit_columns(columns_of(log))
    return history


def items_of(history: History, encoded: torch.Tensor) -> list[list[int]]:
    assert history.vocabulary is not None
    names = [None, None, *history.vocabulary.to_pylist()]
    return [[names[row] for row in event if row != 0] for event in encoded.tolist()]


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
    assert encoded[0].tolist()[2] == 1  # 99 is unknown
    assert items_of(history, encoded)[0][:2] == [13, 11]
    assert items_of(history, encoded)[1] == []


def test_the_weighted_mean_follows_its_learned_recency() -> None:
    history = fitted_history(encoder="mean").eval()
    assert history.table is not None
    with torch.no_grad():
        history.recency.copy_(torch.tensor([0.0, -100.0, -100.0]))
    encoded = history.encode_columns(columns_of(LOG))
    torch.testing.assert_close(history(encoded)[5], history.table[encoded[5, 0].long()])
    with torch.no_grad():
        history.recency.zero_()
    torch.testing.assert_close(history(encoded)[5], history.table[encoded[5].long()].mean(dim=0))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_empty_history_is_the_zero_vector_and_padding_changes_nothing(encoder: str) -> None:
    short, long = fitted_history(encoder=encoder), fitted_history(encoder=encoder, length=8)
    lengths = {name: tensor for name, tensor in long.state_dict().items() if "recency" in name or "places" in name}
    long.load_state_dict(short.state_dict() | lengths)
    for history in (short, long):
        history.eval()
        with torch.no_grad():
            history.recency.zero_()
    columns = columns_of(LOG)
    one, other = short(short.encode_columns(columns)), long(long.encode_columns(columns))
    assert one[0].tolist() == [0.0] * short.width
    torch.testing.assert_close(one[2], other[2])


def test_elapsed_counts_from_the_first_or_the_previous_event() -> None:
    columns = columns_of(LOG)
    first, previous = Elapsed("at", by="who", since="first"), Elapsed("at", by="who", since="previous")
    for feature in (first, previous):
        feature.fit_columns(columns)
    seconds = np.expm1(first.encode_columns(columns).numpy())
    np.testing.assert_allclose(seconds, [0, 0, 2, 2, 3, 8], atol=1e-5)
    seconds = np.expm1(previous.encode_columns(columns).numpy())
    np.testing.assert_allclose(seconds, [np.nan, np.nan, 2, 2, 3, 6], atol=1e-5)
    earlier = columns_of({"who": ["a"], "at": [0]})
    assert first.encode_columns(earlier).item() == pytest.approx(-np.log(2))


def test_a_training_event_without_a_time_is_refused() -> None:
    with pytest.raises(DataError, match="'at', row 1: a training event has no time"):
        Elapsed("at", by="who").fit_columns(columns_of({"who": ["a", "a"], "at": [1, None]}))


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="length=0"):
        History("what", "who", "at", length=0)
    with pytest.raises(ConfigError, match="Invalid enum value 'last'"):
        feature_from_settings({"kind": "elapsed", "column": "at", "by": "who", "since": "last"})


def test_a_model_with_a_history_serves_a_stranger_who_brings_one() -> None:
    log = groups_log(4000)
    train, _ = split_random(log)
    query = Tower([Category("user", 8), History("item", by="user", time="at", dim=16)], [16])
    model = TwoTower(query, Tower([Category("item", 16)], [16]))
    Trainer(epochs=10, batch_size=128, optimizer=AdamW(0.01)).fit(model, train)
    retriever = Retriever.build(model, log.candidates, seen=train)
    for group in range(5):
        given = [group, group + 5, group + 10, group, group + 15]
        found = retriever.recommend({"user": 999, "history": given}, k=5)
        assert sum(one.id % 5 == group for one in found) >= 4
    assert retriever.recommend({"user": 3}) != retriever.recommend({"user": 3, "history": [1, 6, 11]})


def test_activity_counts_what_came_strictly_before_or_in_all() -> None:
    before, whole = Activity("at", by="who", dim=2), Activity("at", by="who", events="all", dim=2)
    for activity, expected in ((before, [0, 0, 1, 1, 1, 3]), (whole, [4, 2, 4, 4, 2, 4])):
        activity.fit_columns(columns_of(LOG))
        assert activity.encode_columns(columns_of(LOG)).expm1().round().tolist() == expected
    stranger = columns_of({"who": ["zoe"], "at": [4]})
    assert before.encode_columns(stranger).tolist() == [0.0]
