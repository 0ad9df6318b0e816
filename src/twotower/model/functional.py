"""Losses as functions of plain tensors, for your own training loops.

The softmax losses have the same values, gradients and memory bounds as the loss classes: logits are computed a few rows
at a time, so the full B × C matrix is never in memory (`twotower.model.softmax`). They are differentiable once with
respect to `query`, `candidates` and a `temperature` tensor; corrections and weights are constants. They compute in the
type of the embeddings: float32 or float64.

Arguments are checked on every call; their values only if they are on the CPU, as reading them from another device would
force a synchronisation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from twotower.arguments import checked, checks_arguments, refuse_below
from twotower.errors import ConfigError
from twotower.model import corrected
from twotower.model.listwise import listwise_loss
from twotower.model.pointwise import pointwise_loss
from twotower.model.reduction import Reduction
from twotower.model.softmax import Removed
from twotower.model.tensor_checks import (
    check_extra,
    check_log_probability,
    check_multiplicity,
    check_removed,
    check_shapes,
    check_target,
    check_temperature,
    check_weights,
)

__all__ = [
    "Distinct",
    "Reduction",
    "Removed",
    "distinct",
    "full_softmax",
    "in_batch_softmax",
    "listwise_loss",
    "mixed_log_probability",
    "pointwise_loss",
    "sampled_softmax",
]


class Distinct(NamedTuple):
    """The distinct candidates of a batch.

    Attributes:
        candidates: Their ids, int64 `[C]`, ascending.
        target: Column of each event's own candidate, int64 `[B]`.
        multiplicity: How often each was drawn, int64 `[C]`.
    """

    candidates: Tensor
    target: Tensor
    multiplicity: Tensor


@checks_arguments
def distinct(events: Tensor, drawn: Tensor | None = None) -> Distinct:
    """The distinct candidates among a batch's events and extra negatives, so that each is embedded once.

    Args:
        events: Id of each event's candidate, int64 `[B]`.
        drawn: Ids of extra negatives, `[U]`.

    Raises:
        ConfigError: Ids are not integers, or not one-dimensional.

    Example:
        >>> distinct(torch.tensor([7, 3, 7]))
        Distinct(candidates=tensor([3, 7]), target=tensor([1, 0, 1]), multiplicity=tensor([1, 2]))
    """
    for name, ids in (("events", events), ("drawn", drawn)):
        if ids is not None and (ids.dim() != 1 or ids.is_floating_point() or ids.dtype == torch.bool):
            raise ConfigError(
                f"distinct: {name} is {ids.dtype} {list(ids.shape)}; expected ids, whole numbers [n]", field=name
            )
    everything = events if drawn is None else torch.cat([events, drawn])
    found, place, multiplicity = torch.unique(everything, return_inverse=True, return_counts=True)
    return Distinct(found, place[: len(events)], multiplicity)


def full_softmax(
    query: Tensor,
    candidates: Tensor,
    target: Tensor,
    *,
    weights: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    removed: Removed | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    ranks: Tensor | None = None,
    extra: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of each row's candidate against all candidates: `−log softmax(q·cᵀ / T)`.

    Args:
        query: Query embeddings, `[B, d]`; or several of each query, `[B, K, d]`: the best one scores.
        candidates: Embeddings of the whole catalogue, `[C, d]`.
        target: Column of each row's chosen candidate, int64 `[B]`.
        weights: Weight of each row, `[B]`; None weighs all rows equally.
        temperature: Divisor of the scores, above 0; a tensor may be learned.
        removed: Logits to exclude; none may be a row's target.
        label_smoothing: Share of each row's target that is spread evenly over all candidates not removed (Szegedy et
            al., *Rethinking the Inception architecture for computer vision*, CVPR 2016).
        reduction: `mean`, weighted; or `sum`.
        ranks: An integer tensor `[n]`, n ≤ B, that receives the ranks of the first n rows' candidates: how many columns
            are at least as probable, the row's own included.
        extra: Further logits of each row alone, −∞ for none, `[B, n]`, such as `q·c / T + log w` of candidates that
            were shown and not chosen. Complete logits: nothing is added to them, and they are differentiable.

    Returns:
        A scalar.

    Raises:
        ConfigError: Shapes do not match, a weight is negative or not finite, all weights are 0 with `mean`, a number is
            out of range, a removed logit is a target or out of order, or an extra logit is NaN or +∞.

    Example:
        >>> query = torch.eye(2, requires_grad=True)
        >>> loss = full_softmax(query, torch.eye(2), torch.tensor([0, 1]))
        >>> round(loss.item(), 4)  # log(1 + 1/e)
        0.3133
        >>> loss.backward()
    """
    _check(query, candidates, target, weights, temperature, removed, reduction, ranks, extra)
    if not 0 <= checked("softmax", "label_smoothing", label_smoothing, float) < 1:
        raise ConfigError(f"label_smoothing={label_smoothing}; expected a share in [0, 1)", field="label_smoothing")
    return corrected.over_catalogue(
        query,
        candidates,
        target,
        weights=weights,
        temperature=temperature,
        removed=removed,
        label_smoothing=label_smoothing,
        reduction=reduction,
        ranks=ranks,
        extra=extra,
    )


