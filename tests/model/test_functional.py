"""The softmax losses as functions of plain tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from toy import groups_log
from twotower.errors import ConfigError
from twotower.model import FullSoftmax, InBatchSoftmax, Loss
from twotower.model.functional import Removed, distinct, full_softmax, in_batch_softmax, sampled_softmax
from twotower.model.losses import Batch
from twotower.model.tensor_checks import (
    check_log_probability,
    check_multiplicity,
    check_removed,
    check_shapes,
    check_target,
    check_temperature,
    check_weights,
)

B, C, D = 12, 9, 4
LOG = groups_log(400)
EVENTS = torch.from_numpy(np.random.default_rng(0).integers(C, size=B))
SHARE = torch.from_numpy(np.random.default_rng(1).dirichlet(np.ones(C)))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def over_all_columns(query: Tensor, catalogue: Tensor, others: Tensor, probability: Tensor) -> Tensor:
    """The plain formula: B + U columns, a candidate in as many as it was drawn."""
    columns = torch.cat([EVENTS, others])
    logits = query @ catalogue[columns].T / 0.5 - probability[columns].log()
    return F.cross_entropy(logits, torch.arange(B))


def test_in_batch_is_the_plain_formula_over_all_columns() -> None:
    query, catalogue, none = drawn(B, D).requires_grad_(), drawn(C, D, seed=1).requires_grad_(), EVENTS[:0]
    columns = distinct(EVENTS)
    found = in_batch_softmax(
        query,
        catalogue[columns.candidates],
        columns.target,
        multiplicity=columns.multiplicity,
        log_probability=SHARE.log()[columns.candidates],
        temperature=0.5,
    )
    expected = over_all_columns(query, catalogue, none, SHARE)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(loss, (query, catalogue)) for loss in (found, expected))
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other)


def test_a_row_s_own_column_is_its_target_by_default() -> None:
    query, candidates = drawn(B, D), drawn(B, D, seed=1)
    expected = F.cross_entropy(query @ candidates.T, torch.arange(B))
    torch.testing.assert_close(in_batch_softmax(query, candidates), expected)


def test_sampled_is_the_plain_formula_with_the_mixture_s_probabilities() -> None:
    query, catalogue, others = drawn(B, D), drawn(C, D, seed=1), torch.tensor([0, 5, 5])
    columns = distinct(EVENTS, others)
    found = sampled_softmax(
        query,
        catalogue[columns.candidates],
        columns.target,
        multiplicity=columns.multiplicity,
        log_probability=SHARE.log()[columns.candidates],
        drawn=3,
        catalogue=C,
        temperature=0.5,
    )
    mixture = ((B - 1) * SHARE + 3 / C) / (B - 1 + 3)
    torch.testing.assert_close(found, over_all_columns(query, catalogue, others, mixture))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_full_is_weighted_cross_entropy(reduction: str) -> None:
    query, catalogue, weights = drawn(B, D), drawn(C, D, seed=1), drawn(B, seed=2).abs()
    rows = F.cross_entropy(query @ catalogue.T, EVENTS, reduction="none", label_smoothing=0.2) * weights
    expected = rows.sum() / (weights.sum() if reduction == "mean" else 1)
    found = full_softmax(query, catalogue, EVENTS, weights=weights, label_smoothing=0.2, reduction=reduction)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)


def test_removed_logits_have_no_part() -> None:
    query, catalogue = drawn(2, D), drawn(C, D, seed=1)
    target, out = torch.tensor([1, 1]), Removed(torch.tensor([0, 1]), torch.tensor([3, 4]))
    logits = query @ catalogue.T
    logits[[0, 1], [3, 4]] = -torch.inf
    torch.testing.assert_close(full_softmax(query, catalogue, target, removed=out), F.cross_entropy(logits, target))


@pytest.mark.parametrize(
    "loss",
    [
        lambda query, candidates, t: full_softmax(query, candidates, EVENTS, temperature=t, label_smoothing=0.1),
        lambda query, candidates, t: in_batch_softmax(
            query, candidates, EVENTS, log_probability=SHARE.log(), temperature=t, mask_same=True
        ),
        lambda query, candidates, t: sampled_softmax(
            query,
            candidates,
            EVENTS,
            multiplicity=torch.arange(1, C + 1),
            log_probability=SHARE.log(),
            drawn=5,
            catalogue=50,
            temperature=t,
        ),
    ],
    ids=["full", "in batch", "sampled"],
)
def test_gradients_are_those_of_the_values(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    given = drawn(B, D), drawn(C, D, seed=1), torch.tensor(0.7, dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, tuple(tensor.requires_grad_() for tensor in given))


@pytest.mark.parametrize("loss", [InBatchSoftmax(), InBatchSoftmax(mask_same=True, reduction="sum"), FullSoftmax()])
def test_the_loss_classes_have_the_same_values_to_the_bit(loss: Loss) -> None:
    draw = torch.Generator().manual_seed(0)
    query, catalogue = (torch.randn(count, D, generator=draw) for count in (64, LOG.candidates.num_rows))
    batch = Batch(*(torch.from_numpy(rows[:64]) for rows in (LOG.query_index, LOG.candidate_index)))
    bound = loss.bind(LOG)
    expected = bound(query, batch, lambda rows: catalogue[rows])
    if isinstance(loss, InBatchSoftmax):
        columns = distinct(batch.candidates)
        counts = torch.from_numpy(LOG.candidate_counts()).double()
        found = in_batch_softmax(
            query,
            catalogue[columns.candidates],
            columns.target,
            multiplicity=columns.multiplicity,
            log_probability=(counts / counts.sum()).log().float()[columns.candidates],
            mask_same=loss.mask_same,
            reduction=loss.reduction,
        )
    else:
        found = full_softmax(query, catalogue, batch.candidates)
    assert found.item() == expected.item()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: full_softmax(drawn(B, D), drawn(C, D + 1), EVENTS), r"\[12, 4\] and candidates \[9, 5\]"),
        (lambda: full_softmax(drawn(B, D), drawn(C, D), EVENTS[:3]), r"target is \[3\]; expected \[12\]"),
        (lambda: in_batch_softmax(drawn(B, D), drawn(B, D), multiplicity=torch.ones(3)), r"multiplicity is \[3\]"),
        (
            lambda: full_softmax(drawn(B, D), drawn(C, D), EVENTS, removed=Removed(torch.tensor([0]), EVENTS[:1])),
            "a row's target",
        ),
        (
            lambda: full_softmax(
                drawn(2, D), drawn(C, D), EVENTS[:2] * 0, removed=Removed(torch.tensor([1, 0]), torch.tensor([3, 3]))
            ),
            "out of order",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_values_on_a_device_are_not_read_so_that_it_need_not_be_waited_for() -> None:
    """Tensors on PyTorch's meta device have no values: reading one is an error."""
    rows, columns, target = (torch.empty(3, dtype=torch.int64, device="meta") for _ in range(3))
    query, candidates = (torch.empty(3, D, device="meta") for _ in range(2))
    check_shapes(query, candidates, target)
    check_target(target, 3)
    check_weights(torch.empty(3, device="meta"), 3, mean=True)
    check_temperature(torch.empty(1, device="meta"), 3)
    check_multiplicity(torch.empty(3, device="meta"), 3)
    check_log_probability(torch.empty(3, device="meta"), 3)
    check_removed(Removed(rows, columns), target, 3)
