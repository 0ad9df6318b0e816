"""The chunked softmax against the plain formula, value and gradient, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from twotower.model import softmax
from twotower.model.softmax import Removed, softmax_loss


def plain(
    queries: Tensor,
    candidates: Tensor,
    target: Tensor,
    weights: Tensor,
    bias: Tensor | None,
    target_shift: Tensor | None,
    banned: Tensor | None,
    hard_negatives: int | None,
    smoothing: float,
) -> tuple[Tensor, list[int]]:
    """Σ_i w_i (log Σ_j exp z_ij − (1 − ε) z_it − ε mean_j z_ij), row by row, with all logits at once; z_it's ranks."""
    total, ranks = queries.new_zeros(()), []
    for i in range(len(queries)):
        logits = candidates @ queries[i]
        if bias is not None:
            logits = logits + bias
        positive = logits[target[i]]
        if target_shift is not None:
            positive = positive + target_shift[i]
        others = [j for j in range(len(candidates)) if j != target[i] and not (banned is not None and banned[i, j])]
        negatives = logits[others]
        if hard_negatives is not None and len(others) > hard_negatives:
            negatives = negatives.sort(descending=True).values[:hard_negatives]
        left = torch.cat([negatives, positive[None]])
        wanted = (1 - smoothing) * positive + smoothing * left.mean()
        total = total + weights[i] * (torch.logsumexp(left, 0) - wanted)
        ranks.append(1 + int((negatives >= positive).sum()))
    return total, ranks


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 9),
    columns=st.integers(1, 8),
    cached=st.integers(1, 40),
    tile_rows=st.integers(1, 9),
    held=st.integers(1, 40),
    with_bias=st.booleans(),
    with_shift=st.booleans(),
    with_removed=st.booleans(),
    hard_negatives=st.none() | st.integers(1, 9),
    smoothing=st.just(0.0) | st.floats(0.01, 0.9),
    ranked=st.floats(0, 1),
)
def test_value_and_gradient_are_the_plain_formulas(
    seed: int,
    rows: int,
    columns: int,
    cached: int,
    tile_rows: int,
    held: int,
    with_bias: bool,
    with_shift: bool,
    with_removed: bool,
    hard_negatives: int | None,
    smoothing: float,
    ranked: float,
) -> None:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    queries, candidates = normal(rows, 3).requires_grad_(), normal(columns, 3).requires_grad_()
    target = torch.randint(columns, (rows,), generator=draw)
    weights = torch.rand(rows, generator=draw, dtype=torch.float64)
    bias = normal(columns) if with_bias else None
    shift = normal(rows) if with_shift else None
    banned, removed = None, None
    if with_removed:
        banned = torch.rand(rows, columns, generator=draw) < 0.4
        banned[torch.arange(rows), target] = False
        removed = Removed(*banned.nonzero(as_tuple=True))
    expected, expected_ranks = plain(
        queries, candidates, target, weights, bias, shift, banned, hard_negatives, smoothing
    )
    expected_gradients = torch.autograd.grad(expected, [queries, candidates])
    ranks = torch.full((round(ranked * rows),), 99, dtype=torch.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "CACHED_LOGITS", cached)
        patch.setattr(softmax, "TILE_ROWS", tile_rows)
        patch.setattr(softmax, "HELD_LOGITS", held)
        loss = softmax_loss(
            queries,
            candidates,
            target,
            weights,
            bias=bias,
            target_shift=shift,
            removed=removed,
            hard_negatives=hard_negatives,
            smoothing=smoothing,
            ranks=ranks,
        )
        gradients = torch.autograd.grad(loss, [queries, candidates])
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    assert ranks.tolist() == expected_ranks[: len(ranks)]
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


def test_smoothed_labels_are_torchs() -> None:
    draw = torch.Generator().manual_seed(0)
    queries, candidates = (torch.randn(n, 3, generator=draw, dtype=torch.float64) for n in (4, 6))
    target, ones = torch.tensor([0, 5, 2, 2]), torch.ones(4, dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(queries @ candidates.T, target, reduction="sum", label_smoothing=0.3)
    torch.testing.assert_close(softmax_loss(queries, candidates, target, ones, smoothing=0.3), expected)


def test_the_outer_gradient_is_passed_on() -> None:
    queries = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    arguments = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0, 1, 1]), torch.ones(3, dtype=torch.float64)
    (once,) = torch.autograd.grad(softmax_loss(queries, *arguments), queries)
    (thrice,) = torch.autograd.grad(3 * softmax_loss(queries, *arguments), queries)
    torch.testing.assert_close(thrice, 3 * once)


