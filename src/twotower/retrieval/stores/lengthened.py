"""An extra coordinate that makes all vectors equally long, so that graph search works for dot products.

See `twotower.retrieval.graph`. A query has a zero there, so dot products do not change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

Matrix = npt.NDArray[np.float32]


def longest(embeddings: Tensor) -> float:
    """The length of the longest embedding; 0 if there are none."""
    return float(embeddings.norm(dim=1).max()) if len(embeddings) else 0.0


def lengthened(embeddings: Tensor, length: float) -> Matrix:
    """Embeddings `[n, d + 1]`, all of this length; longer ones keep their length.

    Example:
        >>> import torch
        >>> lengthened(torch.tensor([[3.0, 0.0], [0.0, 5.0]]), 5.0).tolist()
        [[3.0, 0.0, 4.0], [0.0, 5.0, 0.0]]
    """
    rows = embeddings.detach().cpu().numpy().astype(np.float32)
    rest = np.maximum(length**2 - (rows.astype(np.float64) ** 2).sum(axis=1), 0.0)
    return np.ascontiguousarray(np.concatenate([rows, np.sqrt(rest)[:, None].astype(np.float32)], axis=1))


def padded_queries(embeddings: Tensor) -> Matrix:
    """Query embeddings with a zero appended, `[n, d + 1]`."""
    rows = embeddings.detach().cpu().numpy().astype(np.float32)
    return np.ascontiguousarray(np.pad(rows, ((0, 0), (0, 1))))
