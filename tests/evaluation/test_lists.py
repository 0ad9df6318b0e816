"""Metrics of lists, by hand and, where scores tie, against the mean over all orders."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.evaluation.lists import average_precision, ndcg, padded


def dcg(order: list[float], k: int) -> float:
    return float(sum((2**gain - 1) / np.log2(2 + place) for place, gain in enumerate(order[:k])))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=5),
    st.integers(1, 6),
    st.integers(0, 2),
)
def test_ndcg_is_the_mean_over_the_orders_that_ties_allow(members: list[tuple[int, int]], k: int, missing: int) -> None:
    scores, relevance = (np.array([list(one) + [9] * missing], dtype=float) for one in zip(*members, strict=True))
    mask = np.array([[True] * len(members) + [False] * missing])
    orders = [one for one in permutations(members) if all(a[0] >= b[0] for a, b in pairwise(one))]
    best = dcg(sorted((float(gain) for _, gain in members), reverse=True), k)
    expected = np.mean([dcg([float(gain) for _, gain in one], k) for one in orders]) / best if best else 0.0
    assert ndcg(scores, relevance, mask, k)[0] == pytest.approx(expected)


def test_ndcg_of_several_lists_is_that_of_each() -> None:
    draw = np.random.default_rng(0)
    scores, relevance = draw.integers(0, 4, (20, 6)).astype(float), draw.integers(0, 3, (20, 6)).astype(float)
    mask = draw.random((20, 6)) < 0.8
    mask[:, 0] = True
    together = ndcg(scores, relevance, mask, 3)
    apart = [ndcg(scores[[row]], relevance[[row]], mask[[row]], 3)[0] for row in range(20)]
    assert np.allclose(together, apart)
    assert (together <= 1 + 1e-12).all()


def test_average_precision_by_hand() -> None:
    scores = np.array([[5.0, 4.0, 3.0, 2.0], [1.0, 1.0, 1.0, 9.0]])
    relevant = np.array([[True, False, True, False], [True, False, False, True]])
    mask = np.array([[True] * 4, [True, True, True, False]])
    assert average_precision(scores, relevant, mask).tolist() == [(1 + 2 / 3) / 2, 1 / 2]  # three tie: rank 2
    assert average_precision(scores, relevant & False, mask).tolist() == [0.0, 0.0]


def test_members_stay_in_their_order() -> None:
    members, mask = padded(np.array([5, 2, 5, 2, 5, 9]))
    assert [row[there].tolist() for row, there in zip(members, mask, strict=True)] == [[1, 3], [0, 2, 4], [5]]
