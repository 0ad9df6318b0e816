"""Metrics of predictions and their baselines, by hand and against references."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from toy import groups_log
from toy_ratings import rated
from twotower.data import Dataset
from twotower.evaluation.intervals import Interval
from twotower.evaluation.predictions import (
    auc_interval,
    calibration_error,
    log_losses,
    reliability,
    rmse_interval,
)
from twotower.evaluation.rating_baselines import RATING_BASELINES, Biases, ShrunkMeans, _fit, _Shape
from twotower.evaluation.task_scores import Measured, TaskScores, Units, evaluated
from twotower.tasks.targets import targets_of


def covered(draws: list[tuple[float, float | None]], truth: float) -> float:
    return float(np.mean([abs(mean - truth) <= (width or 0.0) for mean, width in draws]))


def test_rmse_is_weighted_and_its_interval_that_of_the_mean_square_over_twice_the_root() -> None:
    found = rmse_interval(np.array([1.0, 2.0, 5.0]), np.array([1.0, 4.0, 4.0]), np.arange(3), np.array([1.0, 2.0, 1.0]))
    assert found.mean == pytest.approx(math.sqrt((0 + 2 * 4 + 1) / 4))
    assert rmse_interval(np.ones(3), np.ones(3), np.arange(3)) == Interval(0.0)


def test_rmse_intervals_cover_the_truth() -> None:
    draw, found = np.random.default_rng(0), []
    for _ in range(300):
        clusters = np.repeat(np.arange(60), 10)
        errors = draw.normal(0, 1, 60)[clusters] + draw.normal(0, 1, 600)  # alike within a query
        one = rmse_interval(errors, np.zeros(600), clusters)
        found.append((one.mean, one.half_width))
    assert 0.9 < covered(found, math.sqrt(2)) < 0.98


def test_auc_is_the_share_of_pairs_in_order() -> None:
    draw = np.random.default_rng(1)
    targets = (draw.random(200) < 0.3).astype(float)
    predictions = np.round(draw.random(200) + 0.3 * targets, 1)  # with ties
    found = auc_interval(predictions, targets, np.arange(200))
    assert found is not None
    positive, negative = predictions[targets == 1], predictions[targets == 0]
    above = positive[:, np.newaxis] - negative
    assert found.mean == pytest.approx(np.mean(above > 0) + np.mean(above == 0) / 2)


def test_auc_with_whole_weights_is_that_of_repeated_events() -> None:
    draw = np.random.default_rng(2)
    targets, predictions = (draw.random(50) < 0.5).astype(float), draw.random(50)
    weights = draw.integers(1, 4, 50)
    repeated = [np.repeat(one, weights) for one in (predictions, targets, np.arange(50))]
    weighted, plain = auc_interval(predictions, targets, np.arange(50), weights.astype(float)), auc_interval(*repeated)
    assert weighted is not None
    assert plain is not None
    assert weighted.mean == pytest.approx(plain.mean)
    assert weighted.half_width == pytest.approx(plain.half_width)


def test_auc_intervals_cover_the_truth_with_clusters() -> None:
    draw, found = np.random.default_rng(3), []
    for _ in range(300):
        clusters = np.repeat(np.arange(50), 8)
        targets = (draw.random(400) < 0.4).astype(float)
        scores = targets + draw.normal(0, 0.8, 50)[clusters] + draw.normal(0, 0.6, 400)
        one = auc_interval(scores, targets, clusters)
        assert one is not None
        found.append((one.mean, one.half_width))
    truth = NormalDist().cdf(1 / math.sqrt(2))  # a difference of two normals of variance 1
    assert 0.9 < covered(found, truth) <= 0.98


def test_auc_needs_both_kinds_of_targets() -> None:
    assert auc_interval(np.ones(3), np.ones(3), np.arange(3)) is None
    assert auc_interval(np.ones(3), np.array([0.0, 0.5, 1.0]), np.arange(3)) is None


def test_the_log_loss_of_a_certain_mistake_is_finite() -> None:
    assert np.isfinite(log_losses(np.array([0.0, 1.0]), np.array([1.0, 0.0]))).all()


def test_a_reliability_curve_has_parts_of_equal_weight_and_keeps_ties_together() -> None:
    predictions, targets = np.repeat([0.1, 0.5, 0.9], [5, 4, 1]), np.repeat([0.0, 1.0], [5, 5])
    curve = reliability(predictions, targets, bins=2)
    assert [(part.predicted, part.actual, part.weight) for part in curve] == [
        (0.1, 0.0, 5.0),
        (pytest.approx(0.58), 1.0, 5.0),
    ]
    assert calibration_error(curve) == pytest.approx((5 * 0.1 + 5 * 0.42) / 10)


def test_means_are_shrunk_by_hand() -> None:
    log = groups_log(50)
    targets = np.random.default_rng(0).normal(3, 1, 50)
    found = ShrunkMeans(log, targets)
    rest = targets - targets.mean()
    own = log.candidate_index == log.candidate_index[0]
    expected = rest[own].sum() / (own.sum() + 25)
    assert found.candidates[log.candidate_index[0]] == pytest.approx(expected)


def test_biases_solve_their_ridge_regression() -> None:
    log = rated(400)
    targets = targets_of(log, "stars")
    found = _fit(log, targets, _Shape(0, 3.0, 0.0))
    design = np.zeros((400, 70))
    design[np.arange(400), log.query_index] = 1
    design[np.arange(400), 40 + log.candidate_index] = 1
    solution = np.linalg.solve(design.T @ design + 3 * np.eye(70), design.T @ (targets - targets.mean()))
    assert np.allclose(found.queries[:, 0], solution[:40], atol=1e-3)
    assert np.allclose(found.candidates[:, 0], solution[40:], atol=1e-3)


def test_factors_are_at_a_minimum() -> None:
    log = rated(600)
    targets, shape = targets_of(log, "stars"), _Shape(2, 1.0, 0.05)

    def objective(queries: np.ndarray, candidates: np.ndarray) -> float:
        query, candidate = queries[log.query_index], candidates[log.candidate_index]
        errors = targets - found.mean - query[:, 0] - candidate[:, 0] - (query[:, 1:] * candidate[:, 1:]).sum(axis=1)
        ridges = (1.0 + 0.05 * log.query_counts()) @ (queries**2).sum(axis=1)
        return float((errors**2).sum() + ridges + (1.0 + 0.05 * log.candidate_counts()) @ (candidates**2).sum(axis=1))

    found = _fit(log, targets, shape)
    best, draw = objective(found.queries, found.candidates), np.random.default_rng(0)
    for _ in range(20):
        moved = found.candidates + 0.02 * draw.standard_normal(found.candidates.shape)
        assert objective(found.queries, moved) > best


@pytest.mark.parametrize("kind", list(RATING_BASELINES))
def test_baselines_predict_unknown_queries_by_what_is_known(kind: str) -> None:
    log = rated(500)
    known = log.take(log.query_index != 0)
    found = RATING_BASELINES[kind](known, targets_of(known, "stars")).predict(log)
    assert np.isfinite(found).all()
    of_new = found[log.query_index == 0]
    assert abs(of_new.mean() - targets_of(log, "stars").mean()) < 1.0


def test_factorization_beats_biases_where_there_is_more_than_biases() -> None:
    log, test = rated(3000), rated(1000, seed=5)
    errors = {
        kind: (
            (RATING_BASELINES[kind](log, targets_of(log, "stars")).predict(test) - targets_of(test, "stars")) ** 2
        ).mean()
        for kind in RATING_BASELINES
    }
    assert list(errors) == sorted(errors, key=lambda kind: -errors[kind])  # each more than the one before
    assert errors["matrix_factorization"] < 0.4 * errors["biases"]


def test_regularisation_is_chosen_on_held_out_events() -> None:
    log = groups_log(300)
    noise = np.random.default_rng(0).normal(0, 1, 300)
    assert Biases(log, noise).shape.constant == max(shape.constant for shape in Biases.grid)


def measured(values: np.ndarray, is_root: bool = False) -> Measured:
    mean = float(values.mean())
    return Measured(TaskScores({"rmse": math.sqrt(mean) if is_root else mean}), values, is_root)


def test_a_verdict_rests_on_the_paired_difference_of_errors() -> None:
    log: Dataset = groups_log(2000)
    draw = np.random.default_rng(0)
    base = draw.random(2000)
    units = Units("events", log.query_index)
    found = evaluated(
        "stars",
        "rating",
        "rmse",
        units,
        measured(base, True),
        {
            "far": ("the far one", measured(base + 0.2, True)),
            "same": ("the same", measured(base + draw.normal(0, 0.1, 2000), True)),
        },
    )
    far, same = found.comparisons
    assert (far.verdict, same.verdict) == ("better", "not significantly different")
    assert far.difference == pytest.approx(math.sqrt(base.mean()) - math.sqrt(base.mean() + 0.2))
    assert found.notes[0].startswith("Stars: the model beats the far one (RMSE −0.1")
    few = evaluated(
        "stars",
        "rating",
        "rmse",
        Units("events", log.query_index % 3),
        measured(base),
        {"far": ("it", measured(base + 1))},
    )
    assert few.comparisons[0].verdict == "too few queries"
    assert "too few" in few.notes[0]
