"""Inverts a symmetric positive definite matrix in place and in steps."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.errors import TwoTowerError
from twotower.progress import ReportStep, no_report

BLOCK = 512
"""Rows and columns swept at once: enough for full-speed products; needs two extra panels of this width."""


def invert(matrix: Tensor, step: ReportStep = no_report) -> Tensor:
    """Replaces a symmetric positive definite matrix by its inverse.

    Applies the sweep operator (Goodnight, *A tutorial on the sweep operator*, The American Statistician 1979) to the
    diagonal blocks one by one, updating only blocks on and above the diagonal. This takes n³ operations, as with
    Cholesky factors, nearly all of them in matrix products. It needs no second matrix, and can stop between blocks.

    Args:
        matrix: `[n, n]`; only the upper triangle and the diagonal blocks are read.
        step: Receives the progress.

    Returns:
        The same matrix, which now contains its inverse.

    Raises:
        TwoTowerError: The matrix is not positive definite to the precision of its numbers.

    Example:
        >>> invert(torch.tensor([[5.0, 3.0], [3.0, 2.0]])).round().tolist()
        [[2.0, -3.0], [-3.0, 5.0]]
    """
    size = len(matrix)
    name = f"inverting {size:,} × {size:,} numbers"
    step(name, 0.0)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        _sweep(matrix, start, stop)
        step(name, stop / size)
    for start in range(0, size, BLOCK):  # after sweeping, the upper triangle holds the negated inverse
        rows = slice(start, start + BLOCK)
        matrix[rows, start:].neg_()
        matrix[rows, :start] = matrix[:start, rows].t()
    return matrix


def _sweep(matrix: Tensor, start: int, stop: int) -> None:
    """Sweeps the diagonal block from `start` to `stop`."""
    own = slice(start, stop)
    factor, failed = torch.linalg.cholesky_ex(matrix[own, own])
    if failed:
        raise TwoTowerError(
            f"a matrix of {len(matrix):,} × {len(matrix):,} numbers is not positive definite to their precision"
        )
    inverse = torch.cholesky_inverse(factor)
    panel = torch.cat([matrix[:start, own], matrix[own, stop:].t()])  # the block's columns in all other rows
    swept = panel @ inverse
    for first in range(0, start, BLOCK):
        rows = slice(first, min(first + BLOCK, start))
        matrix[rows, first:start].addmm_(swept[rows], panel[first:start].t(), alpha=-1)
        matrix[rows, stop:].addmm_(swept[rows], panel[start:].t(), alpha=-1)
    for first in range(start, len(panel), BLOCK):
        rows = slice(first, min(first + BLOCK, len(panel)))  # in the panel, which lacks the block's own rows
        below = slice(rows.start + stop - start, rows.stop + stop - start)
        matrix[below, below.start :].addmm_(swept[rows], panel[first:].t(), alpha=-1)
    matrix[:start, own] = swept[:start]
    matrix[own, stop:] = swept[start:].t()
    matrix[own, own] = inverse.neg_()
