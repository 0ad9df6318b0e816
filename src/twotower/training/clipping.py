"""Gradient clipping, with sparse gradients of embedding tables."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from twotower.features.lookups import Table, coalesced
from twotower.ranks import ALONE, Ranks


@torch.no_grad()
def clip_gradient(parameters: Iterable[nn.Parameter], length: float, ranks: Ranks = ALONE) -> None:
    """Scales the gradient of all parameters, taken as one vector, down to a Euclidean norm of at most `length`.

    Args:
        parameters: The model's parameters; for a sharded table, each rank has the gradient of the rows that it holds.
        length: The maximum norm.
        ranks: The ranks that train together.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> clip_gradient([weight], length=1.0)
        >>> weight.grad
        tensor([0.6000, 0.8000])
    """
    gradients: list[Tensor] = []
    held: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter.grad.is_sparse:
                parameter.grad = coalesced(parameter.grad)
            values = parameter.grad.values() if parameter.grad.is_sparse else parameter.grad
            is_shared = isinstance(parameter, Table) and parameter.shard is not None
            (held if is_shared else gradients).append(values)
    norm = nn.utils.get_total_norm(gradients)
    if held:
        of_all = ranks.sum(nn.utils.get_total_norm(held).square())
        norm = (norm.square() + of_all).sqrt()
    gradients += held
    torch._foreach_mul_(gradients, (length / (norm + 1e-6)).clamp_max(1.0))
