"""The softmax losses of plain tensors against NumPy in float64: each draw is a column, gradients are written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from twotower.model import softmax
from twotower.model.functional import Removed, full_softmax, in_batch_softmax, sampled_softmax

Array = npt.NDArray[np.float64]


@dataclass
class Given:
    """What a softmax is made of, in NumPy."""

    query: Array
    candidates: Array
    target: npt.NDArray[np.int64]
    weights: Array | None
    temperature: float
    multiplicity: npt.NDArray[np.int64]
    log_probability: Array | None
    removed: npt.NDArray[np.bool_]
    mask_same: bool = False
    hard_negatives: int | None = None
    smoothing: float = 0.0
    reduction: str = "mean"

    def draws(self, row: int, scores: Array) -> list[int]:
        """The columns that a row's softmax runs over, as often as they were drawn, the target first."""
        own = int(self.target[row])
        others = [c for c in range(len(self.candidates)) if c != own and not self.removed[row, c]]
        if self.hard_negatives is not None:  # by what all of a candidate's draws weigh together
            weight = scores + np.log(self.multiplicity)
            others = sorted(others, key=lambda c: -weight[c])[: self.hard_negatives]
        again = 0 if self.mask_same else int(self.multiplicity[own]) - 1
        return [own] * (1 + again) + [c for c in others for _ in range(int(self.multiplicity[c]))]

    def loss_and_gradients(self) -> tuple[float, Array, Array, float]:
        """The loss, and its derivatives by query, candidates and temperature."""
        weights = np.ones(len(self.query)) if self.weights is None else self.weights
        if self.reduction == "mean":
            weights = weights / weights.sum()
        loss, slope_t = 0.0, 0.0
        by_query, by_candidate = np.zeros_like(self.query), np.zeros_like(self.candidates)
        for row, weight in enumerate(weights):
            each = np.atleast_2d(self.query[row]) @ self.candidates.T / self.temperature  # [interests, columns]
            best, products = each.argmax(axis=0), each.max(axis=0)
            scores = products if self.log_probability is None else products - self.log_probability
            columns = self.draws(row, scores)
            drawn = scores[columns]
            share = np.exp(drawn - drawn.max())
            share /= share.sum()
            wanted = np.full(len(columns), self.smoothing / len(columns))
            wanted[0] += 1 - self.smoothing
            loss += weight * (np.log(np.exp(drawn - drawn.max()).sum()) + drawn.max() - wanted @ drawn)
            slopes = np.zeros(len(self.candidates))  # of the products
            np.add.at(slopes, columns, weight * (share - wanted))
            for place, interest in enumerate(np.atleast_2d(self.query[row])):
                own = slopes * (best == place)
                by_query[row].reshape(len(each), -1)[place] = own @ self.candidates / self.temperature
                by_candidate += np.outer(own, interest) / self.temperature
            slope_t -= float(slopes @ products) / self.temperature
        return loss, by_query, by_candidate, slope_t

    def options(self) -> dict[str, Any]:
        """What every one of the three functions takes."""
        rows, columns = (torch.from_numpy(part) for part in self.removed.nonzero())
        return {
            "weights": None if self.weights is None else torch.from_numpy(self.weights),
            "removed": Removed(rows, columns),
            "reduction": self.reduction,
        }


def drawn(seed: int, rows: int, columns: int) -> Given:
    """Some of everything; of some, each query has several embeddings."""
    draw = np.random.default_rng(seed)
    target = draw.integers(columns, size=rows)
    removed = draw.random((rows, columns)) < 0.3
    removed[np.arange(rows), target] = False
    return Given(
        query=draw.normal(size=(rows, 3) if draw.random() < 0.5 else (rows, int(draw.integers(1, 4)), 3)),
        candidates=draw.normal(size=(columns, 3)),
        target=target,
        weights=draw.choice([0.0, 0.5, 2.0], size=rows) + 0.1 if draw.random() < 0.5 else None,
        temperature=float(draw.uniform(0.2, 3.0)),
        multiplicity=draw.integers(1, 4, size=columns),
        log_probability=np.log(draw.dirichlet(np.ones(columns))),
        removed=removed,
        reduction=str(draw.choice(["mean", "sum"])),
    )


