"""The losses against plain formulas written here, and what their corrections are for, in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from toy import log_of
from twotower.data import Dataset
from twotower.errors import ConfigError
from twotower.model import FullSoftmax, InBatchSoftmax
from twotower.model.losses import Batch

F64 = torch.float64


def loss_of(
    loss: InBatchSoftmax | FullSoftmax,
    train: Dataset,
    rows: list[int],
    queries: Tensor,
    candidates: Tensor,
    **options: Any,
) -> Tensor:
    """The loss of the events at `rows`; `queries` `[events, d]`, `candidates` `[catalogue, d]`."""
    weights = None if train.weight is None else torch.from_numpy(train.weights[rows]).to(F64)
    batch = Batch(torch.from_numpy(train.query_index[rows]), torch.from_numpy(train.candidate_index[rows]), weights)
    return loss.bind(train, **options)(queries[rows], batch, lambda wanted: candidates[wanted])


def plain_in_batch(
    loss: InBatchSoftmax, train: Dataset, rows: list[int], queries: Tensor, candidates: Tensor
) -> Tensor:
    """Softmax over the B columns of the batch, each column an event's candidate, with repeats."""
    item, user = train.candidate_index[rows], train.query_index[rows]
    share = np.bincount(train.candidate_index, minlength=len(candidates)) / len(train)
    weights = train.weights[rows] if train.weight is not None else np.ones(len(rows))
    known = set(zip(train.query_index.tolist(), train.candidate_index.tolist(), strict=True))
    total = torch.zeros((), dtype=F64)
    for i, row in enumerate(rows):
        logits = candidates[item] @ queries[row]
        if loss.log_q:
            logits = logits - torch.from_numpy(np.log(share[item]))
        columns: dict[int, list[int]] = {}  # by distinct negative, as hard negatives are counted
        for j in range(len(rows)):
            if j == i or (item[j] == item[i] and loss.mask_same):
                continue
            if loss.mask_known and item[j] != item[i] and (user[i], item[j]) in known:
                continue
            columns.setdefault(item[j], []).append(j)
        if loss.hard_negatives is not None:
            own = columns.pop(item[i], [])
            combined = {c: torch.logsumexp(logits[found], 0).item() for c, found in columns.items()}
            kept = sorted(combined, key=lambda c: -combined[c])[: loss.hard_negatives]
            columns = {c: columns[c] for c in kept} | {item[i]: own}
        inside = [i, *itertools.chain.from_iterable(columns.values())]
        total = total + weights[i] * (torch.logsumexp(logits[inside], 0) - logits[i])
    return total / weights.sum() if loss.reduction == "mean" else total


