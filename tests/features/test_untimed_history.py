"""Histories in logs without times: the query's other choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twotower.data import Dataset, ParquetLog, from_tables, stream_parquet
from twotower.errors import ConfigError
from twotower.features import Category, History, feature_from_settings
from twotower.features.history import GAPS, GIVEN, PREDICTION_READS
from twotower.features.record import FIRST, PADDING
from twotower.model import Tower, TwoTower, load_model, save_model
from twotower.model.saving import model_version
from twotower.retrieval import Retriever
from twotower.training import AdamW, Trainer

ROLES: dict[str, Any] = {"query_id": "who", "candidate_id": "what"}


def columns_of(who: list[int], what: list[int]) -> dict[str, pa.ChunkedArray]:
    return {"who": pa.chunked_array([who]), "what": pa.chunked_array([what])}


def items_of(feature: History, encoded: torch.Tensor) -> list[list[int]]:
    """The items of each window, sorted."""
    assert (encoded[:, 1] == GAPS).all()
    rows = encoded[:, 0].tolist()
    return [sorted(feature.vocabulary[row - FIRST].as_py() for row in own if row != PADDING) for own in rows]


@given(
    events=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=40),
    length=st.integers(1, 50),
)
def test_in_training_it_reads_the_other_choices_and_elsewhere_all(events: list[tuple[int, int]], length: int) -> None:
    who, what = (list(values) for values in zip(*events, strict=True))
    feature = History("what", by="who", length=length, dim=2)
    columns = columns_of(who, what)
    feature.fit_columns(columns)
    assert set(feature.reads) == {"who"}
    trained = items_of(feature, feature.encode_training(columns))
    asked = items_of(feature, feature.encode_columns({"who": columns["who"]}))
    for number, (query, item) in enumerate(events):
        every = sorted(chosen for one, chosen in events if one == query)
        others = sorted(every)
        others.remove(item)
        most = PREDICTION_READS * length
        for found, expected, reads in ((trained[number], others, length), (asked[number], every, most)):
            assert len(found) == min(reads, len(expected))
            left = list(expected)
            for one in found:
                left.remove(one)  # nothing is read more often than it was chosen


def test_training_draws_one_from_each_part_of_the_others_anew_for_each_event() -> None:
    others, length = 40, 4
    columns = columns_of([1] * (others + 1), list(range(others + 1)))
    feature = History("what", by="who", length=length, dim=2)
    feature.fit_columns(columns)
    encoded = feature.encode_training(columns)
    places = encoded[:, 0].numpy() - FIRST  # all items are equally frequent, so their rows are in the record's order
    own = np.array([feature.vocabulary.index(item).as_py() for item in range(others + 1)])
    places -= places > own[:, None]  # among the others
    assert (places // (others // length) == np.arange(length)).all()
    for part in range(length):
        assert len(np.unique(places[:, part])) >= 5, "the events of a query read the same"
    again = feature.encode_training({name: column.take(pa.array([7, 2])) for name, column in columns.items()})
    assert torch.equal(again, encoded[[7, 2]])  # it does not depend on what else is encoded


def test_windows_keep_their_width_when_queries_get_more_events() -> None:
    feature = History("what", by="who", length=2, dim=2)
    for events in (3, 50):  # an exported tower takes one width
        columns = columns_of([1] * events, list(range(events)))
        feature.fit_columns(columns)
        assert feature.encode_columns(columns).shape == (events, 2, 2 * PREDICTION_READS)
        assert feature.encode_training(columns).shape == (events, 2, 2)


def test_a_request_may_bring_as_many_items_as_prediction_reads() -> None:
    feature = History("what", by="who", length=2, dim=2)
    feature.fit_columns(columns_of([1] * 30, list(range(30))))
    asked = {"who": pa.chunked_array([[7]]), GIVEN: pa.chunked_array([pa.array([list(range(30))])])}
    assert items_of(feature, feature.encode_columns(asked)) == [list(range(30 - 2 * PREDICTION_READS, 30))]


def test_of_two_histories_of_the_same_items_the_longer_counts_for_more() -> None:
    feature = History("what", by="who", length=4, dim=3).eval()
    feature.fit_columns(columns_of([1, 2, 2, 2, 2], [7, 7, 7, 7, 7]))
    with torch.no_grad():
        once, four_times = feature(feature.encode_columns(columns_of([1, 2], [7, 7]))).chunk(2, dim=0)
    assert torch.allclose(once[:, :3], four_times[:, :3])  # the means
    assert torch.allclose(2 * once[:, 3:], four_times[:, 3:])  # the sums, by the root of their number


def test_without_a_time_no_encoder_may_need_an_order() -> None:
    with pytest.raises(ConfigError, match="only totals without a time"):
        History("what", by="who", encoder="gru")


def test_of_more_choices_than_it_reads_they_are_spread_from_frequent_to_rare_items() -> None:
    who = [9] * 10 + [number for number in range(8) for _ in range(number)]
    what = list(range(10)) + [number for number in range(8) for _ in range(number)]
    who += [9] * 10 * PREDICTION_READS
    what += list(range(100, 100 + 10 * PREDICTION_READS))
    feature = History("what", by="who", length=5, dim=2)
    feature.fit_columns(columns_of(who, what))
    encoded = feature.encode_columns({"who": pa.chunked_array([[9]])})
    own = np.sort([feature.vocabulary.index(item).as_py() for one, item in zip(who, what, strict=True) if one == 9])
    read, every = [row - FIRST for row in encoded[0, 0].tolist()], own.tolist()
    assert read == [every[place * len(every) // len(read)] for place in range(len(read))]


def test_a_request_may_bring_its_own_and_an_unknown_query_has_none() -> None:
    feature = History("what", by="who", length=3, dim=2)
    feature.fit_columns(columns_of([1, 1, 2], [5, 6, 5]))
    asked = {"who": pa.chunked_array([[1, 7]]), GIVEN: pa.chunked_array([pa.array([[6, 5, 6, 5], None])])}
    assert items_of(feature, feature.encode_columns(asked)) == [[5, 5, 6, 6], []]


def test_its_settings_make_it_anew() -> None:
    feature = History("what", by="who", length=3, dim=2, shared=True)
    assert feature.read_as == "other choices"
    again = feature_from_settings(feature.settings())
    assert isinstance(again, History)
    assert again.settings() == feature.settings()
    assert again.time is None


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    rows = {"who": draw.integers(30, size=900), "what": draw.integers(20, size=900), "at": draw.integers(50, size=900)}
    pq.write_table(pa.table(rows), path, row_group_size=130)
    return path


@pytest.fixture(params=[None, "at"], ids=["no times", "times that it does not read"])
def logs(path: Path, request: pytest.FixtureRequest) -> tuple[Dataset, ParquetLog]:
    pytest.importorskip("duckdb")
    time = request.param
    return from_tables(path, **ROLES, time=time), stream_parquet(path, **ROLES, time=time, buffer=400)


def model() -> TwoTower:
    history = History("what", by="who", length=5, dim=4, shared=True)
    return TwoTower(Tower([history, Category("who", 4)], [4]), Tower([Category("what", 4)], combine="sum"))


def test_a_model_learns_the_same_from_a_log_on_disk_to_the_bit(logs: tuple[Dataset, ParquetLog]) -> None:
    whole, log = logs
    streamed, in_memory = model().learn(log, seed=3), model().learn(whole, seed=3)
    assert model_version(streamed) == model_version(in_memory)
    trainer = Trainer(epochs=1, batch_size=64, optimizer=AdamW(0.02))
    for one in (streamed, in_memory):
        trainer.fit(one, log)
    assert model_version(streamed) == model_version(in_memory)
    assert torch.equal(streamed.embed_queries(whole), in_memory.embed_queries(whole))


def test_a_trained_model_is_saved_and_serves(path: Path, tmp_path: Path) -> None:
    whole = from_tables(path, **ROLES)
    one = model()
    Trainer(epochs=1, batch_size=64).fit(one, whole)
    save_model(one, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert torch.equal(again.embed_queries(whole), one.embed_queries(whole))
    retriever = Retriever.build(one, whole.candidates, seen=whole)
    assert len(retriever.recommend(3, k=4).recommendations) == 4
    given_histories = [retriever.recommend({"history": ids}, k=4).recommendations for ids in ([1, 2], [7, 9])]
    assert given_histories[0] != given_histories[1]
