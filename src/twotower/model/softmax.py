"""The softmax over candidates: its exact loss and gradient in one pass, without B × C logits in memory.

Rows are processed in chunks that fit the cache. Each chunk's logits become probabilities in place and
the products that make the gradient follow at once, so that memory is O(B·d + C·d + chunk·C) and the
exponentials are taken once. The plain formula, against which this is tested, is

    loss = Σ_i w_i · ( log Σ_j exp(z_ij) − z_it )      with  z = q·cᵀ + bias,  t = target of row i,

and, with labels smoothed by ε, (1 − ε) · z_it + ε · mean_j z_ij in place of z_it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 1 << 18
"""Logits held at once: about a megabyte in float32, what a core's second-level cache holds."""


@dataclass(frozen=True)
class Removed:
    """Logits left out of the softmax: (row, column) pairs in ascending order of the rows.

    Attributes:
        rows: Row of each pair, `[P]`.
        columns: Column of each pair, `[P]`; never the row's target.
    """

    rows: Tensor
    columns: Tensor


def softmax_loss(
    queries: Tensor,
    candidates: Tensor,
    target: Tensor,
    weights: Tensor,
    *,
    bias: Tensor | None = None,
    target_shift: Tensor | None = None,
    removed: Removed | None = None,
    hard_negatives: int | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Weighted sum over the rows of the cross-entropy of a softmax over candidates.

    Args:
        queries: Query embeddings, `[B, d]`.
        candidates: Candidate embeddings, `[C, d]`.
        target: Column of the chosen candidate, int64 `[B]`.
        weights: Weight of each row, `[B]`; already divided by their sum where a mean is wanted.
        bias: Added to each column's logits, `[C]`.
        target_shift: Added to the target's logit of each row, `[B]`, where it counts in another way
            as a target than as a negative.
        removed: Logits left out.
        hard_negatives: Keep only this many negatives a row, those with the highest logits after all
            of the above; None keeps all.
        smoothing: Share of each row's target that is spread evenly over all columns that are left, the
            chosen one's included.

    Returns:
        A scalar, differentiable once with respect to `queries` and `candidates`.

    Example:
        >>> loss = softmax_loss(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.ones(2))
        >>> round(loss.item(), 4)  # 2 · log(1 + 1/e)
        0.6265
    """
    offset = torch.zeros(len(candidates), dtype=queries.dtype, device=queries.device) if bias is None else bias
    loss: Tensor = _ChunkedSoftmax.apply(  # type: ignore[no-untyped-call]
        queries, candidates, target, weights, offset, target_shift, removed, hard_negatives, smoothing
    )
    return loss


class _ChunkedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        candidates: Tensor,
        target: Tensor,
        weights: Tensor,
        bias: Tensor,
        target_shift: Tensor | None,
        removed: Removed | None,
        hard_negatives: int | None,
        smoothing: float,
    ) -> Tensor:
        rows = max(1, min(len(queries), CHUNK_ELEMENTS // max(1, len(candidates))))
        needs_gradient = any(ctx.needs_input_grad[:2])
        query_gradient = torch.empty_like(queries)
        candidate_gradient = torch.zeros_like(candidates)
        transposed = candidates.t()
        buffer = queries.new_empty(rows, len(candidates))
        numbers = torch.arange(rows, device=queries.device)
        pairs_before = None if removed is None else _pairs_before_chunks(removed, len(queries), rows)
        total = queries.new_zeros(())
        for chunk, start in enumerate(range(0, len(queries), rows)):
            part = slice(start, start + rows)
            chunk_target, chunk_weights = target[part], weights[part]
            row = numbers[: len(chunk_target)]
            logits = torch.addmm(bias, queries[part], transposed, out=buffer[: len(row)])  # [rows, C]
            if target_shift is not None:
                logits[row, chunk_target] += target_shift[part]
            if removed is not None and pairs_before is not None:
                pairs = slice(pairs_before[chunk], pairs_before[chunk + 1])
                logits[removed.rows[pairs] - start, removed.columns[pairs]] = -torch.inf
            if hard_negatives is not None:
                _keep_hardest(logits, row, chunk_target, hard_negatives)
            highest = logits.amax(dim=1, keepdim=True)
            chosen = logits[row, chunk_target] - highest.squeeze(1)
            if smoothing > 0:
                left_out = logits == -torch.inf
                kept = logits.shape[1] - left_out.sum(dim=1)
                mean = logits.masked_fill(left_out, 0).sum(dim=1) / kept
                chosen = (1 - smoothing) * chosen + smoothing * (mean - highest.squeeze(1))
            exponentials = logits.sub_(highest).exp_()
            sums = exponentials.sum(dim=1)
            total += torch.dot(chunk_weights, sums.log() - chosen)
            if needs_gradient:
                slopes = exponentials.mul_((chunk_weights / sums).unsqueeze(1))  # dloss/dlogits, but for the targets
                slopes[row, chunk_target] -= chunk_weights * (1 - smoothing)
                if smoothing > 0:
                    spread = chunk_weights * smoothing / kept
                    slopes.sub_(spread.unsqueeze(1)).masked_fill_(left_out, 0)
                torch.mm(slopes, candidates, out=query_gradient[part])
                candidate_gradient.addmm_(slopes.t(), queries[part])
        ctx.save_for_backward(query_gradient, candidate_gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        query_gradient, candidate_gradient = ctx.saved_tensors
        return (query_gradient * outer, candidate_gradient * outer, *[None] * 7)


def _pairs_before_chunks(removed: Removed, size: int, rows: int) -> list[int]:
    """How many removed pairs come before each chunk, and how many there are."""
    starts = torch.arange(0, size + rows, rows, device=removed.rows.device)
    before: list[int] = torch.searchsorted(removed.rows, starts).tolist()
    return before


def _keep_hardest(logits: Tensor, row: Tensor, target: Tensor, count: int) -> None:
    """Removes all but the target and the `count` highest other logits of each row, in place."""
    if count >= logits.shape[1] - 1:
        return
    chosen = logits[row, target]
    logits[row, target] = -torch.inf
    hardest = logits.topk(count, dim=1)
    logits.fill_(-torch.inf).scatter_(1, hardest.indices, hardest.values)
    logits[row, target] = chosen
