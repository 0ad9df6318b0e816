"""Rank metrics: the contribution of each event to a mean, from the rank of its true candidate."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from twotower.kinds import Kinds

FloatArray = npt.NDArray[np.float64]

METRICS: Kinds[type[Metric]] = Kinds("metric")
"""Rank metrics by kind. Decorate your own with `@METRICS.register` to have it measured wherever ranks are: in
`evaluate`, in validation (where `monitor` may name it) and in reports."""


class Metric(Protocol):
    """A mean over events of a function of the rank of each event's true candidate; higher is better.

    Test your own with `twotower.testing.check_metric`.

    Attributes:
        kind: Its name.
        label: Its name in tables and sentences.
        by_length: Whether it is measured for each length of list, as `kind_10` and so on.

    Example:
        >>> class InverseSquare:
        ...     kind, label, by_length = "inverse_square", "inverse square", False
        ...     def values(self, ranks: FloatArray, k: int | None) -> FloatArray:
        ...         return 1 / ranks**2
        >>> InverseSquare().values(np.array([1.0, 2.0]), None).tolist()
        [1.0, 0.25]
    """

    kind: str
    label: str
    by_length: bool

    def values(self, ranks: FloatArray, k: int | None) -> FloatArray:
        """Contribution of each event to the mean, `[N]`.

        Args:
            ranks: Rank of each event's true candidate, from 1; ties may give half ranks, `[N]`.
            k: Length of the list; None if the metric is not `by_length`.
        """
        ...


@METRICS.register
class TopK:
    """Whether the rank is at most k: the mean is the hit rate."""

    kind, label, by_length = "top", "top", True

    def values(self, ranks: FloatArray, k: int | None) -> FloatArray:
        """1 if the rank is at most k, else 0."""
        assert k is not None
        return (ranks <= k).astype(np.float64)


@METRICS.register
class Mrr:
    """One over the rank: the mean is the mean reciprocal rank."""

    kind, label, by_length = "mrr", "MRR", False

    def values(self, ranks: FloatArray, k: int | None) -> FloatArray:
        """1 / rank."""
        del k
        return 1 / ranks


@METRICS.register
class Ndcg:
    """1 / log2(1 + rank) if the rank is at most k, else 0: with one true candidate, the ideal gain is 1."""

    kind, label, by_length = "ndcg", "NDCG", True

    def values(self, ranks: FloatArray, k: int | None) -> FloatArray:
        """The discounted gain."""
        assert k is not None
        return np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0)
