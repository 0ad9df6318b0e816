"""Ranks among what was shown with an event."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from toy import groups_log
from twotower.data import Dataset, from_tables, split_by_time
from twotower.errors import ConfigError, TwoTowerError
from twotower.evaluation import Ease, Popularity, ScoreBlock, Scores, evaluate, measure
from twotower.evaluation.exposed import exposed_ranks
from twotower.evaluation.intervals import cluster_interval
from twotower.experiments.results import mean_scores


class Given:
    """A scorer of given scores, the same for every event."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = torch.tensor(scores)

    def score_block(self, events: Dataset) -> ScoreBlock:
        def block(numbers: npt.NDArray[np.int64]) -> torch.Tensor:
            return self.scores.repeat(len(numbers), 1)

        return block


def shown(lists: list[list[int]], weights: list[float] | None = None, catalogue: int = 6) -> Dataset:
    """Requests, one a query: the first candidate was chosen, the others were not."""
    rows = [(who, what, who, place == 0) for who, own in enumerate(lists) for place, what in enumerate(own)]
    columns = dict(zip(("who", "what", "at", "clicked"), map(list, zip(*rows, strict=True)), strict=True))
    if weights is not None:
        columns["weight"] = [weights[who] for who, *_ in rows]
    return from_tables(
        pa.table(columns),
        query_id="who",
        candidate_id="what",
        time="at",
        chosen="clicked",
        weight=None if weights is None else "weight",
        candidates=pa.table({"what": list(range(catalogue))}),
    )


def test_ranks_by_hand_with_ties_counted_half() -> None:
    scorer = Given([0.0, 1.0, 2.0, 2.0, 4.0, 5.0])
    log = shown([[5, 0, 1], [2, 3, 4, 0], [0, 1, 2, 3], [4]])
    assert exposed_ranks(scorer, log).tolist() == [1.0, 2.5, 4.0, 1.0]
    assert exposed_ranks(scorer, replace(log, exposures=None)).tolist() == [1.0] * 4


def test_only_events_with_exposures_count_weighted_and_with_intervals() -> None:
    scorer = Given([0.0, 1.0, 2.0, 2.0, 4.0, 5.0])
    log = shown([[5, 0, 1], [2, 3, 4, 0], [0, 1, 2, 3], [4]], weights=[1.0, 2.0, 1.0, 9.0])
    scores = measure(scorer, log, log, ks=(1, 2)).scores
    values, weights = np.array([1.0, 1 / 2.5, 1 / 4]), np.array([1.0, 2.0, 1.0])
    assert scores.exposed["mrr"] == pytest.approx((values @ weights) / 4)
    assert scores.exposed["top_1"] == pytest.approx(1 / 4)
    expected = cluster_interval(values, np.arange(3), weights)
    assert scores.half_widths["exposed.mrr"] == pytest.approx(expected.half_width)
    assert scores.exposed_events is not None
    assert scores.exposed_events.events == 3
    assert scores.exposed_events.shown == pytest.approx((2 + 2 * 3 + 3) / 4)
    assert scores.exposed_events.chance["top_1"] == pytest.approx((1 / 3 + 2 / 4 + 1 / 4) / 4)
    assert scores.exposed_events.chance["mrr"] == pytest.approx((11 / 18 + 3 * 25 / 48) / 4)
    assert scores.value("exposed.mrr") == scores.exposed["mrr"]


def test_a_random_order_has_the_metrics_of_chance() -> None:
    draw = np.random.default_rng(0)
    log = shown([draw.permutation(40)[:8].tolist() for _ in range(4000)], catalogue=40)
    scores = measure(Given(draw.normal(size=40).tolist()), log, log).scores
    assert scores.exposed_events is not None
    for metric in ("top_1", "mrr"):
        width = scores.half_widths[f"exposed.{metric}"]
        assert abs(scores.exposed[metric] - scores.exposed_events.chance[metric]) < 2 * width


def test_logs_without_exposures_have_no_such_metrics() -> None:
    train, test = split_by_time(groups_log(300))
    scores = measure(Popularity(train), test, train).scores
    assert (scores.exposed, scores.exposed_events) == ({}, None)
    assert "exposed" not in json.loads(msgspec.json.encode(scores))
    with pytest.raises(ConfigError, match=r"metric 'exposed\.mrr' was not measured"):
        scores.value("exposed.mrr")


def test_a_score_that_is_not_a_number_is_refused() -> None:
    log = shown([[0, 1], [2, 3]])
    with pytest.raises(TwoTowerError, match="not a number"):
        exposed_ranks(Given([0.0, float("nan"), 0.0, 0.0, 0.0, 0.0]), log)


def test_evaluate_shows_them_for_every_scorer() -> None:
    draw = np.random.default_rng(1)
    log = shown([draw.permutation(6)[:3].tolist() for _ in range(200)])
    train, test = split_by_time(log)
    found = evaluate(Given([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), test, train, baselines=["popularity", "ease"])
    text = str(found)
    assert "among what was shown (40 events, 2.0 others each)" in text
    assert "a random order" in text
    assert "a random order" in found._repr_html_()
    own = found.rows["ease"].exposed["mrr"]
    assert own == measure(Ease(train), test, train).scores.exposed["mrr"]
    rows = [row for row in found.to_table().to_pylist() if row["protocol"] == "exposed" and row["metric"] == "mrr"]
    assert [row["scorer"] for row in rows] == ["model", "popularity", "ease"]
    assert rows[2]["value"] == own
    assert rows[2]["half_width"] is not None


def test_means_over_seeds_have_intervals_over_seeds() -> None:
    log = shown([[5, 0, 1], [2, 3, 4, 0], [0, 1, 2, 3], [4]])
    one, other = (measure(Given(scores), log, log).scores for scores in ([0.0, 1, 2, 3, 4, 5], [5.0, 4, 3, 2, 1, 0]))
    both = mean_scores([one, other])
    assert both.exposed["mrr"] == pytest.approx((one.exposed["mrr"] + other.exposed["mrr"]) / 2)
    assert both.exposed_events == one.exposed_events
    assert "exposed.mrr" in both.half_widths
    assert mean_scores([one, Scores(other.all, other.unseen)]).exposed == {}
