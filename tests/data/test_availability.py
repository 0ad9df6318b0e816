"""Candidates that were not available at the time of an event: not its negatives, and not counted in its rank."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import twotower as tt
from twotower.data import Dataset, ParquetLog, TimeSplit, from_tables, split_log, stream_parquet
from twotower.data.splits import split_by_time
from twotower.errors import ConfigError, DataError, DataWarning, TwoTowerError
from twotower.evaluation.measure import measure
from twotower.model.excluded import Excluded
from twotower.model.losses import Batch
from twotower.recipes.config import Config
from twotower.recipes.data_config import DataConfig
from twotower.recipes.parts import SplitConfig
from twotower.tasks import ranking

SIZE = 12


def log(seed: int, limits: bool = True, events: int = 60) -> Dataset:
    """Events at times 0 to 99, each with a candidate that was available, over a catalogue that comes and goes."""
    draw = np.random.default_rng(seed)
    since, until = np.sort(draw.integers(0, 100, (SIZE, 2)), axis=1).T
    since[:3], until[:3] = 0, 99  # something is always there
    times = np.sort(draw.integers(0, 100, events))
    there = (since <= times[:, None]) & (times[:, None] <= until)
    what = [int(draw.choice(np.flatnonzero(row))) for row in there]
    table = pa.table({"who": draw.integers(0, 8, events), "what": what, "at": times})
    items = pa.table({"what": np.arange(SIZE), "since": _some_null(since, 0), "until": _some_null(until, 99)})
    named: dict[str, Any] = {"available_from": "since", "available_until": "until"} if limits else {}
    return from_tables(table, query_id="who", candidate_id="what", time="at", candidates=items, **named)


def _some_null(values: npt.NDArray[np.int64], limit: int) -> pa.Array:
    """Null where a limit limits nothing."""
    return pa.array(values, mask=values == limit)


def there(data: Dataset) -> npt.NDArray[np.bool_]:
    """Who was available to which event, from the tables themselves, `[N, C]`."""
    since, until = (data.candidates[name].to_pylist() for name in ("since", "until"))
    return np.array(
        [
            [
                what == own or ((first is None or first <= at) and (last is None or at <= last))
                for what, (first, last) in enumerate(zip(since, until, strict=True))
            ]
            for own, at in zip(data.candidate_index, data.times, strict=True)
        ]
    )


class Fixed:
    """Scores drawn once."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def score_block(self, events: Dataset) -> Any:
        return lambda numbers: self.scores[torch.from_numpy(numbers)]


@given(st.integers(0, 10_000))
def test_ranks_count_only_what_was_available(seed: int) -> None:
    data = log(seed)
    train, test = split_by_time(data, test=0.3)
    scores = torch.rand(len(test), SIZE, generator=torch.Generator().manual_seed(seed))
    found = measure(Fixed(scores), test, train)
    own = scores[np.arange(len(test)), test.candidate_index].numpy()
    expected = 1 + (there(test) & (scores.numpy() > own[:, None])).sum(axis=1)
    assert np.array_equal(found.outcomes.ranks[0], expected)
    assert found.scores.all["mrr"] == pytest.approx((1 / expected).mean())


@given(st.integers(0, 10_000))
def test_the_full_softmax_runs_over_what_was_available(seed: int) -> None:
    data = log(seed)
    draw = torch.Generator().manual_seed(seed)
    queries, candidates = (torch.randn(size, 4, generator=draw, dtype=torch.float64) for size in (len(data), SIZE))
    target = torch.from_numpy(data.candidate_index)
    batch = Batch(torch.from_numpy(data.query_index), target, times=torch.from_numpy(data.times))
    loss = tt.FullSoftmax().bind(data)(queries, batch, lambda rows: candidates[rows])
    logits = (queries @ candidates.T).masked_fill(torch.from_numpy(~there(data)), -torch.inf)
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, target).item())


