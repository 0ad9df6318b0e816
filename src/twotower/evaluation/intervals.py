"""Confidence intervals: of means over few repetitions, and of means over events that come in clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

_T_975 = (
    12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814,
    2.20099, 2.17881, 2.16037, 2.14479, 2.13145, 2.11991, 2.10982, 2.10092, 2.09302, 2.08596,
    2.07961, 2.07387, 2.06866, 2.06390, 2.05954, 2.05553, 2.05183, 2.04841, 2.04523, 2.04227,
)  # fmt: skip
"""The 97.5% quantile of Student's t for 1 to 30 degrees of freedom."""

_Z_975 = 1.959964


class Interval(msgspec.Struct, frozen=True):
    """A mean and its 95% confidence interval, mean ± half_width; None where one value tells no spread."""

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
    """The mean of independent repetitions with Student's 95% interval.

    Example:
        >>> str(mean_interval([0.4, 0.5, 0.6]))
        '0.5000 ± 0.2484'
    """
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Interval(mean)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Interval(mean, t_975(len(values) - 1) * math.sqrt(variance / len(values)))


def cluster_interval(values: npt.NDArray[np.float64], clusters: npt.NDArray[np.int64]) -> Interval:
    """The mean of values that come in clusters (the events of one query) with its 95% interval.

    Values of one cluster are alike, so that the mean is less certain than as many independent values would make
    it. It is the ratio Σ y_g / Σ n_g of the clusters' sums and sizes, whose variance is that of the residuals
    y_g − n_g·mean over G independent clusters, G / (G − 1) · Σ (y_g − n_g·mean)² / N² (Cochran, *Sampling
    techniques*, 1977, section 6.3; the cluster-robust variance of Liang and Zeger, 1986), with Student's t of
    G − 1 degrees of freedom.

    Args:
        values: One an event, `[N]`.
        clusters: Which cluster each is of, a row number, `[N]`.

    Example:
        >>> str(cluster_interval(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1])))
        '0.5000 ± 6.3531'
    """
    mean = float(values.mean())
    groups = int(np.count_nonzero(np.bincount(clusters)))
    if groups == 1:
        return Interval(mean)
    residuals = np.bincount(clusters, values - mean)
    variance = groups / (groups - 1) * float((residuals**2).sum()) / len(values) ** 2
    return Interval(mean, t_975(groups - 1) * math.sqrt(variance))


def t_975(degrees: int) -> float:
    """The 97.5% quantile of Student's t; from a table, beyond it by the expansion of Fisher and Cornish (1960)."""
    if degrees <= len(_T_975):
        return _T_975[degrees - 1]
    z = _Z_975
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return math.fsum(term / float(degrees) ** power for power, term in enumerate(terms))