@pytest.mark.parametrize("cached", [softmax.CACHED_LOGITS, 1])
def test_extreme_logits_stay_finite(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "CACHED_LOGITS", cached)  # with 1, every logit is a tile of its own
    queries = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    loss = softmax_loss(queries, torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 0]), torch.ones(2))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(2e4)
    assert queries.grad is not None
    torch.testing.assert_close(queries.grad, torch.tensor([[0.0], [-2.0]]))


def test_a_target_without_rivals_costs_nothing() -> None:
    assert softmax_loss(torch.randn(3, 2), torch.randn(1, 2), torch.zeros(3, dtype=torch.long), torch.ones(3)) == 0.0


def test_tiles_in_float32_are_as_exact_as_the_plain_formula() -> None:
    """More columns than whole rows are worked on with, the last tiles smaller than the others."""
    draw = torch.Generator().manual_seed(0)
    queries, candidates = (torch.randn(n, 16, generator=draw).requires_grad_() for n in (700, 5000))
    target, weights = torch.randint(5000, (700,), generator=draw), torch.rand(700, generator=draw)
    bias, shift = torch.randn(5000, generator=draw), torch.randn(700, generator=draw)
    known = torch.randint(5000, (700, 3), generator=draw)
    rows, place = (known != target.unsqueeze(1)).nonzero(as_tuple=True)
    removed = Removed(rows, known[rows, place])
    loss = softmax_loss(queries, candidates, target, weights, bias=bias, target_shift=shift, removed=removed)
    gradients = torch.autograd.grad(loss, [queries, candidates])

    logits = queries.double() @ candidates.double().T + bias
    logits = logits.index_put((torch.arange(700), target), shift.double(), accumulate=True)
    logits = logits.index_put((removed.rows, removed.columns), torch.tensor(-torch.inf, dtype=torch.float64))
    expected = weights.double() @ torch.nn.functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    for gradient, exact in zip(gradients, torch.autograd.grad(expected, [queries, candidates]), strict=True):
        torch.testing.assert_close(gradient, exact, rtol=1e-4, atol=2e-6)  # logits of 30 in float32 are off by 2e-6


@pytest.mark.parametrize(("rows", "columns", "logits"), [(2000, 2000, softmax.CACHED_LOGITS), (2000, 20_000, 1 << 22)])
def test_memory_does_not_hold_all_logits(rows: int, columns: int, logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of whole rows is a megabyte; where columns are cut, at most so many exponentials are held."""
    monkeypatch.setattr(softmax, "HELD_LOGITS", 1 << 22)
    queries, candidates = torch.randn(rows, 2, requires_grad=True), torch.randn(columns, 2)
    with torch.profiler.profile(profile_memory=True) as profile:
        softmax_loss(queries, candidates, torch.arange(rows), torch.ones(rows)).backward()  # type: ignore[no-untyped-call]
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 4 * logits * torch.get_num_threads()


@pytest.mark.parametrize("cached", [softmax.CACHED_LOGITS, 64])
def test_of_candidates_that_are_alike_the_target_is_last(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "CACHED_LOGITS", cached)
    queries, candidates = torch.randn(200, 24), torch.randn(24).expand(90, 24).contiguous()
    ranks = torch.zeros(200, dtype=torch.int32)
    softmax_loss(queries, candidates, torch.arange(200) % 90, torch.ones(200), ranks=ranks)
    assert set(ranks.tolist()) == {90}


@pytest.mark.parametrize("cached", [softmax.CACHED_LOGITS, 1 << 16], ids=["whole rows", "tiles"])
def test_two_threads_give_the_same_gradient_on_every_run(monkeypatch: pytest.MonkeyPatch, cached: int) -> None:
    monkeypatch.setattr(softmax, "CACHED_LOGITS", cached)
    generator = torch.Generator().manual_seed(0)
    queries, candidates = torch.randn(2048, 8, generator=generator), torch.randn(3000, 8, generator=generator)
    target, weights = torch.randint(0, 50, (2048,), generator=generator), torch.rand(2048, generator=generator)
    threads, found = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        for _ in range(10):
            given = queries.clone().requires_grad_(), candidates.clone().requires_grad_()
            found.append(torch.autograd.grad(softmax_loss(*given, target, weights), given))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, first) for gradients in found for one, first in zip(gradients, found[0], strict=True))
