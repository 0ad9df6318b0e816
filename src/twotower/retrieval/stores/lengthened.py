"""One more number for each vector, which makes all equally long, so that a graph of dot products finds its way.

See `twotower.retrieval.graph`. A query has a zero there, so dot products stay what they were.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

Matrix = npt.NDArray[np.float32]


def longest(embeddings: Tensor) -> float:
    """The length of the longest embedding."""
    return float(embeddings.norm(dim=1).max()) if len(embeddings) else 0.0


def lengthened(embeddings: Tensor, length: float) -> Matrix:
    """Embeddings `[n, d + 1]` of one length; longer ones stay as long as they are.

    Example:
        >>> import torch
        >>> lengthened(torch.tensor([[3.0, 0.0], [0.0, 5.0]]), 5.0).tolist()
        [[3.0, 0.0, 4.0], [0.0, 5.0, 0.0]]
    """
    rows = embeddings.detach().cpu().numpy().astype(np.float32)
    rest = np.maximum(length**2 - (rows.astype(np.float64) ** 2).sum(axis=1), 0.0)
    return np.ascontiguousarray(np.concatenate([rows, np.sqrt(rest)[:, None].astype(np.float32)], axis=1))


def asked(embeddings: Tensor) -> Matrix:
    """Queries `[n, d + 1]`, with a zero at the end."""
    rows = embeddings.detach().cpu().numpy().astype(np.float32)
    return np.ascontiguousarray(np.pad(rows, ((0, 0), (0, 1))))
