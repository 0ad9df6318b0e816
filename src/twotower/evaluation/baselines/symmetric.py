"""The inverse of a symmetric positive definite matrix, in the memory of the matrix itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from twotower.errors import TwoTowerError
from twotower.progress import ReportStep, no_report

MIRRORED_ROWS = 512
"""Rows mirrored at once."""


def invert(matrix: npt.NDArray[np.float32], step: ReportStep = no_report) -> npt.NDArray[np.float32]:
    """Replaces a symmetric positive definite matrix by its inverse, by Cholesky factors.

    It runs in as many threads as PyTorch does, and needs no memory but the matrix's.

    Args:
        matrix: `[n, n]`, row after row; only what is on and above the diagonal is read.
        step: Told what is done next.

    Returns:
        The matrix, which now holds its inverse.

    Raises:
        TwoTowerError: The matrix is not positive definite, to the precision of its numbers.

    Example:
        >>> invert(np.array([[4, 0], [0, 16]], dtype=np.float32)).tolist()
        [[0.25, 0.0], [0.0, 0.0625]]
    """
    columns = matrix.T  # LAPACK goes down columns: what is above the diagonal lies below it there
    size = f"{len(matrix):,} × {len(matrix):,} numbers"
    with threadpool_limits(torch.get_num_threads(), user_api="blas"):
        step(f"factorising {size}")
        _, failed = lapack.spotrf(columns, lower=1, clean=0, overwrite_a=1)
        if not failed:
            step(f"inverting {size}")
            _, failed = lapack.spotri(columns, lower=1, overwrite_c=1)
    if failed:
        raise TwoTowerError(f"a matrix of {size} is not positive definite to the precision of float32")
    for start in range(0, len(matrix), MIRRORED_ROWS):
        rows = slice(start, start + MIRRORED_ROWS)
        matrix[rows, :start] = matrix[:start, rows].T
        corner = matrix[rows, rows]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T
    return matrix
