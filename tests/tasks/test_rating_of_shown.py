"""`Rating` of whether what was shown is chosen: as rating every row of the log, while retrieval sees events only."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import twotower as tt
from rank_processes import on_ranks, without_errors
from shown_fixtures import ROLES, shown_log, shown_rows, weights_of
from twotower.data import Dataset, Log, TimeSplit, from_tables, split_by_time, split_log, stream_parquet
from twotower.errors import DataError
from twotower.model import Tower, TwoTower
from twotower.tasks import shown
from twotower.tasks.shown import Shown, known_choices, with_shown
from twotower.training import Adagrad, Trainer

CLICK = tt.Rating(target="clicked", loss="cross_entropy", name="click")
ROWS = {name: column for name, column in ROLES.items() if name not in ("chosen", "request")}


def ids_model() -> TwoTower:
    user, item = (tt.Category(column, 8, unknown_rate=0.0) for column in ("user", "item"))
    return TwoTower(Tower([user]), Tower([item]))


def trained(log: Log, fitted: TwoTower | None = None, **options: Any) -> TwoTower:
    """A model that was trained on whole logs at a time, so that the order of rows is only rounding."""
    model = ids_model().learn(log) if fitted is None else copy.deepcopy(fitted)
    settings: dict[str, Any] = {
        "epochs": 5,
        "batch_size": 100_000,
        "optimizer": Adagrad(0.1),
        "tasks": (CLICK,),
    } | options
    Trainer(**settings).fit(model, log)
    return model


@pytest.fixture(scope="module")
def log() -> Dataset:
    return shown_log()


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """The same log, in which every row is an event."""
    return from_tables(shown_rows(400), **ROWS)


def test_what_was_shown_is_rated_as_if_every_row_were_an_event(log: Dataset, rows: Dataset) -> None:
    fitted = ids_model().learn(rows)
    found, expected = (weights_of(trained(one, fitted)) for one in (log, rows))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_metrics_are_those_of_every_row(log: Dataset, rows: Dataset) -> None:
    parts = [split_by_time(one, 0.25) for one in (log, rows)]
    model = trained(parts[0].train)
    found, expected = (tt.evaluate(model, one.test, one.train, tasks=[CLICK]).task("click") for one in parts)
    assert found.model.metrics == pytest.approx(expected.model.metrics)
    assert found.model.half_widths == pytest.approx(expected.model.half_widths)
    assert {name: one.metrics for name, one in found.rows.items()} == {
        name: pytest.approx(one.metrics, rel=1e-6) for name, one in expected.rows.items()
    }
    assert not any("not measured" in note for note in found.notes)


def test_retrieval_and_clicks_learn_together(log: Dataset) -> None:
    parts = split_by_time(log, 0.25)
    train, test = parts.train, parts.test
    model = ids_model()
    tasks: tuple[tt.Task, ...] = (tt.Retrieval(), CLICK)
    Trainer(epochs=10, batch_size=64, optimizer=Adagrad(0.3), tasks=tasks).fit(model, train, test)
    found = tt.evaluate(model, test, train, tasks=tasks)
    assert found.task("click").model.metrics["auc"] > 0.85  # the lowest number is chosen
    assert found.model is not None


def test_a_log_on_disk_is_rated_as_one_in_memory(log: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    mixed = np.random.default_rng(1).permutation(1600)
    pq.write_table(shown_rows(400).take(pa.array(mixed)), tmp_path / "log.parquet", row_group_size=300)
    streamed = stream_parquet(tmp_path / "log.parquet", **ROLES, buffer=1 << 20)
    fitted = ids_model().learn(log)
    found, expected = (trained(one, fitted) for one in (streamed, log))
    for name, values in weights_of(expected).items():
        np.testing.assert_allclose(weights_of(found)[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    beside = [tt.evaluate(expected, log, train, tasks=[CLICK]).task("click").rows for train in (streamed, log)]
    for name in ("global_mean", "means"):  # the others choose by parts that depend on the order of rows
        assert beside[0][name].metrics == pytest.approx(beside[1][name].metrics, rel=1e-6)


def on_rank(batch_size: int) -> dict[str, npt.NDArray[np.float32]]:
    torch.set_num_threads(1)
    return weights_of(trained(shown_log(), batch_size=batch_size))


def test_ranks_end_where_one_process_does(tmp_path: Path) -> None:
    (found,) = on_ranks(2, tmp_path, (on_rank, 64))
    expected = on_rank(64)
    for weights in without_errors(found):
        for name, values in weights.items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)


VISITS = st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=6)


def log_of(visits: list[list[bool]], weights: list[float] | None = None) -> Dataset:
    """Each visit is of another user, and shows candidates 0, 1, …"""
    table: dict[str, Any] = {
        "user": [number for number, visit in enumerate(visits) for _ in visit],
        "item": [place for visit in visits for place, _ in enumerate(visit)],
        "clicked": [click for visit in visits for click in visit],
    }
    table["visit"] = table["user"]
    roles: dict[str, Any] = {"query_id": "user", "candidate_id": "item", "chosen": "clicked", "request": "visit"}
    if weights is not None:
        table["weight"] = weights
        roles["weight"] = "weight"
    return from_tables(pa.table(table), **roles)


@given(visits=VISITS.filter(lambda visits: any(map(any, visits))))
@pytest.mark.filterwarnings("ignore::twotower.errors.DataWarning")
def test_what_was_shown_counts_once_however_many_were_chosen(visits: list[list[bool]]) -> None:
    log = log_of(visits)
    everything, targets = with_shown(log)
    found = dict[tuple[int, int, bool], float]()
    for query, candidate, target, weight in zip(
        everything.query_index, everything.candidate_index, targets, everything.weights, strict=True
    ):
        row = log.queries["user"][query].as_py(), log.candidates["item"][candidate].as_py(), bool(target)
        found[row] = found.get(row, 0.0) + float(weight)
    answered = [number for number, visit in enumerate(visits) if any(visit)]  # others belong to no event
    expected = {(number, place, click) for number in answered for place, click in enumerate(visits[number])}
    assert found.keys() == expected
    assert list(found.values()) == pytest.approx([1.0] * len(expected))
    position, candidates, shares = Shown(log).of(np.arange(len(log))[::-1].copy())
    assert len(position) == len(candidates) == len(shares) == len(everything) - len(log)


def test_the_order_of_rows_and_events_without_weight_do_not_matter() -> None:
    visits = [[True, True, False, False], [True, False, True]]
    weights = [0.0, 4.0, 9.0, 9.0, 1.0, 9.0, 3.0]
    for log in (
        log_of(visits, weights),
        log_of([visit[::-1] for visit in visits], [*weights[:4][::-1], *weights[4:][::-1]]),
    ):
        everything, targets = known_choices(log, "clicked")
        assert everything.weights[targets == 1].sum() == 4.0 + 1.0 + 3.0
        assert everything.weights[targets == 0].sum() == pytest.approx(2 * (0.0 + 4.0) / 2 + (1.0 + 3.0) / 2)


def test_a_sample_of_a_log_on_disk_has_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("duckdb")
    visits, each = 2000, 10
    table = pa.table(
        {
            "user": np.repeat(np.arange(visits), each),
            "item": np.tile(np.arange(each), visits),
            "visit": np.repeat(np.arange(visits), each),
            "at": np.repeat(np.arange(visits), each),
            "clicked": np.tile(np.arange(each) < 5, visits),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    streamed = stream_parquet(
        tmp_path / "log.parquet", query_id="user", candidate_id="item", time="at", chosen="clicked", request="visit"
    )
    monkeypatch.setattr(shown, "SAMPLE", 1000)
    everything, targets = known_choices(streamed, "clicked")
    assert (targets == 1).sum() < 1100
    assert np.average(targets, weights=everything.weights) == pytest.approx(0.5)


def test_several_chosen_of_one_request_are_rated_as_rows(tmp_path: Path) -> None:
    """In memory, on disk, and where every row is an event; also after a split of both kinds of log."""
    pytest.importorskip("duckdb")
    table = shown_rows(400)
    clicked = pc.or_(table["clicked"], pc.less(table["item"], 8))
    table = table.set_column(table.column_names.index("clicked"), "clicked", clicked)
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=300)
    rows, whole = from_tables(table, **ROWS), from_tables(table, **ROLES)
    assert whole.exposures is not None
    assert len(whole) > 450  # more events than requests
    streamed = stream_parquet(tmp_path / "log.parquet", **ROLES, buffer=1 << 20)
    fitted = ids_model().learn(rows)
    for logs in ((whole, streamed, rows), tuple(split_log(log, TimeSplit(0.25)).train for log in (whole, streamed))):
        expected, *others = (weights_of(trained(log, fitted)) for log in logs)
        for found in others:
            for name, values in expected.items():
                np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_what_cannot_be_rated_is_refused(log: Dataset) -> None:
    assert log.exposures is not None
    none = from_tables(
        shown_rows(3).filter(pa.array([True, False, False, False] * 3)).set_column(4, "clicked", pa.array([True] * 3)),
        **ROLES,
    )
    with pytest.raises(DataError, match=r"target 'clicked': nothing was shown with the 3 events of train"):
        trained(none)
    with pytest.raises(DataError, match=r"'clicked' says which rows were chosen.*only Rating learns from it"):
        trained(log, tasks=(tt.Ranking(target="clicked"),))