def in_batch_softmax(
    query: Tensor,
    candidates: Tensor,
    target: Tensor | None = None,
    *,
    multiplicity: Tensor | None = None,
    log_probability: Tensor | None = None,
    weights: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    mask_same: bool = False,
    removed: Removed | None = None,
    hard_negatives: int | None = None,
    reduction: Reduction = "mean",
    ranks: Tensor | None = None,
    extra: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of each row's candidate against those of the batch: `−log softmax(q·cᵀ / T − log p)`.

    The `log p` correction applies to every column, the chosen one included (Yi et al., *Sampling-bias-corrected neural
    modeling for large corpus item recommendations*, RecSys 2019). Columns are the batch's distinct candidates, each
    counted as often as it was drawn, so loss and gradient equal those of a softmax over all B columns.

    Args:
        query: Query embeddings, `[B, d]`; or several of each query, `[B, K, d]`: the best one scores.
        candidates: Candidate embeddings, `[C, d]`.
        target: Column of each row's chosen candidate, int64 `[B]`; None: column i for row i.
        multiplicity: How often each column was drawn, `[C]`; None: once.
        log_probability: Log of the probability that a draw yields the column, `[C]`, such as the log of its share of
            the training events; None applies no correction, so popular candidates are pushed down.
        weights: Weight of each row, `[B]`; None weighs all rows equally.
        temperature: Divisor of the scores, above 0; a tensor may be learned.
        mask_same: Exclude the other draws of the row's own candidate.
        removed: Further logits to exclude; none may be a row's target.
        hard_negatives: Keep only this many distinct negatives per row, those with the highest corrected logits.
        reduction: `mean`, weighted; or `sum`.
        ranks: An integer tensor `[n]`, n ≤ B, that receives the ranks of the first n rows' candidates: how many columns
            are at least as probable, the row's own included.
        extra: Further logits of each row alone, −∞ for none, `[B, n]`, such as `q·c / T + log w` of candidates that
            were shown and not chosen. Complete logits: nothing is added to them, and they are differentiable.

    Returns:
        A scalar.

    Raises:
        ConfigError: Shapes do not match, a weight is negative or not finite, all weights are 0 with `mean`, a number is
            out of range, a removed logit is a target or out of order, or an extra logit is NaN or +∞.

    Example:
        >>> events = torch.tensor([7, 3, 7])  # what each event chose
        >>> embedding = torch.nn.Embedding(10, 4)
        >>> share = torch.full((10,), 0.1)  # of each candidate in the training events
        >>> columns = distinct(events)
        >>> loss = in_batch_softmax(
        ...     torch.ones(3, 4),
        ...     embedding(columns.candidates),
        ...     columns.target,
        ...     multiplicity=columns.multiplicity,
        ...     log_probability=share.log()[columns.candidates],
        ... )
        >>> loss.backward()
        >>> embedding.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
        [3, 7]
    """
    if target is None:
        target = torch.arange(len(query), device=query.device)
    _check(query, candidates, target, weights, temperature, removed, reduction, ranks, extra)
    check_multiplicity(multiplicity, len(candidates))
    check_log_probability(log_probability, len(candidates))
    if checked("softmax", "hard_negatives", hard_negatives, int | None) is not None:
        refuse_below(1, "softmax", hard_negatives=hard_negatives or 0)
    return corrected.over_batch(
        query,
        candidates,
        target,
        multiplicity=multiplicity,
        log_probability=log_probability,
        weights=weights,
        temperature=temperature,
        mask_same=mask_same,
        removed=removed,
        hard_negatives=hard_negatives,
        reduction=reduction,
        ranks=ranks,
        extra=extra,
    )


def sampled_softmax(
    query: Tensor,
    candidates: Tensor,
    target: Tensor,
    *,
    multiplicity: Tensor,
    log_probability: Tensor,
    drawn: int,
    catalogue: int,
    weights: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    mask_same: bool = False,
    removed: Removed | None = None,
    hard_negatives: int | None = None,
    reduction: Reduction = "mean",
    ranks: Tensor | None = None,
    extra: Tensor | None = None,
) -> Tensor:
    """`in_batch_softmax` with extra negatives drawn uniformly from the catalogue.

    This makes rare candidates negatives too (Yang et al., *Mixed negative sampling for learning two-tower neural
    networks in recommendations*, companion of WWW 2020). The correction uses the mixture that a row's other columns are
    drawn from: `mixed_log_probability` of B − 1 events and `drawn` uniform draws.

    Args:
        query: Query embeddings, `[B, d]`; or several of each query, `[B, K, d]`: the best one scores.
        candidates: Embeddings of the distinct candidates of the events and of the draws, `[C, d]`.
        target: Column of each row's chosen candidate, int64 `[B]`.
        multiplicity: How often each column was drawn, by events and uniformly, `[C]`.
        log_probability: Log of the probability that an event names the column, `[C]`.
        drawn: How many candidates were drawn uniformly for the batch.
        catalogue: How many candidates they were drawn from.
        weights: As in `in_batch_softmax`, like all of the following.
        temperature: Divisor of the scores.
        mask_same: Exclude the other draws of the row's own candidate.
        removed: Further logits to exclude.
        hard_negatives: Keep only this many distinct negatives per row.
        reduction: `mean` or `sum`.
        ranks: A tensor that receives the ranks.
        extra: Further logits of each row alone.

    Returns:
        A scalar.

    Raises:
        ConfigError: As `in_batch_softmax`.

    Example:
        >>> events, drawn = torch.tensor([7, 3, 7]), torch.tensor([0, 3])
        >>> columns, share = distinct(events, drawn), torch.full((10,), 0.1)
        >>> loss = sampled_softmax(
        ...     torch.ones(3, 4),
        ...     torch.ones(3, 4),
        ...     columns.target,
        ...     multiplicity=columns.multiplicity,
        ...     log_probability=share.log()[columns.candidates],
        ...     drawn=2,
        ...     catalogue=10,
        ... )
        >>> round(loss.item(), 4)  # five columns, all alike: log 5
        1.6094
    """
    return in_batch_softmax(
        query,
        candidates,
        target,
        multiplicity=multiplicity,
        log_probability=mixed_log_probability(log_probability, len(query) - 1, drawn, catalogue),
        weights=weights,
        temperature=temperature,
        mask_same=mask_same,
        removed=removed,
        hard_negatives=hard_negatives,
        reduction=reduction,
        ranks=ranks,
        extra=extra,
    )


@checks_arguments
def mixed_log_probability(log_probability: Tensor, events: int, drawn: int, catalogue: int) -> Tensor:
    """Log probability of each candidate in a mixture of events and uniform draws, `[C]`.

    Args:
        log_probability: Log of the probability that an event names each candidate, `[C]`.
        events: How many of a row's other columns come from events: B − 1, as the row's own event is not a draw.
        drawn: How many come from uniform draws.
        catalogue: How many candidates the uniform draws are from.

    Raises:
        ConfigError: A logarithm is NaN or above 0, a number is below 0, or the catalogue is empty.

    Example:
        >>> mixed_log_probability(torch.tensor([0.5, 0.0]).log(), events=1, drawn=1, catalogue=4).exp()
        tensor([0.3750, 0.1250])
    """
    refuse_below(0, "mixed_log_probability", events=events, drawn=drawn)
    refuse_below(1, "mixed_log_probability", catalogue=catalogue)
    check_log_probability(log_probability, len(log_probability), mixed=True)
    return corrected.mixed(log_probability, events, drawn, catalogue)


def _check(
    query: Tensor,
    candidates: Tensor,
    target: Tensor,
    weights: Tensor | None,
    temperature: float | Tensor,
    removed: Removed | None,
    reduction: Reduction,
    ranks: Tensor | None,
    extra: Tensor | None,
) -> None:
    """Checks the arguments that all softmax losses share; see `twotower.model.tensor_checks`."""
    check_shapes(query, candidates, target, ranks)
    check_target(target, len(candidates))
    checked("softmax", "reduction", reduction, Reduction)
    check_weights(weights, len(query), mean=reduction == "mean")
    check_temperature(temperature, len(query))
    check_removed(removed, target, len(candidates))
    check_extra(extra, query)
