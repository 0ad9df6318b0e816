"""Uniform draws as negatives, against plain sums over all columns, in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from toy import log_of
from twotower.errors import ConfigError
from twotower.model import InBatchSoftmax, losses
from twotower.model.losses import Batch
from twotower.model.negatives import drawn_uniformly

F64 = torch.float64
JOINT = np.array([[0.30, 0.15, 0.05], [0.10, 0.20, 0.20]])
SHARE = JOINT.sum(axis=0)
WORLD = log_of([(q, c) for q in range(2) for c in range(3) for _ in range(round(JOINT[q, c] * 20))], 2, 3)


def batch_of(events: list[tuple[int, int]]) -> Batch:
    return Batch(*(torch.tensor(side) for side in zip(*events, strict=True)))


@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 5),
    uniform=st.integers(0, 4),
    log_q=st.booleans(),
    mask_same=st.booleans(),
    mask_known=st.booleans(),
)
def test_every_draw_is_a_column(
    seed: int, size: int, uniform: int, log_q: bool, mask_same: bool, mask_known: bool
) -> None:
    draw = np.random.default_rng(seed)
    pairs = [(int(draw.integers(3)), int(draw.integers(6))) for _ in range(20)]
    train = log_of(pairs, queries=3, candidates=7)  # the seventh is never chosen
    events = [pairs[i] for i in draw.integers(20, size=size)]
    drawn = draw.integers(7, size=uniform).tolist()
    queries, candidates = (torch.from_numpy(draw.normal(size=(n, 4))).requires_grad_() for n in (3, 7))

    batch = batch_of(events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "drawn_uniformly", lambda *_: torch.tensor(drawn))
        bound = InBatchSoftmax(log_q, mask_same, mask_known, uniform=uniform).bind(train)
        found = bound(queries[batch.queries], batch, lambda wanted: candidates[wanted])

    share = np.bincount(train.candidate_index, minlength=7) / 20
    mixture = ((size - 1) * share + uniform / 7) / max(1, size - 1 + uniform)
    known = set(pairs)
    expected = torch.zeros((), dtype=F64)
    for i, (who, own) in enumerate(events):
        others = [item for j, (_, item) in enumerate(events) if j != i] + drawn
        logits = [candidates[own] @ queries[who]]
        chances = [mixture[own] if len(others) else 1.0]
        for item in others:
            if not (mask_same and item == own) and not (mask_known and item != own and (who, item) in known):
                logits.append(candidates[item] @ queries[who])
                chances.append(mixture[item])
        corrected = torch.stack(logits) - (torch.tensor(chances, dtype=F64).log() if log_q else 0)
        expected = expected + (corrected.logsumexp(0) - corrected[0]) / size

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # log p is kept in float32
    wanted = torch.autograd.grad(expected, [queries, candidates])
    gradients = torch.autograd.grad(found, [queries, candidates])
    torch.testing.assert_close(gradients, wanted, rtol=1e-5, atol=1e-6)


def expected_gradient_with_uniform(loss: InBatchSoftmax, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Over all batches and draws, with respect to the scores [candidates, queries], at the true log p(y|x)."""
    truth = torch.from_numpy(np.log(JOINT / JOINT.sum(axis=1, keepdims=True))).T.contiguous().requires_grad_()
    bound = loss.bind(WORLD)
    total = torch.zeros_like(truth)
    cells = list(itertools.product(range(2), range(3)))
    for events in itertools.product(cells, repeat=batch_size):
        chance = float(np.prod([JOINT[cell] for cell in events])) / 3**loss.uniform
        batch = batch_of(list(events))
        for drawn in itertools.product(range(3), repeat=loss.uniform):
            monkeypatch.setattr(losses, "drawn_uniformly", lambda *_, drawn=drawn: torch.tensor(drawn))
            value = bound(torch.eye(2, dtype=F64)[batch.queries], batch, lambda wanted: truth[wanted])
            total += chance * torch.autograd.grad(value, truth)[0]
    return total


def test_at_the_truth_the_expected_gradient_vanishes_with_uniform_draws_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    corrected = expected_gradient_with_uniform(InBatchSoftmax(uniform=3), 1, monkeypatch)
    torch.testing.assert_close(corrected, torch.zeros_like(corrected), rtol=0, atol=1e-7)  # log p in float32


def test_at_the_truth_the_expected_gradient_all_but_vanishes_with_mixed_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corrected by the events' share alone it would be 0.02, by (B · p + U / C) / (B + U) 0.005."""
    corrected = expected_gradient_with_uniform(InBatchSoftmax(uniform=2), 2, monkeypatch)
    plain = expected_gradient_with_uniform(InBatchSoftmax(log_q=False, uniform=2), 2, monkeypatch)
    assert corrected.abs().max() < 2e-4
    assert plain.abs().max() > 5e-3


def test_uniform_draws_follow_the_seed_and_reach_the_whole_catalogue() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first = drawn_uniformly(200, 7, torch.device("cpu"))
        torch.manual_seed(5)
        assert torch.equal(drawn_uniformly(200, 7, torch.device("cpu")), first)
    assert set(first.tolist()) == set(range(7))


def test_there_are_no_less_than_no_negatives() -> None:
    with pytest.raises(ConfigError, match="uniform=-1"):
        InBatchSoftmax(uniform=-1)