def assert_agrees(loss: Any, given_ones: Given) -> None:
    """The loss of tensors that need gradients, and these, are NumPy's."""
    query, candidates, temperature = (
        torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for value in (given_ones.query, given_ones.candidates, given_ones.temperature)
    )
    found: Tensor = loss(query, candidates, torch.from_numpy(given_ones.target), temperature=temperature)
    expected, by_query, by_candidate, by_temperature = given_ones.loss_and_gradients()
    np.testing.assert_allclose(found.item(), expected, rtol=1e-10, atol=1e-12)
    gradients = torch.autograd.grad(found, [query, candidates, temperature])
    for own, other in zip(gradients, (by_query, by_candidate, np.array(by_temperature)), strict=True):
        np.testing.assert_allclose(own.numpy(), other, rtol=1e-9, atol=1e-12)


SIZES = {"seed": st.integers(0, 2**31), "rows": st.integers(1, 7), "columns": st.integers(1, 7)}


@pytest.mark.parametrize("cached", [softmax.CACHED_LOGITS, 5], ids=["whole rows", "tiles"])
@settings(max_examples=60)
@given(mask_same=st.booleans(), hard_negatives=st.none() | st.integers(1, 5), corrected=st.booleans(), **SIZES)
def test_in_batch_softmax_is_numpys_over_every_draw(
    cached: int, seed: int, rows: int, columns: int, mask_same: bool, hard_negatives: int | None, corrected: bool
) -> None:
    one = drawn(seed, rows, columns)
    one.mask_same, one.hard_negatives = mask_same, hard_negatives
    if not corrected:
        one.log_probability = None
    log_probability = None if one.log_probability is None else torch.from_numpy(one.log_probability)

    def loss(*tensors: Tensor, temperature: Tensor) -> Tensor:
        return in_batch_softmax(
            *tensors,
            temperature=temperature,
            multiplicity=torch.from_numpy(one.multiplicity),
            log_probability=log_probability,
            mask_same=mask_same,
            hard_negatives=hard_negatives,
            **one.options(),
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "CACHED_LOGITS", cached)
        assert_agrees(loss, one)


@settings(max_examples=60)
@given(uniform=st.integers(0, 9), beyond=st.integers(0, 9), **SIZES)
def test_sampled_softmax_is_numpys_with_the_mixture_s_probability(
    seed: int, rows: int, columns: int, uniform: int, beyond: int
) -> None:
    one, catalogue = drawn(seed, rows, columns), columns + beyond
    assert one.log_probability is not None
    share = np.exp(one.log_probability)
    log_probability, others = torch.from_numpy(one.log_probability), rows - 1
    if uniform > 0:
        one.log_probability = np.log((others * share + uniform / catalogue) / (others + uniform))

    def loss(*tensors: Tensor, temperature: Tensor) -> Tensor:
        return sampled_softmax(
            *tensors,
            temperature=temperature,
            multiplicity=torch.from_numpy(one.multiplicity),
            log_probability=log_probability,
            drawn=uniform,
            catalogue=catalogue,
            **one.options(),
        )

    assert_agrees(loss, one)


@settings(max_examples=60)
@given(smoothing=st.just(0.0) | st.floats(0.01, 0.9), **SIZES)
def test_full_softmax_is_numpys(seed: int, rows: int, columns: int, smoothing: float) -> None:
    one = drawn(seed, rows, columns)
    one.multiplicity[:], one.log_probability, one.smoothing = 1, None, smoothing

    def loss(*tensors: Tensor, temperature: Tensor) -> Tensor:
        return full_softmax(*tensors, temperature=temperature, label_smoothing=smoothing, **one.options())

    assert_agrees(loss, one)
