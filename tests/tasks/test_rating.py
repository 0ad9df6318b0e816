"""`Rating`: what is learned, what counts, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import twotower as tt
from toy import groups_log, toy_model
from toy_ratings import NOISE, clicked, rated, with_column
from twotower.data import split_random, stream_parquet
from twotower.errors import ConfigError, DataError, SavedFolderError
from twotower.model import Tower, TwoTower
from twotower.tasks.targets import targets_of
from twotower.training import AdamW, EarlyStopping, Trainer
from twotower.training import checkpoint as checkpoint_module

FAST = AdamW(0.02)
STARS = tt.Rating(target="stars", head=tt.StackHead(layers=(16,)))


def ids_model() -> TwoTower:
    user, item = (tt.Category(column, 8, unknown_rate=0.0) for column in ("user", "item"))
    return TwoTower(Tower([user]), Tower([item]))


def trainer(task: tt.Task, epochs: int = 10) -> Trainer:
    return Trainer(epochs=epochs, batch_size=64, optimizer=FAST, tasks=(task,))


def same_weights(first: TwoTower, second: TwoTower) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_rating_is_learned_to_near_its_noise_and_beats_means() -> None:
    train, test = split_random(rated(3000), test=0.25, seed=1)
    model = ids_model()
    task = tt.Rating(target="stars", head=tt.DotHead())
    trainer(task, epochs=12).fit(model, train, progress=False)
    found = tt.evaluate(model, test, train, tasks=[task]).task("rating")
    assert NOISE <= found.model.metrics["rmse"] < 1.35 * NOISE
    assert found.rows["biases"].metrics["rmse"] > 0.6  # parity is no bias
    assert {one.rival for one in found.comparisons if one.verdict == "better"} >= {"global_mean", "means", "biases"}
    assert found.rows["global_mean"].metrics["rmse"] > found.rows["means"].metrics["rmse"]


def test_a_probability_is_learned_and_calibrated() -> None:
    train, test = split_random(clicked(6000), test=0.3, seed=1)
    model = ids_model()
    task = tt.Rating(target="click", loss="cross_entropy", head=tt.DotHead(), name="click")
    trainer(task, epochs=6).fit(model, train, progress=False)
    found = tt.evaluate(model, test, train, tasks=[task]).task("click")
    assert found.metric == "log_loss"
    assert found.model.metrics["log_loss"] < 0.56  # at best 0.50; of the mean 0.69
    assert found.model.metrics["auc"] > 0.76
    assert found.model.metrics["calibration_error"] < 0.1
    predictions = tt.predict(model, test, "click")
    assert ((predictions > 0) & (predictions < 1)).all()


def test_a_head_starts_at_the_mean_of_train() -> None:
    log = rated(500)
    model = ids_model()
    Trainer(epochs=1, optimizer=AdamW(1e-9), tasks=(STARS,)).fit(model, log, progress=False)
    stars = targets_of(log, "stars")
    assert model.heads["rating"].get_buffer("offset").item() == pytest.approx(stars.mean(), abs=1e-5)
    assert tt.predict(model, log, "rating").mean() == pytest.approx(stars.mean(), abs=0.2)


def test_events_without_a_target_are_as_if_they_were_not_there() -> None:
    log = rated(800, missing=0.4)
    known = ~np.isnan(targets_of(log, "stars"))
    whole, part = ids_model(), ids_model()
    # one batch an epoch, so that both see the same events together
    of_all, of_known = (
        Trainer(epochs=3, batch_size=1000, optimizer=FAST, tasks=(STARS,)).fit(model, events, progress=False)
        for model, events in ((whole.learn(log), log), (part.learn(log), log.take(known)))
    )
    assert of_all.epochs[-1].loss == pytest.approx(of_known.epochs[-1].loss, rel=1e-4)
    assert np.allclose(tt.predict(whole, log, "rating"), tt.predict(part, log, "rating"), atol=1e-3)
    found = tt.evaluate(whole, log, log, tasks=[STARS]).task("rating")
    assert found.count == known.sum()
    assert "test events have no stars and are not measured" in found.notes[-1]


def test_a_batch_without_targets_changes_nothing() -> None:
    log = rated(300)
    stars = targets_of(log, "stars")
    stars[1:] = np.nan
    log = with_column(log, "one", pa.array(stars, from_pandas=True))
    task = tt.Rating(target="one", head=tt.DotHead())
    history = Trainer(epochs=2, batch_size=10, tasks=(task,)).fit(ids_model(), log, progress=False)
    assert all(np.isfinite(epoch.loss) for epoch in history.epochs)


def test_an_event_of_weight_two_counts_as_two() -> None:
    log = rated(300)
    twice = log.take(np.concatenate([np.arange(300), np.arange(100)]))
    weights = np.where(np.arange(300) < 100, 2.0, 1.0)
    weighted = dataclasses.replace(with_column(log, "weight", weights), weight="weight")
    first, second = ids_model().learn(log), ids_model().learn(log)
    losses = [
        Trainer(epochs=2, batch_size=1000, optimizer=FAST, tasks=(STARS,)).fit(model, events, progress=False).epochs
        for model, events in ((first, twice), (second, weighted))
    ]
    assert losses[0][-1].loss == pytest.approx(losses[1][-1].loss, rel=1e-4)
    scores = [tt.evaluate(first, events, events, tasks=[STARS]).task("rating") for events in (twice, weighted)]
    assert scores[0].model.metrics["rmse"] == pytest.approx(scores[1].model.metrics["rmse"])


def test_a_resumed_training_has_the_bits_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    log = rated(600)
    tasks = (tt.Retrieval(), STARS)
    settings = Trainer(epochs=4, batch_size=64, optimizer=FAST, tasks=tasks)
    whole, resumed = toy_model(dropout=0.1), toy_model(dropout=0.1)
    expected = settings.fit(whole, log, log, progress=False)
    settings.fit(toy_model(dropout=0.1), log, log, checkpoint=tmp_path / "c", stop_after=2, progress=False)
    found = settings.fit(resumed, log, log, checkpoint=tmp_path / "c", progress=False)
    assert same_weights(whole, resumed)
    assert [one.losses for one in found.epochs] == [one.losses for one in expected.epochs]
    assert [one.validation for one in found.epochs] == [one.validation for one in expected.epochs]


def test_a_checkpoint_of_another_task_or_of_other_targets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    log = rated(300)
    trainer(STARS, 2).fit(ids_model(), log, checkpoint=tmp_path / "c", progress=False)
    with pytest.raises(SavedFolderError, match="another training"):
        trainer(tt.Rating(target="stars", loss="huber", head=STARS.head), 2).fit(
            ids_model(), log, checkpoint=tmp_path / "c", progress=False
        )
    other = dataclasses.replace(
        log,
        interactions=log.interactions.set_column(
            log.interactions.column_names.index("stars"), "stars", pa.array(targets_of(log, "stars") + 1)
        ),
    )
    with pytest.raises(SavedFolderError, match="data"):
        trainer(STARS, 2).fit(ids_model(), other, checkpoint=tmp_path / "c", progress=False)


def test_a_streamed_log_is_trained_on(tmp_path: Path) -> None:
    log = rated(1500, missing=0.2)
    table = pa.table(
        {
            "user": log.query_index,
            "item": log.candidate_index,
            "at": log.times.astype(np.int64),
            "stars": log.interactions["stars"],
        }
    )
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=200)
    streamed = stream_parquet(
        tmp_path / "log.parquet",
        query_id="user",
        candidate_id="item",
        time="at",
        queries=log.queries,
        candidates=log.candidates,
        buffer=500,
    )
    test = streamed.part(table.slice(0, 400))
    model = ids_model()
    history = trainer(STARS, 6).fit(model, streamed, test, progress=False)
    assert history.epochs[-1].losses["rating"] < 0.5 * history.epochs[0].losses["rating"]
    assert history.monitor == "rating.rmse"
    found = tt.evaluate(model, test, streamed, tasks=[STARS]).task("rating")
    assert found.model.metrics["rmse"] < found.rows["biases"].metrics["rmse"]


def test_the_monitor_of_an_error_is_lower_where_better() -> None:
    train, validation = split_random(rated(1000), test=0.3, seed=0)
    settings = Trainer(
        epochs=30, batch_size=64, optimizer=AdamW(0.1), tasks=(STARS,), early_stopping=EarlyStopping(patience=2)
    )
    history = settings.fit(ids_model(), train, validation, progress=False)
    errors = [scores.value("rating.rmse") for _, scores in history.validated]
    assert history.best_value == min(errors)
    assert history.restored == history.best.epoch
    assert "rating.rmse" in history.to_table().column_names
    assert "rating.loss" in history.to_table().column_names


def test_answers_stay_within_the_range_of_train() -> None:
    log = rated(400)
    model = ids_model()
    trainer(STARS, 2).fit(model, log, progress=False)
    with torch.no_grad():
        model.heads["rating"].get_buffer("offset").fill_(1000.0)
    assert tt.predict(model, log, "rating").max() == pytest.approx(np.float32(targets_of(log, "stars").max()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 0.0}, "weight=0.0; expected a number above 0"),
        ({"name": "all"}, "name='all'"),
        ({"name": "a.b"}, "name='a.b'"),
        ({"delta": 0.0}, "delta=0.0"),
        ({"loss": "cubic"}, "loss='cubic'"),
        ({"head": "dot"}, "head='dot'"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tt.Rating(target="stars", **change)  # type: ignore[arg-type]


def test_columns_that_cannot_be_learned_from_are_refused_before_training() -> None:
    log = rated(100)
    for task, message in (
        (tt.Rating(target="star"), "column 'star' is not in the interactions, which have"),
        (tt.Rating(target="stars", loss="cross_entropy"), "expected numbers from 0 to 1 for cross_entropy"),
    ):
        with pytest.raises(DataError, match=message):
            trainer(task).fit(ids_model(), log, progress=False)
    words = with_column(log, "words", ["good"] * 100)
    with pytest.raises(DataError, match="column 'words' is string; expected numbers"):
        trainer(tt.Rating(target="words")).fit(ids_model(), words, progress=False)
    infinite = with_column(log, "high", [1.0] * 99 + [np.inf])
    with pytest.raises(DataError, match="column 'high', row 99: inf; expected a finite number"):
        trainer(tt.Rating(target="high")).fit(ids_model(), infinite, progress=False)
    nothing = with_column(log, "nothing", pa.nulls(100, pa.float64()))
    with pytest.raises(DataError, match="column 'nothing' has no value in train"):
        trainer(tt.Rating(target="nothing")).fit(ids_model(), nothing, progress=False)


def test_two_tasks_of_one_name_and_monitors_of_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="two tasks are called 'rating'"):
        Trainer(tasks=(STARS, tt.Rating(target="other")))
    with pytest.raises(ConfigError, match=r"monitor='unseen\.mrr'"):
        Trainer(tasks=(STARS,), monitor="unseen.mrr")
    with pytest.raises(ConfigError, match="tasks and rerank can only be measured on a TwoTower"):
        tt.evaluate(tt.evaluation.Popularity(groups_log(100)), groups_log(100), groups_log(100), tasks=[STARS])


def test_several_tasks_share_the_towers_and_are_each_in_history_and_tables() -> None:
    train, test = split_random(rated(3000), test=0.25, seed=1)
    model = ids_model()
    tasks = (tt.Retrieval(loss=tt.FullSoftmax()), tt.Rating(target="stars", weight=2.0))
    history = Trainer(epochs=12, batch_size=64, optimizer=FAST, tasks=tasks, ks=(5,), monitor="unseen.mrr").fit(
        model, train, test, progress=False
    )
    last = history.epochs[-1]
    assert last.loss == pytest.approx(last.losses["retrieval"] + 2 * last.losses["rating"])
    found = tt.evaluate(model, test, train, ks=(5,), baselines=["popularity"], tasks=tasks)
    assert found.model.all["top_5"] > found.rows["popularity"].all["top_5"]
    assert found.task("rating").model.metrics["rmse"] < 0.5
    assert "RMSE" in str(found)
    assert "Rating: the model beats" in str(found)
    assert set(found.to_table()["protocol"].to_pylist()) == {"all", "unseen", "rating"}
    assert found._repr_html_().count("<table") > 3
