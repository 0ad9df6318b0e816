"""Losses of lists, against sums written out."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.model.functional import listwise_loss

SCORES = torch.tensor([[0.3, -1.2, 2.0, 0.5], [1.0, 0.0, -1.0, 9.0]], dtype=torch.float64)
RELEVANCE = torch.tensor([[2.0, 0.0, 1.0, 3.0], [0.0, 1.0, 0.0, 5.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True, True], [True, True, True, False]])


def lists() -> list[tuple[list[float], list[float]]]:
    return [(SCORES[row][MASK[row]].tolist(), RELEVANCE[row][MASK[row]].tolist()) for row in range(2)]


def softmax(scores: list[float], relevance: list[float]) -> float:
    total = math.log(sum(map(math.exp, scores)))
    return -sum(y / sum(relevance) * (s - total) for s, y in zip(scores, relevance, strict=True))


def pairwise(scores: list[float], relevance: list[float]) -> float:
    pairs = [
        math.log1p(math.exp(scores[j] - scores[i]))
        for i in range(len(scores))
        for j in range(len(scores))
        if relevance[i] > relevance[j]
    ]
    return sum(pairs) / len(pairs)


def plackett_luce(order: list[float]) -> float:
    """Probability that scores are drawn in this order."""
    return math.prod(math.exp(one) / sum(map(math.exp, order[place:])) for place, one in enumerate(order))


@pytest.mark.parametrize(("loss", "reference"), [("softmax", softmax), ("pairwise_logistic", pairwise)])
def test_a_loss_is_its_formula_on_the_members_that_are_there(loss: str, reference: object) -> None:
    expected = [reference(*one) for one in lists()]  # type: ignore[operator]
    found = listwise_loss(SCORES, RELEVANCE, MASK, loss, reduction="sum")  # type: ignore[arg-type]
    assert found.item() == pytest.approx(sum(expected))
    weights = torch.tensor([3.0, 1.0])
    mean = listwise_loss(SCORES, RELEVANCE, MASK, loss, weights=weights)  # type: ignore[arg-type]
    assert mean.item() == pytest.approx((3 * expected[0] + expected[1]) / 4)


def test_list_mle_is_the_likelihood_of_the_order_of_relevance() -> None:
    scores = SCORES[:1]
    found = listwise_loss(scores, RELEVANCE[:1], loss="list_mle").item()
    order = [scores[0, place].item() for place in (3, 0, 2, 1)]
    assert found == pytest.approx(-math.log(plackett_luce(order)))
    assert sum(plackett_luce(list(one)) for one in permutations(order)) == pytest.approx(1.0)
    # what is not there changes nothing; equal ones keep their order
    padded = listwise_loss(SCORES[1:], RELEVANCE[1:], MASK[1:], "list_mle").item()
    assert padded == pytest.approx(-math.log(plackett_luce([0.0, 1.0, -1.0])))


@pytest.mark.parametrize("loss", ["softmax", "list_mle", "pairwise_logistic"])
def test_lists_that_say_nothing_do_not_count_and_gradients_are_finite(loss: str) -> None:
    scores = torch.randn(3, 4, requires_grad=True)
    relevance = torch.tensor([[0.0, 1.0, 0.0, 2.0], [0.0] * 4, [2.0, 2.0, 2.0, 0.0]])
    mask = torch.tensor([[True] * 4, [True] * 4, [True, True, True, False]])

    def value(rows: slice) -> Tensor:
        return listwise_loss(scores[rows], relevance[rows], mask[rows], loss)  # type: ignore[arg-type]

    assert value(slice(0, 3)).item() == pytest.approx(value(slice(0, 1)).item())
    nothing = value(slice(1, 3))
    assert nothing.item() == 0.0
    value(slice(0, 3)).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert bool(scores.grad.isfinite().all())
    assert not bool(scores.grad[1:].any())


def test_the_gradient_is_right() -> None:
    scores = SCORES.clone().requires_grad_()
    for loss in ("softmax", "list_mle", "pairwise_logistic"):
        assert torch.autograd.gradcheck(lambda s, own=loss: listwise_loss(s, RELEVANCE, MASK, own), scores)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"relevance is \[2, 3\]; expected \[2, 4\]"):
        listwise_loss(SCORES, RELEVANCE[:, :3])
