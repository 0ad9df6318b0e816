from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twotower.errors import ConfigError, TwoTowerError
from twotower.retrieval import ExactIndex, exact

TINY = {"GROUP": 3, "SCORES": 20, "LONGEST_BLOCK": 6, "QUERIES": 3}
"""Sizes that make many blocks of a few candidates."""


@contextmanager
def sizes(changed: Mapping[str, int]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changed.items():
            patch.setattr(exact, name, value)
        yield


def whole_numbers(draw: np.random.Generator, rows: int, width: int) -> npt.NDArray[np.float32]:
    """Embeddings whose products are exact and often equal."""
    return draw.integers(-2, 3, size=(rows, width)).astype(np.float32)


def full_sort(
    scores: npt.NDArray[np.float32], k: int, banned: npt.NDArray[np.bool_]
) -> tuple[list[list[int]], list[list[float]]]:
    """What a stable sort of all that is left gives, filled up with −1 and −inf."""
    rows, values = [], []
    for own, out in zip(scores, banned, strict=True):
        left = [int(c) for c in np.argsort(-own, kind="stable") if not out[c]][:k]
        missing = min(k, len(own)) - len(left)
        rows.append(left + [-1] * missing)
        values.append([float(own[c]) for c in left] + [-np.inf] * missing)
    return rows, values


@pytest.mark.parametrize("changed", [{}, TINY], ids=["one block", "tiny blocks"])
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
    st.integers(1, 70),
    st.integers(0, 8),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    st.sampled_from(["as drawn", "best last", "best first"]),
)
@example(0, 50, 5, 4, 2, 0.0, "best last")
def test_search_is_a_stable_sort_of_what_is_not_excluded(
    changed: Mapping[str, int], seed: int, candidates: int, k: int, queries: int, width: int, share: float, order: str
) -> None:
    draw = np.random.default_rng(seed)
    embeddings, wanted = whole_numbers(draw, candidates, width), whole_numbers(draw, queries, width)
    if order != "as drawn" and queries:
        embeddings = embeddings[np.argsort(embeddings @ wanted[0] * (1 if order == "best last" else -1))]
    banned = draw.random((queries, candidates)) < share
    rows, columns = np.nonzero(banned)
    mixed = draw.permutation(len(rows))  # pairs come in any order
    index, excluded = ExactIndex(torch.from_numpy(embeddings)), (rows[mixed], columns[mixed])
    with sizes(changed):
        hits = index.search(torch.from_numpy(wanted), k, excluded)
    assert (hits.candidates.tolist(), hits.scores.tolist()) == full_sort(wanted @ embeddings.T, k, banned)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_many_candidates_of_which_few_pass_the_bar(seed: int, k: int) -> None:
    draw = np.random.default_rng(seed)
    embeddings, wanted = (draw.integers(-9, 10, size=(n, 6)).astype(np.float32) for n in (3000, 5))
    with sizes({"SCORES": 1000}):
        hits = ExactIndex(torch.from_numpy(embeddings)).search(torch.from_numpy(wanted), k)
    rows, scores = full_sort(wanted @ embeddings.T, k, np.zeros((5, 3000), dtype=bool))
    assert (hits.candidates.tolist(), hits.scores.tolist()) == (rows, scores)


@pytest.mark.parametrize("changed", [{}, TINY], ids=["one block", "tiny blocks"])
def test_scores_that_are_all_alike_give_the_first_rows(changed: Mapping[str, int]) -> None:
    queries = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    with sizes(changed):
        hits = ExactIndex(torch.ones(1000, 2)).search(queries, 4)
    assert hits.candidates.tolist() == [[0, 1, 2, 3]] * 3
    assert hits.scores.tolist() == [[0.0] * 4, [2.0] * 4, [-1.0] * 4]


