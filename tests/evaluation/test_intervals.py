from __future__ import annotations

import math

import numpy as np
import pytest

from twotower.evaluation.intervals import Interval, cluster_interval, mean_interval, paired_interval, student_t


def below(quantile: float, degrees: int) -> float:
    """Student's distribution function, by integrating its density."""
    x = np.linspace(0, quantile, 20_001)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    return 0.5 + float(np.trapezoid(scale * (1 + x**2 / degrees) ** (-(degrees + 1) / 2), x))


@pytest.mark.parametrize("degrees", [*range(1, 31), 31, 40, 100, 200, 201, 1000])
@pytest.mark.parametrize("probability", [0.9, 0.975, 0.999])
def test_t_is_the_quantile(degrees: int, probability: float) -> None:
    assert below(student_t(probability, degrees), degrees) == pytest.approx(probability, abs=2e-6)


def test_an_interval_by_hand() -> None:
    # mean 3, deviation √2.5 over √5, t with 4 degrees 2.77645
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval.mean == 3.0
    assert interval.half_width == pytest.approx(2.776445 * math.sqrt(2.5 / 5))
    assert (interval.low, interval.high) == (3 - interval.half_width, 3 + interval.half_width)  # type: ignore[operator]


def test_one_value_tells_no_spread() -> None:
    assert mean_interval([0.25]) == Interval(0.25)
    assert str(mean_interval([0.25])) == "0.2500"


def test_a_cluster_interval_by_hand() -> None:
    # Mean 2/5; residuals of the clusters 1 − 2·0.4, 1 − 2·0.4 and 0 − 1·0.4.
    interval = cluster_interval(np.array([1.0, 0.0, 0.0, 1.0, 0.0]), np.array([7, 7, 2, 2, 0]))
    assert interval.mean == pytest.approx(0.4)
    assert interval.half_width == pytest.approx(4.302653 * math.sqrt(3 / 2 * (0.04 + 0.04 + 0.16)) / 5)


def test_clusters_of_one_value_are_independent_values() -> None:
    values = np.random.default_rng(0).random(30)
    alone = cluster_interval(values, np.arange(30))
    assert (alone.mean, alone.half_width) == pytest.approx(
        (mean_interval(values.tolist()).mean, mean_interval(values.tolist()).half_width)
    )


def test_one_cluster_tells_no_spread() -> None:
    assert cluster_interval(np.array([0.0, 1.0]), np.array([4, 4])) == Interval(0.5)


def test_the_interval_covers_the_truth_where_one_that_forgets_the_clusters_does_not() -> None:
    draw = np.random.default_rng(5)
    covered, naive = 0, 0
    for _ in range(1000):
        sizes = draw.integers(1, 20, size=60)
        clusters = np.repeat(np.arange(60), sizes)
        values = (draw.random(len(clusters)) < draw.beta(1, 2, size=60)[clusters]).astype(np.float64)  # mean 1/3
        covered += abs((found := cluster_interval(values, clusters)).mean - 1 / 3) <= (found.half_width or 0)
        naive += abs(values.mean() - 1 / 3) <= (cluster_interval(values, np.arange(len(values))).half_width or 0)
    assert 0.92 <= covered / 1000 <= 0.97  # binomial deviation 0.007, and the few clusters cost a little
    assert naive / 1000 < 0.8


def test_weights_are_repetitions() -> None:
    values, clusters, weights = (
        np.array([1.0, 0.0, 0.0, 1.0, 0.0]),
        np.array([7, 7, 2, 2, 0]),
        np.array([3, 1, 2, 1, 2]),
    )
    repeated = cluster_interval(np.repeat(values, weights), np.repeat(clusters, weights))
    weighted = cluster_interval(values, clusters, weights.astype(np.float64))
    assert (weighted.mean, weighted.half_width) == pytest.approx((repeated.mean, repeated.half_width))


def test_a_paired_interval_holds_where_a_few_clusters_have_most_events() -> None:
    """Six queries have half of the events, and each query its own difference, of mean zero."""
    draw = np.random.default_rng(5)
    clusters = np.repeat(np.arange(60), [45] * 6 + [5] * 54)
    covered, plain = 0, 0
    for _ in range(1000):
        values = draw.standard_normal(60)[clusters] + draw.standard_normal(len(clusters))
        covered += abs((found := paired_interval(values, clusters)).mean) <= (found.half_width or 0)
        plain += abs((found := cluster_interval(values, clusters)).mean) <= (found.half_width or 0)
    assert covered / 1000 >= 0.95 - 3 * 0.007  # three binomial deviations
    assert covered > plain


def test_a_paired_interval_needs_queries_and_events() -> None:
    values = np.ones(100)
    assert paired_interval(values, np.repeat(np.arange(9), [12] * 8 + [4])).half_width is None
    assert paired_interval(values, np.repeat(np.arange(10), 10)).half_width == 0.0
    assert paired_interval(np.empty(0), np.empty(0, dtype=np.int64)) == Interval(0.0)
