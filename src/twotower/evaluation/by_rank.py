"""Metrics made from ranks: what each event adds to a mean, by the rank of its true candidate."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from twotower.kinds import Kinds

FloatArray = npt.NDArray[np.float64]

METRICS: Kinds[type[Metric]] = Kinds("metric")
"""Metrics by kind. `@METRICS.register` has one of your own measured wherever ranks are: in `evaluate`, in validation,
where `monitor` may name it, and in reports."""


class Metric(Protocol):
    """A mean over events of a function of the rank of each event's true candidate; higher is better.

    `twotower.testing.check_metric` tries one out.

    Attributes:
        kind: Its name.
        label: What tables and sentences call it.
        by_length: Whether there is one for each length of list, named `kind_10` and so on.

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
        """What each event adds to the mean, `[N]`.

        Args:
            ranks: Rank of each event's true candidate, from 1; ties make halves, `[N]`.
            k: Length of the list; None where the metric is not `by_length`.
        """
        ...


@METRICS.register
class TopK:
    """Whether the rank is at most k: the mean is the hit rate."""

    kind, label, by_length = "top", "top", True

    def values(self, ranks: FloatArray, k: int | None) -> FloatArray:
        """1 where it is, else 0."""
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
    """1 / log2(1 + rank) where the rank is at most k: with one true candidate the ideal list's gain is 1."""

    kind, label, by_length = "ndcg", "ndcg", True

    def values(self, ranks: FloatArray, k: int | None) -> FloatArray:
        """The discounted gain."""
        assert k is not None
        return np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0)
