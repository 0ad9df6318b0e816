"""Metrics of predicted numbers: errors, log loss, AUC and calibration, with intervals over queries."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from twotower.evaluation.intervals import Interval, cluster_interval, student_t, weighted_mean

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BINS = 10
"""Bins of a reliability curve, of equal weight."""

MIN_PROBABILITY = 1e-7
"""The log loss clips probabilities to at least this distance from 0 and 1, where it would be infinite."""


class ReliabilityBin(msgspec.Struct, frozen=True):
    """Events with similar predictions: one point of a reliability curve.

    Attributes:
        predicted: Mean of the predictions.
        actual: Mean of the targets.
        weight: Sum of the weights of its events; their number without weights.
    """

    predicted: float
    actual: float
    weight: float


def squared_errors(predictions: FloatArray, targets: FloatArray) -> FloatArray:
    """`(prediction − target)²` of each event, `[N]`."""
    return (predictions - targets) ** 2


def log_losses(predictions: FloatArray, targets: FloatArray) -> FloatArray:
    """`−t log p − (1 − t) log(1 − p)` of each event, `[N]`, given probabilities.

    Example:
        >>> log_losses(np.array([0.5, 0.9]), np.array([0.0, 1.0])).round(4).tolist()
        [0.6931, 0.1054]
    """
    p = np.clip(predictions, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return -(targets * np.log(p) + (1 - targets) * np.log1p(-p))


def rmse_interval(
    predictions: FloatArray, targets: FloatArray, queries: IntArray, weights: FloatArray | None = None
) -> Interval:
    """The root mean squared error, with its 95% interval over queries.

    The interval follows from that of the mean squared error by the delta method: its width divided by twice the root.

    Example:
        >>> rmse_interval(np.array([1.0, 3.0]), np.array([2.0, 3.0]), np.array([0, 1])).mean.__round__(4)
        0.7071
    """
    mse = cluster_interval(squared_errors(predictions, targets), queries, weights)
    root = math.sqrt(mse.mean)
    if mse.half_width is None or root == 0:
        return Interval(root)
    return Interval(root, mse.half_width / (2 * root))


def auc_interval(
    predictions: FloatArray, targets: FloatArray, queries: IntArray, weights: FloatArray | None = None
) -> Interval | None:
    """The probability that an event with target 1 has a higher prediction than one with target 0; ties count half.

    The interval is over queries: the events of a query form a cluster (Obuchowski, *Nonparametric analysis of
    clustered ROC curve data*, Biometrics 53(2), 1997).

    Returns:
        The AUC; None if the targets are not all 0 or 1, or are all the same.

    Example:
        >>> auc_interval(np.array([0.9, 0.8, 0.3, 0.2]), np.array([1.0, 0.0, 1.0, 0.0]), np.arange(4)).mean
        0.75
    """
    positive = targets == 1
    if not np.isin(targets, (0.0, 1.0)).all() or positive.all() or not positive.any():
        return None
    own = np.ones(len(targets)) if weights is None else weights
    above = _share_below(predictions[positive], predictions[~positive], own[~positive])  # [positives]
    below = 1 - _share_below(predictions[~positive], predictions[positive], own[positive])  # [negatives]
    auc = weighted_mean(above, own[positive])
    pull = np.empty(len(targets))
    pull[positive] = own[positive] * (above - auc) / own[positive].sum()
    pull[~positive] = own[~positive] * (below - auc) / own[~positive].sum()
    groups = int(np.count_nonzero(np.bincount(queries)))
    if groups == 1:
        return Interval(auc)
    variance = groups / (groups - 1) * float((np.bincount(queries, pull) ** 2).sum())
    return Interval(auc, student_t(0.975, groups - 1) * math.sqrt(variance))


def reliability(
    predictions: FloatArray, targets: FloatArray, weights: FloatArray | None = None, bins: int = BINS
) -> list[ReliabilityBin]:
    """Sorts events by prediction and cuts them into bins of about equal weight; equal predictions stay together.

    Example:
        >>> reliability(np.array([0.1, 0.1, 0.7, 0.9]), np.array([0.0, 0.0, 1.0, 1.0]), bins=2)[0]
        ReliabilityBin(predicted=0.1, actual=0.0, weight=2.0)
    """
    own = np.ones(len(targets)) if weights is None else weights
    distinct, place = np.unique(predictions, return_inverse=True)
    total = np.cumsum(np.bincount(place, own, len(distinct)))
    middle = total - np.bincount(place, own, len(distinct)) / 2
    part = np.minimum((middle / total[-1] * bins).astype(np.int64), bins - 1)[place]
    found = []
    for number in np.unique(part):
        inside = part == number
        weight = own[inside]
        if weight.sum() > 0:
            predicted, actual = (weighted_mean(values[inside], weight) for values in (predictions, targets))
            found.append(ReliabilityBin(predicted, actual, float(weight.sum())))
    return found


def calibration_error(curve: list[ReliabilityBin]) -> float:
    """Weighted mean distance between prediction and target over the bins of a reliability curve.

    For probabilities, this is the expected calibration error (Naeini, Cooper and Hauskrecht, *Obtaining well
    calibrated probabilities using Bayesian binning*, AAAI 2015) with bins of equal weight.
    """
    total = sum(part.weight for part in curve)
    return sum(part.weight * abs(part.predicted - part.actual) for part in curve) / total


def _share_below(values: FloatArray, others: FloatArray, weights: FloatArray) -> FloatArray:
    """The share of `others`, by weight, that is below each value; equal ones count half."""
    order = np.argsort(others)
    total = np.concatenate([[0.0], np.cumsum(weights[order])])
    low, high = (np.searchsorted(others[order], values, side) for side in ("left", "right"))
    share: FloatArray = (total[low] + total[high]) / (2 * total[-1])
    return share
