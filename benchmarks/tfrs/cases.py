"""Inputs and expected results of TensorFlow Recommenders' own test cases, computed with NumPy only.

Imported in both environments: `replay.py` runs twotower, `replay_worker.py` TensorFlow Recommenders. A case has a name,
its source test in TensorFlow Recommenders, and a list of expected numbers; or `refused` if the test expects an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Found = list[float] | str
SEEDS = (42, 123, 8391, 12390, 1230)
REFUSED = "refused"

RETRIEVAL = "tasks/retrieval_test.py"
RANKING = "tasks/ranking_test.py"
TOP_K = "layers/factorized_top_k_test.py"
METRICS = "metrics/factorized_top_k_test.py"
LOSS = "layers/loss_test.py"
CROSS = "layers/feature_interaction/dcn_test.py"
CROSSES = "layers/feature_interaction/multi_layer_dcn_test.py"
DOT = "layers/feature_interaction/dot_interaction_test.py"


class Case(NamedTuple):
    """One case: its source test, its name, and the expected result."""

    source: str
    name: str
    expected: Found


def floats(rows: Any) -> Array:
    """A float32 array, as in TensorFlow's tests."""
    return np.array(rows, dtype=np.float32)


def log_softmax(scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Log-softmax over the last axis, in float64."""
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    exact: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return exact


class Retrieval(NamedTuple):
    """A batch in which row i's candidate is column i. The catalogue is zeros, which never score above a positive.

    Queries have one embedding, `[B, d]`, or several, `[B, K, d]`, of which the best one scores. For several, only the
    loss counts: TensorFlow Recommenders measures nothing in the catalogue, and the accuracy of its case rests on a tie.
    """

    query: Array
    candidates: Array
    weights: Array | None
    zeros: int = 20

    def expected(self) -> list[float]:
        """The summed loss; for one embedding also top-1 accuracy in the batch and top-5 accuracy in the catalogue."""
        rows = np.arange(len(self.query))
        scores = (self.query.reshape(len(rows), -1, self.query.shape[-1]) @ self.candidates.T).max(axis=1)
        weights = np.ones(len(rows)) if self.weights is None else self.weights.astype(np.float64)
        losses = -log_softmax(scores)[rows, rows]
        first = scores.argmax(axis=1) == rows
        accuracy = [float(weights @ first / weights.sum()), 1.0] if self.query.ndim == 2 else []
        return [float(weights @ losses), *accuracy]


PAIRS = floats([[1, 2, 3], [2, 3, 4]]), floats([[1, 1, 1], [1, 1, 0]])
RETRIEVALS = {
    "two pairs": Retrieval(*PAIRS, None),
    "two pairs, weights 0.7 and 0.3": Retrieval(*PAIRS, floats([0.7, 0.3])),
    "a further negative": Retrieval(floats([[3, 2, 1], [2, 3, 4]]), floats([[0, 1, 0], [0, 1, 1], [1, 1, 0]]), None),
}

RETRIEVALS["two embeddings of each query"] = Retrieval(
    floats([[[3, 2, 1], [1, 2, 3]], [[2, 3, 4], [4, 3, 2]]]), floats([[0, 1, 0], [0, 1, 1], [1, 1, 0]]), None
)

PROBABILITIES, LABELS = floats([1.0, 0.3]), floats([1.0, 1.0])


class TopK(NamedTuple):
    """A search."""

    k: int
    query: Array
    candidates: Array
    excluded: npt.NDArray[np.int64] | None

    def expected(self) -> list[float]:
        """The scores and then the candidates, found by sorting."""
        scores = self.query @ self.candidates.T
        left = scores.copy()
        if self.excluded is not None:
            np.put_along_axis(left, self.excluded, -np.inf, axis=1)
        order = np.argsort(-left, axis=1, kind="stable")[:, : self.k]
        return [*np.take_along_axis(scores, order, axis=1).ravel().tolist(), *order.ravel().astype(float).tolist()]


def searches() -> Iterator[tuple[str, TopK]]:
    """The cases of both exact layers; theirs also vary batch sizes and id types, which twotower does not have."""
    for k, queries, candidates, excludes in product((5, 10), (3, 15, 16), (1024, 128), (False, True)):
        draw = np.random.RandomState(42)
        catalogue, query = (draw.normal(size=(n, 4)).astype(np.float32) for n in (candidates, queries))
        excluded = draw.randint(0, candidates, size=(queries, 5))
        name = f"{k} of {candidates:,} for {queries} queries{', 5 excluded' if excludes else ''}"
        yield name, TopK(k, query, catalogue, excluded if excludes else None)


class Accuracy(NamedTuple):
    """Top-k accuracy in a catalogue, weighted."""

    query: Array
    candidates: Array
    true: npt.NDArray[np.int64]
    weights: Array
    ks: tuple[int, ...]

    def expected(self) -> list[float]:
        """The accuracy for each k."""
        scores = self.query @ self.candidates.T
        ranks = 1 + (scores > np.take_along_axis(scores, self.true[:, None], axis=1)).sum(axis=1)
        return [float(np.average(ranks <= k, weights=self.weights)) for k in self.ks]


def accuracies() -> dict[str, Accuracy]:
    """Cases by scores with weights, and by ids."""
    draw = np.random.RandomState(42)
    catalogue, query = (draw.normal(size=(n, 4)).astype(np.float32) for n in (100, 10))
    weights = draw.uniform(size=(10, 1)).astype(np.float32)[:, 0]
    weighted = Accuracy(query, catalogue, draw.randint(0, 100, size=10), weights, (1, 5, 10, 50))
    other = np.random.default_rng(42)
    catalogue, query = (other.normal(size=(n, 128)).astype(np.float32) for n in (1280, 128))
    by_ids = Accuracy(query, catalogue, other.integers(0, 1280, size=128), np.ones(128, np.float32), (100,))
    return {"weighted, top 1, 5, 10, 50": weighted, "by ids, top 100 of 1,280": by_ids}


class Logits(NamedTuple):
    """Logits of a batch with one positive per row."""

    logits: Array
    labels: Array

    @property
    def target(self) -> npt.NDArray[np.int64]:
        """Column of each row's positive."""
        columns: npt.NDArray[np.int64] = self.labels.argmax(axis=1)
        return columns

    def loss(self, logits: npt.NDArray[Any]) -> list[float]:
        """The summed cross-entropy of the logits that a layer outputs."""
        return [float(-log_softmax(logits)[np.arange(len(logits)), self.target].sum())]


HARD = 3


def mined(seed: int) -> tuple[Logits, list[float]]:
    """Two rows of twenty, of which the three hardest negatives are kept."""
    one = _logits(seed, (2, 20))[0]
    rest = np.where(one.labels > 0, -np.inf, one.logits)
    bar = -np.sort(-rest, axis=1)[:, HARD - 1 : HARD]
    return one, one.loss(np.where((rest >= bar) | (one.labels > 0), one.logits, -np.inf))


def accidental(seed: int) -> tuple[Logits, npt.NDArray[np.int64], list[float]]:
    """Two rows of four, with ids from 0 to 2: other columns with the positive's id are removed."""
    one, draw = _logits(seed, (2, 4))
    ids = draw.randint(0, 3, size=4)
    hits = (ids == ids[one.target][:, None]) & (one.labels == 0)
    return one, ids, one.loss(np.where(hits, -np.inf, one.logits))


def corrected(seed: int) -> tuple[Logits, Array, list[float]]:
    """Ten rows of twenty, corrected for the sampling probability of each column; row i's positive is column i."""
    draw = np.random.RandomState(seed)
    logits = draw.uniform(size=(10, 20)).astype(np.float32)
    probability = draw.uniform(size=20).astype(np.float32)
    one = Logits(logits, np.eye(10, 20, dtype=np.float32))
    return one, probability, one.loss(logits - np.log(probability))


def _logits(seed: int, shape: tuple[int, int]) -> tuple[Logits, np.random.RandomState]:
    draw = np.random.RandomState(seed)
    logits = draw.uniform(size=shape).astype(np.float32)
    return Logits(logits, draw.permutation(np.eye(*shape).T).T.astype(np.float32)), draw


FIRST, SECOND = floats([[0.1, 0.2, 0.3]]), floats([[0.4, 0.5, 0.6]])


class Cross(NamedTuple):
    """One cross layer whose weights are all ones."""

    inputs: Array = SECOND
    rank: int | None = None
    bias: float = 0.0
    diagonal: float = 0.0
    zero: bool = False

    def expected(self) -> list[float]:
        """x₀ · (sum of x + bias + diagonal · x) + x; only x if the activation returns zeros."""
        mapped = 0.0 if self.zero else self.inputs.sum() * (self.rank or 1) + self.bias + self.diagonal * self.inputs
        return (FIRST * mapped + self.inputs).ravel().astype(float).tolist()


CROSSES_OF_ONE = {
    "full matrix": Cross(),
    "rank 1": Cross(rank=1),
    "one input": Cross(FIRST),
    "bias": Cross(bias=1.0),
    "diagonal": Cross(diagonal=1.0),
    "an activation that gives zeros": Cross(zero=True),
}


class Layers(NamedTuple):
    """Low-rank cross layers whose weights are all ones."""

    rank: int
    depth: int
    bias: float = 0.0

    def expected(self) -> list[float]:
        """Applies the formula of one layer repeatedly."""
        inputs = FIRST.astype(np.float64)
        for _ in range(self.depth):
            inputs = FIRST * (inputs.sum() * self.rank + self.bias) + inputs
        return inputs.ravel().tolist()


CROSS_LAYERS = {"rank 3": Layers(3, 1), "rank 1": Layers(1, 1), "three layers with bias": Layers(1, 3, 1.0)}

DOT_INPUTS = floats([[0.1, -4.3, 0.2, 1.1, 0.3], [2.0, 3.2, -1.0, 0.0, 1.0], [0.0, 1.0, -3.0, -2.2, -0.2]])
UNEVEN = floats([[0.1, 0.2, 0.3]]), floats([[2.0, -1.0, 1.0]]), floats([[0.0, 1.0]])


def dot_products(itself: bool) -> list[float]:
    """Dot products of every pair, row by row below the diagonal."""
    products = DOT_INPUTS.astype(np.float64) @ DOT_INPUTS.T.astype(np.float64)
    found: list[float] = products[np.tril_indices(3, 0 if itself else -1)].tolist()
    return found


def cases() -> list[Case]:
    """All cases."""
    found = [Case(RETRIEVAL, name, one.expected()) for name, one in RETRIEVALS.items()]
    found.append(Case(RANKING, "log loss of 1 and 0.3", [-float(np.log(np.float64(PROBABILITIES)).mean())]))
    found += [Case(TOP_K, name, one.expected()) for name, one in searches()]
    found += [Case(METRICS, name, one.expected()) for name, one in accuracies().items()]
    for seed in SEEDS:
        found.append(Case(LOSS, f"hard negatives, seed {seed}", mined(seed)[-1]))
        found.append(Case(LOSS, f"accidental hits, seed {seed}", accidental(seed)[-1]))
        found.append(Case(LOSS, f"sampling probability, seed {seed}", corrected(seed)[-1]))
    found += [Case(CROSS, name, one.expected()) for name, one in CROSSES_OF_ONE.items()]
    found += [Case(CROSS, name, REFUSED) for name in ("inputs of two widths", "a negative diagonal")]
    found += [Case(CROSSES, name, one.expected()) for name, one in CROSS_LAYERS.items()]
    found += [Case(DOT, name, dot_products(itself)) for name, itself in (("with squares", True), ("without", False))]
    found.append(Case(DOT, "embeddings of two widths", REFUSED))
    return found
