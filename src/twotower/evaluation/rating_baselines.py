"""Rating baselines: the global mean, means of queries and candidates, biases, and matrix factorisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from twotower.data.dataset import Dataset
from twotower.kinds import Kinds
from twotower.progress import ReportStep, no_report

FloatArray = npt.NDArray[np.float64]

RATING_BASELINES: Kinds[type[RatingBaseline]] = Kinds("rating baseline")
"""Rating baselines by kind; decorate your own with `@RATING_BASELINES.register` to have it measured like ours."""

SHRINKAGE = 25.0, 10.0
"""Pseudo-events that shrink the mean of a candidate, and that of a query, towards the global mean."""

HELD_OUT = 0.1
"""Share of the events held out to choose the regularisation."""

ROUNDS = 15
"""Rounds of solving for the queries, then for the candidates."""

SOLVED_AT_ONCE = 1 << 16
"""Rows whose normal equations are in memory at the same time."""


class RatingBaseline(Protocol):
    """Predicts the targets of events from those in train alone.

    Attributes:
        kind: Its name in results.
        label: Its name in tables and sentences.

    Example:
        >>> class Highest:
        ...     kind, label = "highest", "the highest of all"
        ...     def __init__(self, train, targets, step=no_report):
        ...         self.highest = targets.max()
        ...     def predict(self, events):
        ...         return np.full(len(events), self.highest)
    """

    kind: str
    label: str

    def __init__(self, train: Dataset, targets: FloatArray, step: ReportStep = no_report) -> None:
        """Fits to the events of train, given the target of each, `[N]`."""

    def predict(self, events: Dataset) -> FloatArray:
        """A prediction for each event, `[n]`."""
        ...


@RATING_BASELINES.register
class GlobalMean:
    """Predicts the mean of all targets."""

    kind, label = "global_mean", "the mean of all"

    def __init__(self, train: Dataset, targets: FloatArray, step: ReportStep = no_report) -> None:
        del step
        self.mean = float(np.average(targets, weights=train.weights))

    def predict(self, events: Dataset) -> FloatArray:
        """The same number for each event."""
        return np.full(len(events), self.mean)


@RATING_BASELINES.register
class ShrunkMeans:
    """The global mean, plus the candidate's deviation from it, plus the query's remaining deviation.

    Both deviations shrink towards 0 if there are few events (Koren, *Factor in the neighbors: scalable and accurate
    collaborative filtering*, TKDD 4(1), 2010, section 2.1).
    """

    kind, label = "means", "means of queries and candidates"

    def __init__(self, train: Dataset, targets: FloatArray, step: ReportStep = no_report) -> None:
        del step
        weights = train.weights.astype(np.float64)
        self.mean = float(np.average(targets, weights=weights))
        rest = targets - self.mean
        of_candidate, of_query = SHRINKAGE
        self.candidates = _shrunk(rest, train.candidate_index, weights, train.candidates.num_rows, of_candidate)
        rest = rest - self.candidates[train.candidate_index]
        self.queries = _shrunk(rest, train.query_index, weights, train.queries.num_rows, of_query)

    def predict(self, events: Dataset) -> FloatArray:
        """The sum of the mean and both deviations."""
        return self.mean + self.queries[events.query_index] + self.candidates[events.candidate_index]


class _Factorized:
    """`mean + b_q + b_c + p_q · p_c` by alternating least squares; the regularisation is chosen on held-out events.

    With the parameters of the candidates fixed, those of each query are a ridge regression, and vice versa (Koren,
    Bell and Volinsky, 2009; with the regularisation scaled by the number of events: Zhou et al., *Large-scale
    parallel collaborative filtering for the Netflix Prize*, AAIM 2008).
    """

    grid: tuple[_Shape, ...]

    def __init__(self, train: Dataset, targets: FloatArray, step: ReportStep = no_report) -> None:
        order = np.random.default_rng(0).permutation(len(train))
        cut = round(len(train) * HELD_OUT)
        held, fitted = order[:cut], order[cut:]
        errors = []
        for number, shape in enumerate(self.grid):
            step("choosing", number / (len(self.grid) + 1))
            if len(held) and len(self.grid) > 1:
                found = _fit(train.take(fitted), targets[fitted], shape)
                errors.append(float(((found.predict(train.take(held)) - targets[held]) ** 2).mean()))
        self.shape = self.grid[int(np.argmin(errors))] if errors else self.grid[0]
        self.solution = _fit(train, targets, self.shape)

    def predict(self, events: Dataset) -> FloatArray:
        """The sum of the mean, the biases and the product."""
        return self.solution.predict(events)


@dataclass(frozen=True)
class _Shape:
    """Number of factors, and their regularisation: a constant plus an amount per event."""

    factors: int
    constant: float
    by_event: float


@RATING_BASELINES.register
class Biases(_Factorized):
    """`mean + b_q + b_c`, fitted together."""

    kind, label = "biases", "biases"
    grid = tuple(_Shape(0, constant, 0.0) for constant in (1.0, 3.0, 6.0, 10.0))


@RATING_BASELINES.register
class MatrixFactorization(_Factorized):
    """`mean + b_q + b_c + p_q · p_c`, fitted together.

    The grid of regularisations was chosen on a fifth of the train part of MovieLens 100K (random:0.2, seed 42), from
    constants of 1 to 20 and amounts per event of 0 to 0.3, with 4, 8 and 16 factors: 16 were no better than 8.
    """

    kind, label = "matrix_factorization", "matrix factorisation with biases"
    grid = tuple(_Shape(8, *ridge) for ridge in ((5.0, 0.0), (12.0, 0.0), (8.0, 0.04), (5.0, 0.08), (3.0, 0.1)))


@dataclass(frozen=True, eq=False)
class _Solution:
    mean: float
    queries: FloatArray  # [queries, 1 + factors]
    candidates: FloatArray  # [candidates, 1 + factors]

    def predict(self, events: Dataset) -> FloatArray:
        query, candidate = self.queries[events.query_index], self.candidates[events.candidate_index]
        product = (query[:, 1:] * candidate[:, 1:]).sum(axis=1)
        found: FloatArray = self.mean + query[:, 0] + candidate[:, 0] + product
        return found


def _fit(train: Dataset, targets: FloatArray, shape: _Shape) -> _Solution:
    weights = train.weights.astype(np.float64)
    mean = float(np.average(targets, weights=weights))
    size = train.queries.num_rows, train.candidates.num_rows
    pairs = train.query_index, train.candidate_index
    weight = sparse.csr_matrix((weights, pairs), shape=size)
    target = sparse.csr_matrix((weights * (targets - mean), pairs), shape=size)
    across = weight.T.tocsr(), target.T.tocsr()
    draw = np.random.default_rng(0)
    queries = np.zeros((size[0], 1 + shape.factors))
    candidates = np.hstack([np.zeros((size[1], 1)), 0.1 * draw.standard_normal((size[1], shape.factors))])
    for _ in range(ROUNDS):
        queries = _solved(weight, target, candidates, shape)
        candidates = _solved(*across, queries, shape)
    return _Solution(mean, queries, candidates)


def _solved(weight: sparse.csr_matrix, target: sparse.csr_matrix, others: FloatArray, shape: _Shape) -> FloatArray:
    """Solves for the parameters of each row, given those of the columns, `[rows, 1 + factors]`."""
    design = np.hstack([np.ones((len(others), 1)), others[:, 1:]])  # [columns, k]
    k = design.shape[1]
    products = (design[:, :, np.newaxis] * design[:, np.newaxis, :]).reshape(len(design), k * k)
    known = others[:, :1] * design
    found = np.empty((weight.shape[0], k))
    for begin in range(0, weight.shape[0], SOLVED_AT_ONCE):
        rows = slice(begin, begin + SOLVED_AT_ONCE)
        matrices = (weight[rows] @ products).reshape(-1, k, k)
        ridge = shape.constant + shape.by_event * np.asarray(weight[rows].sum(axis=1)).reshape(-1)
        matrices[:, range(k), range(k)] += np.maximum(ridge, 1e-9)[:, np.newaxis]
        right = target[rows] @ design - weight[rows] @ known
        found[rows] = np.linalg.solve(matrices, right[:, :, np.newaxis])[:, :, 0]
    return found


def _shrunk(
    values: FloatArray, rows: npt.NDArray[np.int64], weights: FloatArray, size: int, shrinkage: float
) -> FloatArray:
    """Shrunken mean Σ weight·value / (Σ weight + shrinkage) of each row, `[size]`."""
    sums: FloatArray = np.bincount(rows, weights * values, size) / (np.bincount(rows, weights, size) + shrinkage)
    return sums
