"""The inverse of a symmetric positive definite matrix, in the memory of the matrix itself and in steps."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.errors import TwoTowerError
from twotower.progress import ReportStep, no_report

BLOCK = 512
"""Rows and columns swept at once: enough for products at full speed, with two panels as wide beside the matrix."""


def invert(matrix: Tensor, step: ReportStep = no_report) -> Tensor:
    """Replaces a symmetric positive definite matrix by its inverse.

    The sweep operator (Goodnight, *A tutorial on the sweep operator*, The American Statistician 1979) is applied to
    blocks of the diagonal, one after the other, on the blocks on and above the diagonal alone. That takes n³
    operations, as Cholesky factors do, nearly all of them in products; it needs no second matrix, and can stop
    between blocks.

    Args:
        matrix: `[n, n]`; only what is on and above the diagonal, and its blocks, is read.
        step: Told the share that is done.

    Returns:
        The matrix, which now holds its inverse.

    Raises:
        TwoTowerError: The matrix is not positive definite, to the precision of its numbers.

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
    for start in range(0, size, BLOCK):  # what was swept is the inverse's negative, on and above the diagonal
        rows = slice(start, start + BLOCK)
        matrix[rows, start:].neg_()
        matrix[rows, :start] = matrix[:start, rows].t()
    return matrix


def _sweep(matrix: Tensor, start: int, stop: int) -> None:
    """Sweeps the block of the diagonal from `start` to `stop`."""
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
        rows = slice(first, min(first + BLOCK, len(panel)))  # in the panel, which lacks the block's own
        below = slice(rows.start + stop - start, rows.stop + stop - start)
        matrix[below, below.start :].addmm_(swept[rows], panel[first:].t(), alpha=-1)
    matrix[:start, own] = swept[:start]
    matrix[own, stop:] = swept[start:].t()
    matrix[own, own] = inverse.neg_()