@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 8),
    log_q=st.booleans(),
    mask_same=st.booleans(),
    mask_known=st.booleans(),
    hard_negatives=st.none() | st.integers(1, 4),
    weighted=st.booleans(),
    reduction=st.sampled_from(["mean", "sum"]),
)
def test_every_correction_is_its_plain_formula_over_all_columns(
    seed: int,
    size: int,
    log_q: bool,
    mask_same: bool,
    mask_known: bool,
    hard_negatives: int | None,
    weighted: bool,
    reduction: Any,
) -> None:
    draw = np.random.default_rng(seed)
    pairs = [(int(draw.integers(3)), int(draw.integers(5))) for _ in range(14)]
    weights = draw.uniform(0.1, 2.0, size=14).astype(np.float32).tolist() if weighted else None
    train = log_of(pairs, queries=3, candidates=5, weights=weights)
    rows = draw.permutation(14)[:size].tolist()
    queries = torch.from_numpy(draw.normal(size=(14, 3))).requires_grad_()
    candidates = torch.from_numpy(draw.normal(size=(5, 3))).requires_grad_()
    loss = InBatchSoftmax(log_q, mask_same, mask_known, hard_negatives, reduction)
    expected = plain_in_batch(loss, train, rows, queries, candidates)
    found = loss_of(loss, train, rows, queries, candidates)
    # log p is kept in float32: seven digits
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    expected_gradients = torch.autograd.grad(expected, [queries, candidates], allow_unused=True)
    for gradient, wanted in zip(torch.autograd.grad(found, [queries, candidates]), expected_gradients, strict=True):
        torch.testing.assert_close(
            gradient, torch.zeros_like(gradient) if wanted is None else wanted, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("mask_known", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_full_softmax_is_cross_entropy_over_the_catalogue(
    reduction: Any, mask_known: bool, smoothing: float
) -> None:
    train = log_of([(0, 1), (0, 2), (1, 0), (2, 3)], queries=3, candidates=5, weights=[1.0, 2.0, 0.5, 1.5])
    draw = torch.Generator().manual_seed(0)
    queries, candidates = torch.randn(4, 3, generator=draw, dtype=F64), torch.randn(5, 3, generator=draw, dtype=F64)
    logits = queries @ candidates.T
    if mask_known:
        logits[0, 2] = logits[1, 1] = -torch.inf
    wanted = (~logits.isinf()).to(F64)  # evenly over what is left, then the rest on the chosen one
    wanted = smoothing * wanted / wanted.sum(dim=1, keepdim=True)
    wanted[range(4), train.candidate_index] += 1 - smoothing
    losses = -(wanted * logits.log_softmax(dim=1).masked_fill(logits.isinf(), 0)).sum(dim=1)
    weights = torch.tensor([1.0, 2.0, 0.5, 1.5], dtype=F64)
    expected = (losses * weights).sum() / (weights.sum() if reduction == "mean" else 1)
    found = loss_of(FullSoftmax(mask_known, reduction, smoothing), train, [0, 1, 2, 3], queries, candidates)
    torch.testing.assert_close(found, expected)


def test_with_log_q_a_batch_in_the_shares_of_train_has_the_gradient_of_the_full_softmax() -> None:
    """Σ_b exp(s_b − log p_b) over a batch with n·p_c copies of c is n·Σ_c exp(s_c): only a constant differs."""
    items = [0] * 4 + [1] * 2 + [2] * 1 + [3] * 3
    train = log_of([(i % 3, item) for i, item in enumerate(items)], queries=3, candidates=4)
    draw = torch.Generator().manual_seed(1)
    rows = list(range(10))
    gradients = []
    for loss in (InBatchSoftmax(), FullSoftmax(), InBatchSoftmax(log_q=False)):
        draw.manual_seed(1)
        queries = torch.randn(10, 3, generator=draw, dtype=F64).requires_grad_()
        candidates = torch.randn(4, 3, generator=draw, dtype=F64).requires_grad_()
        value = loss_of(loss, train, rows, queries, candidates)
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, [queries, candidates])]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-7)  # log p in float32
    assert (gradients[2] - gradients[1]).norm() > 0.1 * gradients[1].norm()


def expected_logit_gradient(loss: InBatchSoftmax, joint: np.ndarray, batch_size: int) -> Tensor:
    """Expected gradient with respect to the scores of a tiny world, over all batches, at the true log p(y|x).

    With one-hot queries the candidates' embeddings are the scores: candidate c's are F(·, c).
    """
    queries, items = joint.shape
    counts = np.round(joint * 1000).astype(int)
    train = log_of([(q, c) for q in range(queries) for c in range(items) for _ in range(counts[q, c])], queries, items)
    one_of = {(q, c): int(np.flatnonzero((train.query_index == q) & (train.candidate_index == c))[0])
              for q in range(queries) for c in range(items)}  # fmt: skip
    truth = torch.from_numpy(np.log(joint / joint.sum(axis=1, keepdims=True))).T.contiguous().requires_grad_()
    share = torch.from_numpy(joint.sum(axis=0))
    one_hot = torch.eye(queries, dtype=F64)[torch.from_numpy(train.query_index)]
    total = torch.zeros_like(truth)
    cells = list(one_of)
    for batch in itertools.product(cells, repeat=batch_size):
        chance = float(np.prod([joint[cell] for cell in batch]))
        value = loss_of(loss, train, [one_of[cell] for cell in batch], one_hot, truth, draw_probability=share)
        total += chance * torch.autograd.grad(value, truth)[0]
    return total


