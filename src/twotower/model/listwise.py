"""Listwise losses as a function of plain tensors: softmax, ListMLE and pairwise logistic."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from twotower.arguments import checks_arguments
from twotower.errors import ConfigError
from twotower.model.reduction import Reduction, reduced
from twotower.model.tensor_checks import check_relevance, check_weights

ListLoss = Literal["softmax", "list_mle", "pairwise_logistic"]


@checks_arguments
def listwise_loss(
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor | None = None,
    loss: ListLoss = "softmax",
    *,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """A loss that ranks the members of each list by relevance.

    A list whose members are all equally relevant carries no information and does not count; for `softmax`, neither does
    a list without relevant members.

    Args:
        scores: Scores of the members of each list, `[L, n]`.
        relevance: Relevance of each member, at least 0, `[L, n]`.
        mask: Which members exist, `[L, n]`; None if all lists have n.
        loss: `softmax`: the cross-entropy of the softmax of the scores against the normalised relevance (Bruch et
            al., *An analysis of the softmax cross entropy loss for learning-to-rank with binary relevance*, ICTIR
            2019); `list_mle`: the negative log-likelihood of the order by relevance under the Plackett-Luce model (Xia
            et al., *Listwise approach to learning to rank*, ICML 2008), with ties in the given order;
            `pairwise_logistic`: the mean of `log(1 + exp(s_j − s_i))` over the pairs in which i is more relevant than j
            (Burges et al., *Learning to rank using gradient descent*, ICML 2005).
        weights: Weight of each list, `[L]`; None weighs all lists equally.
        reduction: `mean` over the lists that count, weighted; or `sum`.

    Returns:
        A scalar; 0 if no list counts.

    Raises:
        ConfigError: Shapes do not match, relevance or a weight is negative or not finite, or all weights are 0 with
            `mean`.

    Example:
        >>> scores, relevance = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
        >>> round(listwise_loss(scores, relevance).item(), 4)
        0.4076
        >>> round(listwise_loss(scores, relevance, loss="pairwise_logistic").item(), 4)
        0.2201
    """
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    if scores.dim() != 2 or scores.numel() == 0 or not scores.is_floating_point():
        raise ConfigError(
            f"scores is {scores.dtype} {list(scores.shape)}; expected floats [L, n], at least one", field="scores"
        )
    for name, given in (("relevance", relevance), ("mask", mask)):
        if given.shape != scores.shape:
            raise ConfigError(f"{name} is {list(given.shape)}; expected {list(scores.shape)}, as scores")
    if mask.dtype != torch.bool:
        raise ConfigError(f"mask is {mask.dtype}; expected True or False for each member", field="mask")
    check_relevance(relevance, mask)
    check_weights(weights, len(scores), mean=reduction == "mean")
    return listwise_total(scores, relevance, mask, loss, weights, reduction)


def listwise_total(
    scores: Tensor, relevance: Tensor, mask: Tensor, loss: ListLoss, weights: Tensor | None, reduction: Reduction
) -> Tensor:
    """`listwise_loss`, unchecked."""
    relevance = relevance.to(scores.dtype).masked_fill(~mask, 0.0)
    counted = lists_that_count(relevance, mask, loss)
    if not bool(counted.any()):
        return scores.sum() * 0.0
    values = _VALUES[loss](scores[counted], relevance[counted], mask[counted])
    return reduced(values, None if weights is None else weights[counted], reduction)


def lists_that_count(relevance: Tensor, mask: Tensor, loss: ListLoss) -> Tensor:
    """Which lists count, `[L]`; see `listwise_loss`."""
    highest = relevance.masked_fill(~mask, -torch.inf).amax(dim=1)
    lowest = relevance.masked_fill(~mask, torch.inf).amin(dim=1)
    counted = highest > lowest
    return counted & (highest > 0) if loss == "softmax" else counted


def _softmax(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    log_share = scores.masked_fill(~mask, -torch.inf).log_softmax(dim=1).masked_fill(~mask, 0.0)
    return -(relevance * log_share).sum(dim=1) / relevance.sum(dim=1)


def _list_mle(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    order = relevance.masked_fill(~mask, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    sorted_scores, there = scores.gather(1, order), mask.gather(1, order)
    # over each member and those after it
    left = sorted_scores.masked_fill(~there, -torch.inf).flip(1).logcumsumexp(dim=1).flip(1)
    return (left - sorted_scores).masked_fill(~there, 0.0).sum(dim=1)


def _pairwise_logistic(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    pairs = (relevance[:, :, None] > relevance[:, None, :]) & mask[:, :, None] & mask[:, None, :]  # [L, n, n]
    losses = F.softplus(scores[:, None, :] - scores[:, :, None]).masked_fill(~pairs, 0.0)
    return losses.sum(dim=(1, 2)) / pairs.sum(dim=(1, 2))


_VALUES = {"softmax": _softmax, "list_mle": _list_mle, "pairwise_logistic": _pairwise_logistic}