def test_zeros_of_either_sign_tie() -> None:
    hits = ExactIndex(torch.tensor([[-1.0], [0.0], [-0.0], [1.0]])).search(torch.tensor([[0.0], [-0.0]]), 4)
    assert hits.candidates.tolist() == [[0, 1, 2, 3]] * 2


def test_the_smallest_and_largest_scores_keep_their_order() -> None:
    tiny, huge = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
    values = [0.0, tiny, -tiny, huge, -huge, 1.0, float(np.nextafter(np.float32(1), np.float32(2)))]
    hits = ExactIndex(torch.tensor(values)[:, None]).search(torch.ones(1, 1), 7)
    assert hits.scores[0].tolist() == sorted(values, reverse=True)


def test_one_call_gives_the_same_bits_again() -> None:
    torch.manual_seed(0)
    index, queries = ExactIndex(torch.randn(5000, 16)), torch.randn(40, 16)
    first, second = index.search(queries, 10), index.search(queries, 10)
    assert torch.equal(first.candidates, second.candidates)
    assert torch.equal(first.scores, second.scores)


def test_the_embeddings_are_those_given_and_need_no_gradient() -> None:
    given_ones = torch.randn(7, 3, requires_grad=True)
    index = ExactIndex(given_ones)
    assert len(index) == 7
    assert torch.equal(index.embeddings, given_ones.detach())
    assert not index.search(given_ones[:2], 3).scores.requires_grad


@pytest.mark.parametrize(
    ("embeddings", "queries", "k", "error", "message"),
    [
        (torch.ones(3, 2), torch.ones(1, 2), 0, ConfigError, "k=0, queries of width 2; expected k ≥ 1"),
        (torch.ones(3, 2), torch.ones(1, 3), 1, ConfigError, "queries of width 3; expected k ≥ 1 and width 2"),
        (torch.ones(3, 2), torch.ones(2), 1, ConfigError, "queries are torch.float32 of shape [2]; expected float32"),
        (torch.ones(3, 2).double(), torch.ones(1, 2), 1, ConfigError, "candidate embeddings are torch.float64"),
        (torch.tensor([[1.0, torch.nan]]), torch.ones(1, 2), 1, TwoTowerError, "a candidate embedding is not finite"),
        (torch.ones(3, 2), torch.tensor([[1.0, -torch.inf]]), 1, TwoTowerError, "a query embedding is not finite"),
        (torch.full((3, 2), 1e20), torch.full((1, 2), 1e20), 1, TwoTowerError, "a score may overflow"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    embeddings: torch.Tensor, queries: torch.Tensor, k: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        ExactIndex(embeddings).search(queries, k)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0, 1), st.floats(0, 1))
def test_what_is_found_is_the_best_in_float64_as_far_as_float32_can_tell(
    seed: int, k: int, excluded: float, allowed: float
) -> None:
    draw = np.random.default_rng(seed)
    embeddings, wanted = (draw.normal(size=(n, 12)).astype(np.float32) for n in (300, 4))
    banned, may = draw.random((4, 300)) < excluded, draw.random(300) < allowed
    index = ExactIndex(torch.from_numpy(embeddings))
    hits = index.search(torch.from_numpy(wanted), k, tuple(banned.nonzero()), np.flatnonzero(may))  # type: ignore[arg-type]
    scores = wanted.astype(np.float64) @ embeddings.astype(np.float64).T
    for query, (rows, found) in enumerate(zip(hits.candidates.numpy(), hits.scores.numpy(), strict=True)):
        left = np.flatnonzero(may & ~banned[query])
        rows = rows[rows >= 0]
        assert len(rows) == len(set(rows.tolist())) == min(k, len(left))
        assert set(rows.tolist()) <= set(left.tolist())
        np.testing.assert_allclose(
            found[: len(rows)], scores[query][rows], rtol=0, atol=1e-5
        )  # 12 products of up to 10
        best = np.sort(scores[query][left])[::-1][: len(rows)]
        np.testing.assert_allclose(scores[query][rows], best, rtol=0, atol=1e-5)
