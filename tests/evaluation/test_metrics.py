from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.errors import ConfigError
from twotower.evaluation.metrics import (
    ListStatistics,
    Scores,
    check_ks,
    query_metrics,
    rank_half_widths,
    rank_metrics,
    verdict_metric,
)


def test_rank_metrics_by_hand() -> None:
    metrics = rank_metrics(np.array([1.0, 2.0, 4.0, 10.0]), ks=(1, 2, 5))
    assert metrics["top_1"] == 0.25
    assert metrics["top_2"] == 0.5
    assert metrics["top_5"] == 0.75
    assert metrics["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 10) / 4)
    assert metrics["ndcg_5"] == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(5)) / 4)


def test_query_metrics_by_hand() -> None:
    # Query 0 truly chose candidates 0, 1, 2 at ranks 1, 3, 9; query 1 chose candidate 0 at rank 2.
    ranks = np.array([9.0, 1.0, 3.0, 2.0])
    metrics = query_metrics(ranks, np.array([0, 0, 0, 1]), np.array([2, 0, 1, 0]), ks=(2, 5))
    assert metrics["recall_2"] == pytest.approx((1 / 3 + 1) / 2)
    assert metrics["recall_5"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["precision_2"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert metrics["precision_5"] == pytest.approx((2 / 5 + 1 / 5) / 2)
    assert metrics["map_2"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert metrics["map_5"] == pytest.approx(((1 + 2 / 3) / 3 + 1 / 2) / 2)


def test_a_repeated_pair_counts_once_in_query_metrics() -> None:
    once = query_metrics(np.array([2.0]), np.array([0]), np.array([5]))
    twice = query_metrics(np.array([2.0, 7.0]), np.array([0, 0]), np.array([5, 5]))
    assert once == twice


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 119)), min_size=1, max_size=40))
def test_every_metric_is_a_share_and_grows_with_k(events: list[tuple[int, int]]) -> None:
    queries, candidates = (np.array(part) for part in zip(*events, strict=True))
    ranks = candidates + 1.0  # every query has the same list
    metrics = rank_metrics(ranks) | query_metrics(ranks, queries, candidates)
    assert all(0 <= value <= 1 for value in metrics.values())
    for name in ("top", "ndcg", "recall"):
        values = [metrics[f"{name}_{k}"] for k in (1, 5, 10, 50, 100)]
        assert values == sorted(values)


def test_coverage_and_popularity_bias_by_hand() -> None:
    statistics = ListStatistics(np.array([10.0, 0.0, 2.0, 4.0]), ks=(1, 2))
    statistics.add(np.array([[0, 3]]), chosen=np.array([2]))
    statistics.add(np.array([[0, -1]]), chosen=np.array([3]))
    assert statistics.metrics() == {
        "coverage_1": 0.25,
        "coverage_2": 0.5,
        "popularity_bias_1": 10 / 3,
        "popularity_bias_2": (10 + 4 + 10) / 3 / 3,
    }


def test_scores_are_found_by_name_and_an_unknown_name_is_refused() -> None:
    scores = Scores({"mrr": 0.1}, {"mrr": 0.2})
    assert (scores.value("mrr"), scores.value("all.mrr"), scores.value("unseen.mrr")) == (0.1, 0.1, 0.2)
    for name in ("top_3", "test.mrr"):
        with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
            scores.value(name)


def test_scores_give_their_intervals_where_there_are_some() -> None:
    scores = Scores({"mrr": 0.1}, {"mrr": 0.2}, {"unseen.mrr": 0.05})
    assert str(scores.interval("all", "mrr")) == "0.1000"
    assert str(scores.interval("unseen", "mrr")) == "0.2000 ± 0.0500"


def test_half_widths_are_of_every_rank_metric_and_over_queries() -> None:
    ranks, queries = np.array([1.0, 1.0, 9.0, 9.0]), np.array([0, 0, 3, 3])
    widths = rank_half_widths(ranks, queries, ks=(5,))
    assert set(widths) == set(rank_metrics(ranks, ks=(5,)))
    assert widths["top_5"] == pytest.approx(12.7062 * math.sqrt(2 * (1 + 1)) / 4)
    assert rank_half_widths(ranks, np.zeros(4, dtype=np.int64)) == {}


@pytest.mark.parametrize("ks", [(), (0,), (5, 5)])
def test_senseless_lengths_of_lists_are_refused(ks: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="expected distinct whole numbers"):
        check_ks(ks)


RANKS, QUERIES = np.array([1.0, 2.5, 4.0, 10.0, 1.0]), np.array([0, 0, 1, 2, 2])


def test_whole_weights_are_repetitions() -> None:
    weights = np.array([1, 3, 2, 1, 2])
    repeated = rank_metrics(np.repeat(RANKS, weights), ks=(1, 3))
    assert rank_metrics(RANKS, (1, 3), weights.astype(np.float64)) == pytest.approx(repeated)
    widths = rank_half_widths(np.repeat(RANKS, weights), np.repeat(QUERIES, weights), ks=(3,))
    assert rank_half_widths(RANKS, QUERIES, (3,), weights.astype(np.float64)) == pytest.approx(widths)
    popularity = np.array([10.0, 0.0, 2.0, 4.0])
    lists, chosen = np.array([[0, 3], [2, -1], [1, 0], [3, 2], [0, 1]]), np.array([2, 3, 0, 0, 1])
    one, other = ListStatistics(popularity, ks=(1, 2)), ListStatistics(popularity, ks=(1, 2))
    one.add(lists, chosen, weights.astype(np.float64))
    other.add(np.repeat(lists, weights, axis=0), np.repeat(chosen, weights))
    assert one.metrics() == pytest.approx(other.metrics())


@given(st.floats(0.001, 1000.0))
def test_only_the_ratios_of_weights_matter(factor: float) -> None:
    weights, candidates = np.array([1.0, 3.0, 2.0, 0.5, 2.0]), np.arange(5)
    one, other = (
        rank_metrics(RANKS, weights=counts)
        | query_metrics(RANKS, QUERIES, candidates, weights=counts)
        | {f"± {name}": width for name, width in rank_half_widths(RANKS, QUERIES, weights=counts).items()}
        for counts in (weights * factor, weights)
    )
    assert one == pytest.approx(other)
    equal = query_metrics(RANKS, QUERIES, candidates, weights=np.full(5, factor))
    assert equal == pytest.approx(query_metrics(RANKS, QUERIES, candidates))


def test_a_query_counts_as_much_as_its_mean_event() -> None:
    # Query 0 recalls 1 of 2 candidates and counts (1 + 3) / 2; query 1 recalls its one and counts 6.
    ranks, queries = np.array([1.0, 9.0, 1.0]), np.array([0, 0, 1])
    metrics = query_metrics(ranks, queries, np.array([0, 1, 0]), ks=(5,), weights=np.array([1.0, 3.0, 6.0]))
    assert metrics["recall_5"] == pytest.approx((2 * 0.5 + 6 * 1.0) / 8)


@pytest.mark.parametrize(
    ("ks", "candidates", "metric"),
    [((1, 5, 10, 50, 100), 1682, "top_100"), ((3, 20), 21, "top_20"), ((3, 20), 20, "top_3"), ((3, 20), 3, "mrr")],
)
def test_models_are_compared_by_the_longest_list_that_can_differ(
    ks: tuple[int, ...], candidates: int, metric: str
) -> None:
    assert verdict_metric(ks, candidates) == metric
