"""Uniform draws and remembered events as negatives, against plain sums over all columns, in float64."""

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
    memory=st.integers(0, 12),
    log_q=st.booleans(),
    mask_same=st.booleans(),
    mask_known=st.booleans(),
)
def test_every_draw_is_a_column(
    seed: int, size: int, uniform: int, memory: int, log_q: bool, mask_same: bool, mask_known: bool
) -> None:
    """Three batches; the third's loss, its negatives being its own, the drawn and the remembered ones."""
    draw = np.random.default_rng(seed)
    pairs = [(int(draw.integers(3)), int(draw.integers(6))) for _ in range(20)]
    train = log_of(pairs, queries=3, candidates=7)  # the seventh is never chosen
    steps = [[pairs[i] for i in draw.integers(20, size=size)] for _ in range(3)]
    drawn = [draw.integers(7, size=uniform).tolist() for _ in range(3)]
    queries = torch.from_numpy(draw.normal(size=(3, 4))).requires_grad_()
    tables = [torch.from_numpy(draw.normal(size=(7, 4))).requires_grad_() for _ in range(3)]

    loss = InBatchSoftmax(log_q, mask_same, mask_known, uniform=uniform, memory=memory)
    bound = loss.bind(train)
    coming = iter(drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "drawn_uniformly", lambda *_: torch.tensor(next(coming)))
        for events, table in zip(steps, tables, strict=True):
            batch = batch_of(events)
            found = bound(queries[batch.queries], batch, lambda wanted, table=table: table[wanted])  # type: ignore[misc]

    remembered = [(step, item) for step in (0, 1) for _, item in steps[step]][2 * size - min(memory, 2 * size) :]
    latest = {item: tables[step][item].detach() for step, item in remembered}
    fresh = {item: tables[2][item] for item in [item for _, item in steps[2]] + drawn[2]}
    embedding = latest | fresh
    share = np.bincount(train.candidate_index, minlength=7) / 20
    events_drawn = size - 1 + len(remembered)
    mixture = (events_drawn * share + uniform / 7) / max(1, events_drawn + uniform)
    known = set(pairs)
    expected = torch.zeros((), dtype=F64)
    for i, (who, own) in enumerate(steps[2]):
        others = [item for j, (_, item) in enumerate(steps[2]) if j != i]
        others += drawn[2] + [item for _, item in remembered]
        logits = [embedding[own] @ queries[who]]
        chances = [mixture[own] if len(others) else 1.0]
        for item in others:
            if not (mask_same and item == own) and not (mask_known and item != own and (who, item) in known):
                logits.append(embedding[item] @ queries[who])
                chances.append(mixture[item])
        corrected = torch.stack(logits) - (torch.tensor(chances, dtype=F64).log() if log_q else 0)
        expected = expected + (corrected.logsumexp(0) - corrected[0]) / size

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # log p is kept in float32
    leaves = [queries, *tables]
    wanted = torch.autograd.grad(expected, leaves, allow_unused=True)
    gradients = torch.autograd.grad(found, leaves, allow_unused=True)
    for gradient, plain in zip(gradients, wanted, strict=True):
        assert (gradient is None) == (plain is None)
        if gradient is not None and plain is not None:
            torch.testing.assert_close(gradient, plain, rtol=1e-5, atol=1e-6)


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


def test_at_the_truth_the_queries_expected_gradient_vanishes_with_a_memory() -> None:
    """With one-hot candidates the queries' embeddings are the scores; only they learn from what is remembered."""
    truth = torch.from_numpy(np.log(JOINT / JOINT.sum(axis=1, keepdims=True))).requires_grad_()
    cells = list(itertools.product(range(2), range(3)))
    expected = {}
    for log_q in (True, False):
        total = torch.zeros_like(truth)
        bound = InBatchSoftmax(log_q, memory=2).bind(WORLD)
        for before in itertools.product(range(3), repeat=2):
            for events in itertools.product(cells, repeat=2):
                bound.start_epoch()
                for batch in (batch_of([(0, item) for item in before]), batch_of(list(events))):
                    value = bound(truth[batch.queries], batch, lambda wanted: torch.eye(3, dtype=F64)[wanted])
                chance = float(np.prod([SHARE[item] for item in before]) * np.prod([JOINT[cell] for cell in events]))
                total += chance * torch.autograd.grad(value, truth)[0]
        expected[log_q] = total
    torch.testing.assert_close(expected[True], torch.zeros_like(truth), rtol=0, atol=1e-7)  # log p in float32
    assert expected[False].abs().max() > 0.01


def test_a_memory_is_empty_at_the_start_of_an_epoch() -> None:
    queries, candidates = torch.randn(2, 3, dtype=F64), torch.randn(3, 3, dtype=F64)
    bound = InBatchSoftmax(memory=10).bind(WORLD)
    values = []
    for restart in (False, False, True):
        if restart:
            bound.start_epoch()
        batch = batch_of([(0, 0), (1, 1)])
        values.append(bound(queries[batch.queries], batch, lambda wanted: candidates[wanted]).item())
    assert values[2] == values[0] != values[1]


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
    with pytest.raises(ConfigError, match="memory=-1"):
        InBatchSoftmax(memory=-1)
