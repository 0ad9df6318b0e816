"""Precision of training: which products of matrices are made of fewer bits than float32 has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

Precision = Literal["float32", "tf32", "bf16"]
"""Of the products of matrices in training; see `Trainer`."""


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Inside the block CUDA devices multiply float32 matrices in TF32, where that is the precision.

    Whatever happens, PyTorch's setting is afterwards what it was before.
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
    """Inside the block towers multiply in bfloat16, where that is the precision; parameters stay as they are."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
