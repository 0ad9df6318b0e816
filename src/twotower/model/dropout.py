"""Dropout that draws one random byte per number, which on a CPU is far cheaper than drawing a float."""

from __future__ import annotations

from torch import Tensor, nn

from twotower.randomness import uniform_bytes


class Dropout(nn.Module):
    """Zeroes a share of the inputs during training and scales up the rest, so that the mean is unchanged.

    Srivastava et al., *Dropout: a simple way to prevent neural networks from overfitting*, JMLR 2014. The
    share is rounded to a multiple of 1/256, as one 64-bit random number yields eight masks.

    Args:
        share: Share of the inputs to drop, in [0, 1).

    Example:
        >>> import torch
        >>> Dropout(0.5)(torch.ones(4)).unique().tolist() in ([0.0], [2.0], [0.0, 2.0])
        True
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.dropped = min(round(share * 256), 255)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs of any shape; unchanged outside training."""
        if not self.training or self.dropped == 0:
            return inputs
        kept = uniform_bytes(inputs.shape, inputs.device) >= self.dropped
        return inputs * kept.to(inputs.dtype).mul_(256 / (256 - self.dropped))

    def extra_repr(self) -> str:
        """The share, for `print(model)`."""
        return f"share={self.share}"
