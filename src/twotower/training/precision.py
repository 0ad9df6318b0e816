"""Training precision: which matrix products use fewer bits than float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

Precision = Literal["float32", "tf32", "bf16"]
"""Precision of matrix products in training; see `Trainer`."""


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """If the precision is `tf32`, CUDA devices multiply float32 matrices in TF32 in the block.

    PyTorch's setting is always restored afterwards.
    """
    if precision != "tf32":
        yield
        return
    setting = torch.backends.cuda.matmul
    before = setting.fp32_precision
    setting.fp32_precision = "tf32"
    try:
        yield
    finally:
        setting.fp32_precision = before


def towers_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """If the precision is `bf16`, towers multiply in bfloat16 in the block; parameters stay in float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
