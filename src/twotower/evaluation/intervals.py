"""Confidence intervals for means over a few repetitions, for means over clustered events, and for differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import msgspec
import numpy as np
import numpy.typing as npt

MIN_QUERIES = 10
"""Minimum number of effective queries for an interval of a paired difference; see `paired_interval`."""

MAX_SUMMED_DEGREES = 200
"""Sum Student's t exactly up to this many degrees of freedom; above, an expansion is as accurate."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Interval(msgspec.Struct, frozen=True):
    """A mean and its confidence interval, mean ± half_width; None if the width cannot be estimated."""

    mean: float
    half_width: float | None = None

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + (self.half_width or 0.0)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.half_width is None else f" ± {self.half_width:.4f}")


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of independent repetitions, with Student's 95% interval.

    Example:
        >>> str(mean_interval([0.4, 0.5, 0.6]))
        '0.5000 ± 0.2484'
    """
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Interval(mean)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Interval(mean, student_t(0.975, len(values) - 1) * math.sqrt(variance / len(values)))


def cluster_interval(values: FloatArray, clusters: IntArray, weights: FloatArray | None = None) -> Interval:
    """The mean of clustered values (the events of each query form a cluster), with its 95% interval.

    Values in a cluster are alike, so the mean is less certain than that of as many independent values. The mean
    is the ratio Σ y_g / Σ n_g of the clusters' sums and sizes. Its variance is that of the residuals
    y_g − n_g·mean over G independent clusters, G / (G − 1) · Σ (y_g − n_g·mean)² / N² (Cochran, *Sampling
    techniques*, 1977, section 6.3; the cluster-robust variance of Liang and Zeger, 1986), with Student's t of
    G − 1 degrees of freedom. If events have weights, sums and sizes are weighted sums and sums of weights.

    Args:
        values: One per event, `[N]`.
        clusters: Cluster of each event, as a row number, `[N]`.
        weights: Weight of each event, above 0, `[N]`; None for equal weights.

    Example:
        >>> str(cluster_interval(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1])))
        '0.5000 ± 6.3531'
    """
    mean = weighted_mean(values, weights)
    groups = int(np.count_nonzero(np.bincount(clusters)))
    if groups == 1:
        return Interval(mean)
    residuals = np.bincount(clusters, _weighted(values - mean, weights))
    size = float(len(values) if weights is None else weights.sum())
    variance = groups / (groups - 1) * float((residuals**2).sum()) / size**2
    return Interval(mean, student_t(0.975, groups - 1) * math.sqrt(variance))


def paired_interval(
    differences: FloatArray, clusters: IntArray, weights: FloatArray | None = None, comparisons: int = 1
) -> Interval:
    """The mean of clustered paired differences, with an interval to judge it by.

    The interval is one of `comparisons` that hold simultaneously with a probability of 95% (Bonferroni's inequality).
    It is designed to hold with few clusters, with clusters that have most of the events, and with differences that
    are nearly all zero; in these cases `cluster_interval` is too narrow:

    - The variance is the jackknife's, (G − 1) / G · Σ (m_g − m)², where m_g is the mean without cluster g: a
      cluster with many events counts by its effect on the mean.
    - Student's t has one degree of freedom less than the number of *effective* clusters, (Σ n_g)² / Σ n_g² (Carter,
      Schnepel and Steigerwald, *Asymptotic behavior of a t-test robust to cluster heterogeneity*, 2017), and at
      most the number of clusters with a difference, minus one.

    Args:
        differences: One per event, `[N]`.
        clusters: Cluster of each event, as a row number, `[N]`.
        weights: Weight of each event, above 0, `[N]`; None for equal weights.
        comparisons: Number of intervals that must hold simultaneously.

    Returns:
        The interval. It has no half width if there are fewer than `MIN_QUERIES` effective clusters; without events,
        it is a mean of 0 without a half width.
    """
    if not len(differences):
        return Interval(0.0)
    mean = weighted_mean(differences, weights)
    sizes = np.bincount(clusters, weights).astype(np.float64)
    total = float(sizes.sum())
    effective = total**2 / float((sizes**2).sum())
    if effective < MIN_QUERIES - 1e-9:
        return Interval(mean)
    groups = int(np.count_nonzero(sizes))
    residuals = np.bincount(clusters, _weighted(differences - mean, weights))
    shifts = residuals / (total - sizes)  # change of the mean when each cluster is removed
    error = math.sqrt((groups - 1) / groups * float((shifts**2).sum()))
    differing = int(np.count_nonzero(np.bincount(clusters, np.abs(differences))))
    degrees = max(1, min(int(effective), differing) - 1)
    return Interval(mean, student_t(1 - 0.025 / comparisons, degrees) * error)


def weighted_mean(values: FloatArray, weights: FloatArray | None = None) -> float:
    """Σ weight·value / Σ weight, or the plain mean without weights."""
    if weights is None:
        return float(values.mean())
    return float((weights * values).sum() / weights.sum())


def _weighted(values: FloatArray, weights: FloatArray | None) -> FloatArray:
    return values if weights is None else weights * values


@cache
def student_t(probability: float, degrees: int) -> float:
    """The quantile of Student's t.

    Args:
        probability: Cumulative probability, from 0.5 to below 1.
        degrees: Degrees of freedom, at least 1.

    Example:
        >>> round(student_t(0.975, 4), 4)
        2.7764
    """
    if degrees > MAX_SUMMED_DEGREES:  # Fisher and Cornish, 1960
        z = NormalDist().inv_cdf(probability)
        terms = (
            z,
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        )
        return math.fsum(term / float(degrees) ** power for power, term in enumerate(terms))
    wanted, low, high = 2 * probability - 1, 0.0, math.pi / 2
    while (angle := (low + high) / 2) not in (low, high):
        low, high = (angle, high) if _within(angle, degrees) < wanted else (low, angle)
    return math.sqrt(degrees) * math.tan(low)


def _within(angle: float, degrees: int) -> float:
    """Probability that |t| is below √degrees · tan(angle) (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    steps = np.arange(1, (degrees - 1) // 2 if degrees % 2 else degrees // 2)
    if degrees % 2 == 0:
        terms = np.cumprod((2 * steps - 1) / (2 * steps) * cosine**2)
        return sine * (1 + float(terms.sum()))
    if degrees == 1:
        return 2 * angle / math.pi
    terms = cosine * np.cumprod(2 * steps / (2 * steps + 1) * cosine**2)
    return 2 / math.pi * (angle + sine * (cosine + float(terms.sum())))