@given(st.integers(0, 10_000), st.booleans())
def test_in_batch_negatives_were_available(seed: int, mask_known: bool) -> None:
    data = log(seed, events=20)
    draw = torch.Generator().manual_seed(seed)
    queries, candidates = (torch.randn(size, 4, generator=draw, dtype=torch.float64) for size in (len(data), SIZE))
    own = torch.from_numpy(data.candidate_index)
    batch = Batch(torch.from_numpy(data.query_index), own, times=torch.from_numpy(data.times))
    loss = tt.InBatchSoftmax(log_q=False, mask_known=mask_known).bind(data)(
        queries, batch, lambda rows: candidates[rows]
    )
    left_out = torch.from_numpy(~there(data))[:, own]
    if mask_known:
        known = set(zip(data.query_index.tolist(), own.tolist(), strict=True))
        chose = [[(who, what) in known for what in own.tolist()] for who in data.query_index.tolist()]
        left_out |= torch.tensor(chose)
    left_out &= own[None, :] != own[:, None]
    logits = (queries @ candidates[own].T).masked_fill(left_out, -torch.inf)
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(len(data)))
    assert loss.item() == pytest.approx(expected.item())


def test_what_limits_nothing_changes_nothing() -> None:
    plain = log(3, limits=False)
    items = plain.candidates.set_column(1, "since", pa.nulls(SIZE, pa.float64()))
    free = from_tables(
        plain.interactions, query_id="who", candidate_id="what", time="at", candidates=items, available_from="since"
    )

    def trained(data: Dataset) -> list[Tensor]:
        model = tt.TwoTower(tt.Tower([tt.Category("who", 8)]), tt.Tower([tt.Category("what", 8)]))
        train, test = split_by_time(data, test=0.3)
        tt.Trainer(epochs=2, loss=tt.FullSoftmax()).fit(model, train, test)
        return list(model.state_dict().values())

    assert all(torch.equal(one, other) for one, other in zip(trained(plain), trained(free), strict=True))


def test_parts_and_validation_keep_the_limits() -> None:
    data = log(4)
    train, test = split_by_time(data, test=0.3)
    assert test.availability is not None
    model = tt.TwoTower(tt.Tower([tt.Category("who", 8)]), tt.Tower([tt.Category("what", 8)]))
    history = tt.Trainer(epochs=1).fit(model, train, test)
    found = tt.evaluate(model, test, exclude=train, baselines="none")
    assert history.epochs[-1].validation is not None
    assert history.epochs[-1].validation.all["mrr"] == pytest.approx(found.model.all["mrr"])
    assert data.identity() != log(4, limits=False).identity()


def refused(**changed: Any) -> Any:
    items = {"what": [1, 2], "since": ["2024-01-01", None], "until": ["2024-02-01", "2024-03-01"]} | changed.pop(
        "items", {}
    )
    arguments = {"time": "at", "available_from": "since", "available_until": "until"} | changed
    table = pa.table({"who": [1, 1], "what": [1, 2], "at": ["2024-01-05", "2024-01-06"]})
    return from_tables(table, query_id="who", candidate_id="what", candidates=pa.table(items), **arguments)


def test_limits_may_be_dates_in_text() -> None:
    limits = refused().availability
    assert limits.since.tolist() == [1704067200.0, -np.inf]
    assert limits.until.tolist() == [1706745600.0, 1709251200.0]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"available_from": "sinces"}, "candidates: column 'sinces' is missing, did you mean 'since'?"),
        ({"items": {"until": ["2023-01-01", None]}}, "candidates, column 'until', row 0: '2023-01-01', but 'since' is"),
        ({"items": {"since": [None, "soon"]}}, "candidates, column 'since', row 1: 'soon'"),
    ],
)
def test_wrong_limits_name_their_place(changed: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected.replace("?", r"\?")):
        refused(**changed)


def test_limits_need_times() -> None:
    with pytest.raises(ConfigError, match="available_from='since' without time"):
        refused(time=None)


