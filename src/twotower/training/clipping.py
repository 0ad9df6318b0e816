"""Clipping the gradient of a step, of which that of an embedding table may be sparse."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from twotower.features.lookups import coalesced


@torch.no_grad()
def clip_gradient(parameters: Iterable[nn.Parameter], length: float) -> None:
    """Scales the gradient of all parameters together down to this Euclidean length where it is longer.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> clip_gradient([weight], length=1.0)
        >>> weight.grad
        tensor([0.6000, 0.8000])
    """
    gradients: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter.grad.is_sparse:
                parameter.grad = coalesced(parameter.grad)
            gradients.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
    norm = nn.utils.get_total_norm(gradients)
    torch._foreach_mul_(gradients, (length / (norm + 1e-6)).clamp_max(1.0))
