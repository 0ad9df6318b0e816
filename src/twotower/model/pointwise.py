"""Losses of predicted numbers, as a function of plain tensors."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from twotower.arguments import checks_arguments
from twotower.errors import ConfigError
from twotower.model.reduction import Reduction, reduced
from twotower.model.tensor_checks import check_targets, check_weights

PointLoss = Literal["squared", "huber", "cross_entropy"]


@checks_arguments
def pointwise_loss(
    predictions: Tensor,
    targets: Tensor,
    loss: PointLoss = "squared",
    *,
    weights: Tensor | None = None,
    delta: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """The squared, Huber or cross-entropy loss of predictions.

    Args:
        predictions: Predictions, `[n]`; for `cross_entropy`, logits before the logistic function.
        targets: Targets, `[n]`; for `cross_entropy`, probabilities.
        loss: `squared`: `(p − t)²`; `huber`: half of that up to an error of `delta`, linear beyond (Huber, *Robust
            estimation of a location parameter*, 1964); or `cross_entropy`.
        weights: Weight of each prediction, `[n]`; None weighs all equally.
        delta: Threshold of the Huber loss.
        reduction: `mean`, weighted; or `sum`.

    Returns:
        A scalar.

    Raises:
        ConfigError: Shapes do not match, a target is not finite, or not a probability for `cross_entropy`, `delta` is
            not above 0, a weight is negative or not finite, or all weights are 0 with `mean`.

    Example:
        >>> import torch
        >>> pointwise_loss(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]))
        tensor(2.5000)
        >>> pointwise_loss(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]), "huber")
        tensor(1.)
    """
    if predictions.dim() != 1 or len(predictions) == 0 or not predictions.is_floating_point():
        raise ConfigError(
            f"predictions is {predictions.dtype} {list(predictions.shape)}; expected floats [n], at least one",
            field="predictions",
        )
    if targets.shape != predictions.shape:
        raise ConfigError(
            f"targets is {list(targets.shape)}; expected {list(predictions.shape)}, one per prediction", field="targets"
        )
    if not delta > 0:
        raise ConfigError(f"delta={delta}; expected a number above 0", field="delta")
    check_targets(targets, probabilities=loss == "cross_entropy")
    check_weights(weights, len(predictions), mean=reduction == "mean")
    return reduced(pointwise_values(predictions, targets, loss, delta), weights, reduction)


def pointwise_values(predictions: Tensor, targets: Tensor, loss: PointLoss, delta: float) -> Tensor:
    """The loss of each prediction, `[n]`, unchecked; see `pointwise_loss`."""
    targets = targets.to(predictions.dtype)
    if loss == "squared":
        return (predictions - targets).square()
    if loss == "huber":
        return F.huber_loss(predictions, targets, reduction="none", delta=delta)
    return F.binary_cross_entropy_with_logits(predictions, targets, reduction="none")