def test_limits_may_lie_in_any_year_and_columns_stay_as_they_are() -> None:
    films = {"since": ["1937-12-21", "2024-01-02"], "until": ["9999-12-31", None]}
    data = refused(items=films)
    first, last = (datetime(*day, tzinfo=UTC).timestamp() for day in ((1937, 12, 21), (9999, 12, 31)))
    assert data.availability.since.tolist() == [first, 1704153600.0]
    assert data.availability.until.tolist() == [last, np.inf]
    assert {name: data.candidates[name].to_pylist() for name in films} == films


def test_limits_are_written_as_times_are(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who;what;at\n1;1;05.01.2024\n1;2;06.01.2024\n")
    (tmp_path / "items.csv").write_text("what;since\n1;\n2;01.01.2024\n")
    arguments: dict[str, Any] = {"query_id": "who", "candidate_id": "what", "time": "at", "time_format": "%d.%m.%Y"}
    arguments |= {"candidates": tmp_path / "items.csv", "available_from": "since"}
    limits = from_tables(tmp_path / "log.csv", **arguments).availability
    assert limits is not None
    assert limits.since.tolist() == [-np.inf, 1704067200.0]
    (tmp_path / "items.csv").write_text("what;since\n1;\n2;01/02/2024\n")
    with pytest.raises(DataError, match=r"candidates, column 'since', row 1 \(line 3 of .*items.csv\): .*01/02/2024"):
        from_tables(tmp_path / "log.csv", **arguments)


@pytest.mark.parametrize("kind", ["uniform", "retriever"])
def test_a_ranking_task_draws_negatives_that_were_available(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    data, drawn = log(6), []

    def seen(source: Any, *given: Any) -> Any:
        lists = source(*given)
        drawn.append(lists)
        return lists

    for name in ("with_uniform", "with_hard"):
        monkeypatch.setattr(ranking, name, partial(seen, getattr(ranking, name)))
    model = tt.TwoTower(tt.Tower([tt.Category("who", 8)]), tt.Tower([tt.Category("what", 8)]))
    task = tt.Ranking(negatives=6, negatives_from=kind, head=tt.DotHead())
    tt.Trainer(epochs=2, tasks=(tt.Retrieval(), task)).fit(model, data)
    missing = ~there(data)
    for lists in drawn:
        events, candidates = lists.events.numpy(), lists.candidates.numpy()
        assert not (missing[events, candidates] & lists.mask.numpy()).any()
    assert sum(int(lists.mask[:, 1:].sum()) for lists in drawn) > 0
    measured = ranking._among_negatives(data)
    assert not (missing[measured.members, measured.candidates] & measured.mask).any()


def test_a_choice_outside_its_candidates_time_is_warned_of() -> None:
    with pytest.warns(DataWarning, match="1 of 2 events chose a candidate when it was not available, such as 2"):
        data = refused(items={"since": [None, "2024-01-07"]})
    missing = data.unavailable(np.arange(2))
    assert missing.tolist() == [[False, True], [False, False]]


def test_configs_name_the_columns(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who,what,at\n1,1,5\n1,2,6\n")
    (tmp_path / "items.csv").write_text("what,since\n1,\n2,4\n")
    config = DataConfig(
        interactions=str(tmp_path / "log.csv"),
        candidates=str(tmp_path / "items.csv"),
        query_id="who",
        candidate_id="what",
        time="at",
        available_from="since",
    )
    limits = config.load().availability
    assert limits is not None
    assert limits.since.tolist() == [-np.inf, 4.0]
    pq.write_table(config.load().interactions, tmp_path / "log.parquet")
    on_disk = msgspec.structs.replace(config, stream=True, interactions=str(tmp_path / "log.parquet")).log()
    assert on_disk.availability is not None
    assert on_disk.availability.since.tolist() == [-np.inf, 4.0]


def streamed(data: Dataset, folder: Path, **arguments: Any) -> ParquetLog:
    """The same events in Parquet."""
    pq.write_table(data.interactions, folder / "log.parquet", row_group_size=16)
    named: dict[str, Any] = {"query_id": "who", "candidate_id": "what", "time": "at", "candidates": data.candidates}
    named |= {"queries": data.queries, "available_from": "since", "available_until": "until"}
    return stream_parquet(folder / "log.parquet", **named, **arguments)


def test_a_streamed_log_has_the_same_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = log(7)
    on_disk = streamed(data, tmp_path)
    rule = TimeSplit(0.3)
    cut, own_cut = split_log(on_disk, rule), split_log(data, rule)
    train, test, own_train, own_test = cut.train, cut.test, own_cut.train.in_memory, own_cut.test
    assert own_train is not None
    assert np.array_equal(np.sort(there(test).sum(axis=1)), np.sort(there(own_test).sum(axis=1)))
    assert (
        on_disk.identity()
        != stream_parquet(
            tmp_path / "log.parquet", query_id="who", candidate_id="what", time="at", candidates=data.candidates
        ).identity()
    )
    given = []
    found = Excluded._unavailable

    def kept(self: Excluded, available: Any, times: Any, own: Any, distinct: Any) -> Any:
        given.append((times, own))
        return found(self, available, times, own, distinct)

    monkeypatch.setattr(Excluded, "_unavailable", kept)
    for loss in (tt.FullSoftmax(), tt.InBatchSoftmax()):
        for tasks in ((), (tt.Retrieval(loss=loss),)):
            model = tt.TwoTower(tt.Tower([tt.Category("who", 8)]), tt.Tower([tt.Category("what", 8)]))
            given.clear()
            settings: dict[str, Any] = {"tasks": tasks} if tasks else {"loss": loss}
            (epoch,) = tt.Trainer(epochs=1, batch_size=16, **settings).fit(model, train, test).epochs
            seen = sorted((at, what) for times, own in given for at, what in zip(times, own, strict=True))
            assert seen == sorted(zip(own_train.times, own_train.candidate_index, strict=True))
            found_scores = tt.evaluate(model, test, exclude=train, baselines="none").model.all["mrr"]
            assert epoch.validation is not None
            assert epoch.validation.all["mrr"] == pytest.approx(found_scores)


@pytest.mark.filterwarnings("error")
def test_a_streamed_log_warns_once_of_choices_outside_their_time(tmp_path: Path) -> None:
    data = log(8)
    late = data.candidates.set_column(1, "since", pa.array([None, *[99] * (SIZE - 1)]))
    late = late.set_column(2, "until", pa.nulls(SIZE, pa.int64()))
    wrong = int(((data.candidate_index > 0) & (data.times < 99)).sum())
    with pytest.warns(DataWarning, match=f"{wrong} of {len(data)} events chose a candidate when it was not") as said:
        narrowed = split_log(streamed(replace(data, candidates=late), tmp_path), TimeSplit(0.3)).train
    assert len(said) == 1
    assert narrowed.availability is not None


def test_a_streamed_logs_limits_need_times_and_must_be_times(tmp_path: Path) -> None:
    data = log(9)
    pq.write_table(data.interactions, tmp_path / "log.parquet")
    with pytest.raises(ConfigError, match="available_from='since' without time"):
        stream_parquet(
            tmp_path / "log.parquet",
            query_id="who",
            candidate_id="what",
            candidates=data.candidates,
            available_from="since",
        )
    soon = data.candidates.set_column(1, "since", pa.array(["soon"] * SIZE))
    with pytest.raises(DataError, match="candidates, column 'since', row 0: 'soon'"):
        streamed(replace(data, candidates=soon), tmp_path)


def test_a_loss_refuses_a_batch_without_times() -> None:
    data = log(10)
    batch = Batch(torch.from_numpy(data.query_index), torch.from_numpy(data.candidate_index))
    with pytest.raises(TwoTowerError, match="expected a batch with times"):
        tt.FullSoftmax().bind(data)(torch.zeros(len(data), 4), batch, lambda rows: torch.zeros(len(rows), 4))


def test_reports_say_what_ranks_count() -> None:
    data = log(5)
    (said,) = [one for one in Config(split=SplitConfig(rule="time:0.3")).parts(data).remarks if "available" in one]
    assert said == "Each rank counts only candidates that were available at the event's time."
