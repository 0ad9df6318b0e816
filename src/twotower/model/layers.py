"""Dense layers of towers and heads, with norm, activation and residual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from twotower.model.dropout import Dropout

Activation = Literal["relu", "gelu", "silu", "tanh"]
Norm = Literal["none", "layer", "batch"]

MAX_WIDTH = 1 << 20
"""Widest layer: wider ones are mistakes, and PyTorch's errors about them are no help."""

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
NORMS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


class HiddenLayer(nn.Module):
    """A dense layer, then norm, activation, optional residual connection and dropout.

    Args:
        inputs: Input width.
        outputs: Output width.
        dropout: Share of the outputs dropped during training.
        activation: Its activation.
        norm: Its norm.
        residual: Add the input if `inputs` equals `outputs`.
    """

    def __init__(
        self, inputs: int, outputs: int, dropout: float, activation: Activation, norm: Norm, residual: bool
    ) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.dense = nn.Linear(inputs, outputs)
        self.norm = NORMS[norm](outputs) if norm in NORMS else nn.Identity()
        self.activation = ACTIVATIONS[activation]()
        self.adds_input = residual and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:
        """`[n, inputs]` to `[n, outputs]`."""
        given: Tensor = self.activation(self.norm(self.dense(inputs)))
        dropped: Tensor = self.dropout(given + inputs if self.adds_input else given)
        return dropped


def are_widths(layers: Sequence[int]) -> bool:
    """Whether all widths are from 1 to `MAX_WIDTH`."""
    return all(1 <= width <= MAX_WIDTH for width in layers)


def dense_stack(
    inputs: int, layers: Sequence[int], dropout: float, activation: Activation, norm: Norm, residual: bool
) -> nn.Sequential:
    """Hidden layers followed by a plain dense layer of the last width; the identity without layers."""
    stack = nn.Sequential()
    for width in layers[:-1]:
        stack.append(HiddenLayer(inputs, width, dropout, activation, norm, residual))
        inputs = width
    for width in layers[-1:]:
        stack.append(nn.Linear(inputs, width))
    return stack


def reset_layers(part: nn.Module) -> None:
    """Reinitialises dense layers to Glorot uniform with zero biases, and norms to the identity."""
    for module in part.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
            module.reset_parameters()
            if isinstance(module, nn.BatchNorm1d):
                module.reset_running_stats()
