"""`Ranking`: which lists are made, what is learned from them, what is refused."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import twotower as tt
from toy import groups_log
from toy_ratings import rated, with_column
from twotower.data import Dataset, split_random
from twotower.errors import ConfigError, DataError, SavedFolderError
from twotower.model import Tower, TwoTower
from twotower.tasks import Step
from twotower.tasks.lists import DrawnFromGroup, Groups, Lists, SingleChoices, WholeGroups, with_hard, with_uniform
from twotower.training import AdamW, Trainer
from twotower.training import checkpoint as checkpoint_module
from twotower.training.batches import Part


def ids_model() -> TwoTower:
    user, item = (tt.Category(column, 8, unknown_rate=0.0) for column in ("user", "item"))
    return TwoTower(Tower([user]), Tower([item]))


def step_of(log: Dataset, rows: list[int], vectors: bool = True) -> Step:
    model = ids_model().learn(log)
    part = Part.of(log, model.encode_queries(log))
    candidates = model.encode_candidates(log.candidates)
    return Step(model, part, torch.tensor(rows), candidates, vectors, nullcontext)


def requests(events: int = 3000, seed: int = 0) -> Dataset:
    """Requests of six events, in one of which at most a query met a candidate of its group, and chose it."""
    log, draw = groups_log(events, seed=seed), np.random.default_rng(seed)
    request = np.arange(events) // 6
    query = (request * 7) % 40
    candidate = draw.integers(30, size=events)
    chosen = (candidate % 5 == query % 5).astype(np.int64)
    table = pa.table({"user": query, "item": candidate, "at": log.times, "request": request, "click": chosen})
    made = tt.data.from_tables(
        table, query_id="user", candidate_id="item", time="at", queries=log.queries, candidates=log.candidates
    )
    assert len(made) == events
    return made


def test_whole_groups_come_once_an_epoch_with_all_their_members() -> None:
    log = groups_log(100)
    groups = np.arange(100) // 7
    groups[:7] = -1
    source = WholeGroups(Groups(groups), torch.arange(100.0), longest=10)
    order = torch.randperm(100)
    found = [source(step_of(log, rows.tolist())) for rows in torch.split(order, 9)]
    members = [lists.events[lists.mask] for lists in found if lists is not None]
    assert torch.equal(torch.cat(members).sort().values, torch.arange(7, 100))
    for lists in found:
        for row in range(0 if lists is None else len(lists)):
            assert lists is not None
            own = lists.events[row][lists.mask[row]]
            assert len(set(groups[own.numpy()])) == 1
            assert torch.equal(lists.candidates[row][lists.mask[row]], torch.from_numpy(log.candidate_index)[own])
            assert torch.equal(lists.relevance[row][lists.mask[row]], own.float())


def test_of_long_groups_some_members_are_drawn() -> None:
    log = groups_log(60)
    source = WholeGroups(Groups(np.zeros(60, dtype=np.int64)), torch.ones(60), longest=20)
    step, drawn = step_of(log, list(range(60))), set()
    for _ in range(30):
        lists = source(step)
        assert lists is not None
        assert lists.mask.shape == (1, 20)
        assert len(set(lists.events[0].tolist())) == 20
        drawn |= set(lists.events[0].tolist())
    assert drawn == set(range(60))


def test_lists_drawn_from_a_group_are_of_it_and_hold_an_event_once() -> None:
    log = groups_log(200)
    groups = log.query_index.copy()
    groups[50:60] = -1
    source = DrawnFromGroup(Groups(groups), torch.arange(200.0), size=4)
    lists = source(step_of(log, list(range(40, 80))))
    assert lists is not None
    assert lists.events[:, 0].tolist() == [*range(40, 50), *range(60, 80)]
    for events, mask in zip(lists.events, lists.mask, strict=True):
        own = events[mask].tolist()
        assert len(set(own)) == len(own)
        assert set(groups[own]) == {groups[own[0]]}


def test_negatives_are_not_the_lists_own_and_have_no_relevance() -> None:
    log = groups_log(300)
    step = step_of(log, list(range(100)))
    lists = SingleChoices(None)(step)
    assert lists is not None
    for drawn in (with_uniform(lists, 20, 30), with_hard(lists, 20, 30, step)):
        assert drawn.mask.shape[1] == 21
        for row in range(len(drawn)):
            negatives = drawn.candidates[row, 1:][drawn.mask[row, 1:]].tolist()
            assert log.candidate_index[row] not in negatives
            assert len(set(negatives)) == len(negatives)
        assert not drawn.relevance[:, 1:].any()
        assert (drawn.events == drawn.events[:, :1]).all()


def test_hard_negatives_score_higher_with_the_towers_than_uniform_ones() -> None:
    log = groups_log(300)
    step = step_of(log, list(range(100)))
    lists = SingleChoices(None)(step)
    assert lists is not None

    @torch.no_grad()
    def mean_score(drawn: Lists) -> float:
        query = step.queries_of(drawn.events[:, 0]).vectors
        scores = (query[:, None] * step.candidates_of(torch.arange(30)).vectors[drawn.candidates]).sum(dim=2)
        return float(scores[:, 1:][drawn.mask[:, 1:]].mean())

    assert mean_score(with_hard(lists, 5, 30, step)) > mean_score(with_uniform(lists, 5, 30)) + 1e-4


@pytest.mark.parametrize("loss", ["softmax", "list_mle", "pairwise_logistic"])
def test_requests_are_put_in_order(loss: str) -> None:
    train, test = requests(), requests(1200, seed=1)
    task = tt.Ranking(target="click", by="request", loss=loss, ks=(3,))  # type: ignore[arg-type]
    model = ids_model()
    history = Trainer(epochs=8, batch_size=128, optimizer=AdamW(0.05), tasks=(task,)).fit(
        model, train, test, progress=False
    )
    assert history.monitor == "ranking.ndcg_3"
    found = tt.evaluate(model, test, train, tasks=[task]).task("ranking")
    assert found.units == "lists"
    assert found.model.metrics["ndcg_3"] > 0.9 > found.rows["popularity"].metrics["ndcg_3"]
    assert {one.rival for one in found.comparisons if one.verdict == "better"} >= {"popularity", "means"}
    assert "test lists are left out" in found.notes[-1]


def test_sampled_lists_of_stars_are_put_in_order() -> None:
    train, test = split_random(rated(3000), test=0.3, seed=0)
    stars = tt.Ranking(target="stars", sampled=6, loss="list_mle", relevant=3.5)
    train, test = (with_column_clipped(part) for part in (train, test))
    model = ids_model()
    Trainer(epochs=6, batch_size=128, optimizer=AdamW(0.03), tasks=(stars,)).fit(model, train, progress=False)
    found = tt.evaluate(model, test, train, tasks=[stars]).task("ranking")
    assert found.model.metrics["ndcg_10"] > found.rows["means"].metrics["ndcg_10"]
    assert 0 < found.model.metrics["map"] < 1


def test_validation_counts_as_relevant_what_evaluation_does() -> None:
    """Above the lowest in train, also where validation has nothing as low."""
    log = groups_log(900)
    stars = 1 + np.random.default_rng(9).integers(5, size=900)
    log = with_column(log, "stars", stars.astype(np.float64))
    low = stars < 3
    train, high = log.take(low), log.take(~low)
    task = tt.Ranking(target="stars")
    model = ids_model()
    history = Trainer(epochs=1, tasks=(task,)).fit(model, train, high, progress=False)
    validation = history.epochs[-1].validation
    assert validation is not None
    found = tt.evaluate(model, high, train, baselines="none", tasks=[task]).task("ranking")
    assert validation.tasks["ranking"] == pytest.approx(found.model.metrics)


def with_column_clipped(log: Dataset) -> Dataset:
    stars = np.clip(log.interactions["stars"].to_numpy(), 0, None)
    place = log.interactions.column_names.index("stars")
    return dataclasses.replace(log, interactions=log.interactions.set_column(place, "stars", pa.array(stars)))


@pytest.mark.parametrize("negatives_from", ["uniform", "retriever"])
def test_choices_are_ranked_among_negatives_beside_retrieval(negatives_from: str) -> None:
    train, test = split_random(groups_log(2000), test=0.2, seed=0)
    task = tt.Ranking(negatives=5, negatives_from=negatives_from, head=tt.StackHead(layers=(16,)))  # type: ignore[arg-type]
    tasks = (tt.Retrieval(loss=tt.FullSoftmax()), task)
    model = ids_model()
    history = Trainer(epochs=8, batch_size=64, optimizer=AdamW(0.02), tasks=tasks).fit(model, train, progress=False)
    if negatives_from == "uniform":  # hard ones grow harder
        assert history.epochs[-1].losses["ranking"] < history.epochs[0].losses["ranking"]
    found = tt.evaluate(model, test, train, baselines=["popularity"], tasks=tasks).task("ranking")
    if negatives_from == "uniform":  # which is what it is measured among
        assert found.comparisons[0].verdict == "better"
    assert "among 30 candidates drawn for each event" in found.notes[-1]


LISTS = (tt.Ranking(target="click", by="request"), tt.Ranking(target="click", sampled=4))


def on_disk(log: Dataset, folder: Path, buffer: int = 1000) -> tt.data.ParquetLog:
    """The same events, shuffled, with all their columns."""
    order = np.random.default_rng(7).permutation(len(log))
    pq.write_table(log.interactions.take(pa.array(order)), folder / "log.parquet", row_group_size=200)
    return tt.data.stream_parquet(
        folder / "log.parquet",
        query_id="user",
        candidate_id="item",
        time="at",
        queries=log.queries,
        candidates=log.candidates,
        buffer=buffer,
    )


@pytest.mark.parametrize("negatives_from", ["uniform", "retriever"])
def test_choices_of_a_streamed_log_are_ranked_among_negatives(tmp_path: Path, negatives_from: str) -> None:
    cut = tt.data.split_log(on_disk(groups_log(2000), tmp_path), tt.data.RandomSplit(0.2))
    train, test = cut.train, cut.test
    task = tt.Ranking(negatives=5, negatives_from=negatives_from, head=tt.StackHead(layers=(16,)))  # type: ignore[arg-type]
    tasks = (tt.Retrieval(loss=tt.FullSoftmax()), task)
    model = ids_model()
    history = Trainer(epochs=8, batch_size=64, optimizer=AdamW(0.02), tasks=tasks).fit(model, train, progress=False)
    found = tt.evaluate(model, test, train, baselines=["popularity"], tasks=tasks).task("ranking")
    if negatives_from == "uniform":
        assert history.epochs[-1].losses["ranking"] < history.epochs[0].losses["ranking"]
        assert found.comparisons[0].verdict == "better"
    assert "among 30 candidates drawn for each event" in found.notes[-1]


@pytest.mark.parametrize("task", LISTS, ids=["by request", "of a query"])
def test_lists_of_several_events_are_learned_from_a_streamed_log(tmp_path: Path, task: tt.Ranking) -> None:
    train = on_disk(requests(), tmp_path)
    test, fitted, losses = train.part(requests(600, seed=1).interactions), [], []
    for _ in range(2):
        model = ids_model()
        history = Trainer(epochs=8, batch_size=64, optimizer=AdamW(0.05), tasks=(task,)).fit(
            model, train, test, progress=False
        )
        assert history.epochs[-1].validation is not None
        assert history.epochs[-1].validation.tasks["ranking"]["ndcg_10"] > 0.7
        losses.append([epoch.losses["ranking"] for epoch in history.epochs])
        fitted.append(model)
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == losses[0]
    found = task.evaluate(fitted[0], test, train)
    assert found.comparisons[0].verdict == "better"


def test_of_a_streamed_log_a_list_has_the_same_members_as_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, found = requests(900), list[list[tuple[int, float]]]()
    plain = WholeGroups.__call__

    def noted(self: WholeGroups, step: Step) -> Lists | None:
        lists = plain(self, step)
        for row in range(0 if lists is None else len(lists)):
            assert lists is not None
            there = lists.mask[row]
            queries = step.events.query_rows[lists.events[row][there]]
            members = zip(lists.candidates[row][there].tolist(), lists.relevance[row][there].tolist(), strict=True)
            found.append(sorted((int(queries[0]) * 1000 + candidate, clicked) for candidate, clicked in members))
        return lists

    monkeypatch.setattr(WholeGroups, "__call__", noted)
    lists = []
    for train in (log, on_disk(log, tmp_path, buffer=300)):
        found.clear()
        Trainer(epochs=1, batch_size=32, tasks=(LISTS[0],)).fit(ids_model(), train, progress=False)
        lists.append(sorted(found))
    assert lists[1] == lists[0]
    assert len(lists[0]) == 150


def test_a_streamed_log_is_grouped_in_one_way_only(tmp_path: Path) -> None:
    tasks = LISTS[0], tt.Ranking(target="click", sampled=4, name="other")
    train = on_disk(requests(600), tmp_path)
    with pytest.raises(ConfigError, match="streamed log by 'request' and by query; expected one way"):
        Trainer(epochs=1, tasks=tasks).fit(ids_model(), train, progress=False)


def test_a_negative_relevance_in_a_streamed_log_is_refused(tmp_path: Path) -> None:
    log = requests(600)
    clicks = np.where(np.arange(600) == 77, -1, log.interactions["click"].to_numpy())
    log = dataclasses.replace(log, interactions=log.interactions.drop_columns(["click"]))
    log = with_column(log, "click", clicks)
    with pytest.raises(DataError, match="column 'click': -1; expected a relevance of at least 0"):
        Trainer(epochs=1, batch_size=64, tasks=LISTS[:1]).fit(ids_model(), on_disk(log, tmp_path), progress=False)


def test_a_checkpoint_is_not_resumed_with_other_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    log = requests(600)
    trainer = Trainer(epochs=1, tasks=LISTS[:1])
    trainer.fit(ids_model(), log, progress=False, checkpoint=tmp_path / "run")
    column = pa.array(np.arange(600) // 3)
    other = log.interactions.set_column(log.columns.index("request"), "request", column)
    with pytest.raises(SavedFolderError, match="differs in data"):
        trainer.fit(ids_model(), dataclasses.replace(log, interactions=other), checkpoint=tmp_path / "run")


def test_hard_negatives_without_retrieval_are_refused() -> None:
    task = tt.Ranking(negatives=5, negatives_from="retriever", head=tt.StackHead(reads="features"))
    with pytest.raises(ConfigError, match="negatives from the retriever need embeddings"):
        Trainer(epochs=1, tasks=(task,)).fit(ids_model(), groups_log(50), progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither target nor negatives"),
        ({"by": "request", "negatives": 3}, "by='request' without target"),
        ({"target": "click", "sampled": 1}, "expected lists of at least 2"),
        ({"target": "click", "longest": 1}, "longest=1"),
        ({"target": "click", "ks": ()}, "ks="),
    ],
)
def test_settings_that_make_no_lists_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tt.Ranking(**settings)  # type: ignore[arg-type]


def test_columns_that_make_no_lists_are_refused() -> None:
    log = requests(60)
    for task, message in (
        (tt.Ranking(target="clicks"), "column 'clicks' is not in the interactions"),
        (tt.Ranking(target="click", by="requests"), "column 'requests' is not in the interactions"),
        (tt.Ranking(target="low"), "column 'low', row 0: -1; expected a relevance of at least 0"),
    ):
        low = with_column(log, "low", [-1.0] * 60)
        with pytest.raises(DataError, match=message):
            Trainer(epochs=1, tasks=(task,)).fit(ids_model(), low, progress=False)
    same = with_column(log, "same", [1.0] * 60)
    with pytest.raises(DataError, match="no list to measure has members of different relevance"):
        tt.Ranking(target="same").measured(same, same)
