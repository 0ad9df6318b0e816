"""The losses of predicted numbers, as a function of plain tensors."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from twotower.errors import ConfigError
from twotower.model.reduction import Reduction, reduced


def pointwise_loss(
    predictions: Tensor,
    targets: Tensor,
    loss: Literal["squared", "huber", "cross_entropy"] = "squared",
    *,
    weights: Tensor | None = None,
    delta: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """How far predictions are from targets.

    Args:
        predictions: `[n]`; for `cross_entropy` logits, before the logistic function.
        targets: `[n]`; for `cross_entropy` probabilities.
        loss: `squared`: `(p − t)²`; `huber`: half of that up to an error of `delta`, and from there on linear (Huber,
            *Robust estimation of a location parameter*, 1964); or `cross_entropy`.
        weights: Weight of each, `[n]`; None where all count the same.
        delta: Of the Huber loss.
        reduction: `mean`, over the sum of the weights; or `sum`.

    Returns:
        A scalar.

    Raises:
        ConfigError: Shapes do not fit each other.

    Example:
        >>> import torch
        >>> pointwise_loss(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]))
        tensor(2.5000)
        >>> pointwise_loss(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]), "huber")
        tensor(1.)
    """
    for name, given in (("targets", targets), ("weights", weights)):
        if given is not None and given.shape != predictions.shape:
            raise ConfigError(f"{name} is {list(given.shape)}; expected {list(predictions.shape)}, one a prediction")
    targets = targets.to(predictions.dtype)
    if loss == "squared":
        values = (predictions - targets).square()
    elif loss == "huber":
        values = F.huber_loss(predictions, targets, reduction="none", delta=delta)
    else:
        values = F.binary_cross_entropy_with_logits(predictions, targets, reduction="none")
    return reduced(values, weights, reduction)
