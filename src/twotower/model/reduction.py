"""Reduces the losses of a batch's events to one number."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum"]
"""The weighted `mean` over the rows, or the weighted `sum`."""


def reduced(values: Tensor, weights: Tensor | None, reduction: Reduction) -> Tensor:
    """The weighted mean or sum of values `[n]`."""
    if weights is None:
        return values.mean() if reduction == "mean" else values.sum()
    weights = weights.to(values.dtype)
    total = torch.dot(values, weights)
    return total if reduction == "sum" else total / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)