JOINT = np.array([[0.30, 0.15, 0.05], [0.10, 0.20, 0.20]])


def test_at_the_truth_the_expected_gradient_vanishes_with_log_q_and_not_without() -> None:
    corrected = expected_logit_gradient(InBatchSoftmax(), JOINT, batch_size=3)
    torch.testing.assert_close(corrected, torch.zeros_like(corrected), rtol=0, atol=1e-7)  # log p in float32
    plain = expected_logit_gradient(InBatchSoftmax(log_q=False), JOINT, batch_size=3)
    by_candidate = plain.sum(dim=1)
    assert plain.abs().max() > 0.01
    # Without the correction the popular candidate's score is pushed down (a positive gradient), the rare one's up.
    assert by_candidate[0] > 0.005
    assert by_candidate[2] < -0.005


def test_masking_the_same_candidate_leaves_a_bias() -> None:
    """Why `mask_same` is off by default."""
    masked = expected_logit_gradient(InBatchSoftmax(mask_same=True), JOINT, batch_size=4).abs().max()
    unmasked = expected_logit_gradient(InBatchSoftmax(mask_same=False), JOINT, batch_size=4).abs().max()
    assert masked > 0.01
    assert unmasked < 1e-7


def test_the_mean_sampled_gradient_approaches_the_full_softmaxs() -> None:
    draw = np.random.default_rng(0)
    popularity = 1 / np.arange(1, 31)
    items = draw.choice(30, p=popularity / popularity.sum(), size=3000)
    train = log_of([(i % 5, int(item)) for i, item in enumerate(items)], queries=5, candidates=30)
    queries = torch.from_numpy(draw.normal(size=(3000, 4)))
    candidates = torch.from_numpy(draw.normal(size=(30, 4))).requires_grad_()

    def gradient(loss: InBatchSoftmax | FullSoftmax, rows: list[int]) -> Tensor:
        return torch.autograd.grad(loss_of(loss, train, rows, queries, candidates), candidates)[0]

    full = gradient(FullSoftmax(), list(range(3000)))
    batches = [draw.integers(3000, size=256).tolist() for _ in range(150)]
    losses = {
        "corrected": InBatchSoftmax(),
        "mixed": InBatchSoftmax(uniform=128),
        "plain": InBatchSoftmax(log_q=False),
    }
    off = {
        name: ((sum(gradient(loss, rows) for rows in batches) / 150 - full).norm() / full.norm()).item()
        for name, loss in losses.items()
    }
    assert off["corrected"] < 0.1  # 38,400 draws: a noise of a few percent, and a bias of order 1 / 256
    assert off["mixed"] < 0.1
    assert off["plain"] > 3 * off["corrected"]


def test_rows_of_no_weight_do_not_count() -> None:
    pairs = [(0, 0), (1, 1), (2, 2), (0, 1)]
    queries, candidates = torch.randn(4, 2, dtype=F64), torch.randn(3, 2, dtype=F64)
    train = log_of(pairs, 3, 3, weights=[1.0, 0.0, 1.0, 1.0])
    without = log_of([(0, 0), (2, 2), (0, 1)], 3, 3, weights=[1.0, 1.0, 1.0])
    torch.testing.assert_close(
        loss_of(FullSoftmax(), train, [0, 1, 2, 3], queries, candidates),
        loss_of(FullSoftmax(), without, [0, 1, 2], queries[[0, 2, 3]], candidates),
    )


def test_hard_negatives_have_to_be_some() -> None:
    with pytest.raises(ConfigError, match="hard_negatives=0"):
        InBatchSoftmax(hard_negatives=0)


def test_all_of_a_label_cannot_be_smoothed_away() -> None:
    with pytest.raises(ConfigError, match=r"label_smoothing=1\.0; expected a share"):
        FullSoftmax(label_smoothing=1.0)
