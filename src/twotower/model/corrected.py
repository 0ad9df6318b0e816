"""Softmax losses without argument checks, called by `functional` after its checks and by the loss classes."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.model.reduction import Reduction
from twotower.model.softmax import Removed, softmax_loss


def over_catalogue(
    query: Tensor,
    candidates: Tensor,
    target: Tensor,
    *,
    weights: Tensor | None,
    temperature: float | Tensor = 1.0,
    removed: Removed | None,
    label_smoothing: float,
    reduction: Reduction,
    ranks: Tensor | None,
    extra: Tensor | None = None,
) -> Tensor:
    """`functional.full_softmax`, unchecked."""
    query = query.flatten(1)
    return softmax_loss(
        _tempered(query, temperature),
        candidates,
        target,
        _row_weights(query, weights, reduction),
        removed=removed,
        smoothing=label_smoothing,
        ranks=ranks,
        extra=extra,
    )


def over_batch(
    query: Tensor,
    candidates: Tensor,
    target: Tensor,
    *,
    multiplicity: Tensor | None,
    log_probability: Tensor | None,
    weights: Tensor | None,
    temperature: float | Tensor = 1.0,
    mask_same: bool,
    removed: Removed | None,
    hard_negatives: int | None,
    reduction: Reduction,
    ranks: Tensor | None,
    extra: Tensor | None = None,
) -> Tensor:
    """`functional.in_batch_softmax`, unchecked."""
    query = query.flatten(1)
    log_multiplicity = query.new_zeros(len(candidates)) if multiplicity is None else multiplicity.to(query.dtype).log()
    row_weights = _row_weights(query, weights, reduction)
    own = log_multiplicity[target]
    loss = softmax_loss(
        _tempered(query, temperature),
        candidates,
        target,
        row_weights,
        bias=log_multiplicity if log_probability is None else log_multiplicity - log_probability.to(query.dtype),
        target_shift=-own if mask_same else None,
        removed=removed,
        hard_negatives=hard_negatives,
        ranks=ranks,
        extra=extra,
    )
    return loss if mask_same else loss + torch.dot(row_weights, own)  # the target is one of its column's draws


def mixed(log_probability: Tensor, events: int, drawn: int, catalogue: int) -> Tensor:
    """`functional.mixed_log_probability`, unchecked."""
    if drawn == 0:
        return log_probability
    share = drawn / (events + drawn)
    return ((1 - share) * log_probability.exp() + share / catalogue).log()


def _tempered(query: Tensor, temperature: float | Tensor) -> Tensor:
    is_one = not isinstance(temperature, Tensor) and temperature == 1
    return query if is_one else query / temperature


def _row_weights(query: Tensor, weights: Tensor | None, reduction: Reduction) -> Tensor:
    """Weight of each row, `[B]`; for `mean`, divided by their sum."""
    rows = query.new_ones(len(query)) if weights is None else weights.to(query.dtype)
    if reduction == "sum":
        return rows
    return rows / rows.sum().clamp_min(torch.finfo(query.dtype).tiny)
