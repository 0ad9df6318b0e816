"""The softmax over candidates: its exact loss and gradient in one pass, without B × C logits in memory.

Logits are computed a few rows at a time and turned into exponentials in place while they are in the cache; the matrix
products for the gradient follow at once. This takes three products and one exponential per logit, with nothing computed
twice. The plain formula, against which this is tested, is

    loss = Σ_i w_i · ( log Σ_j exp(z_ij) − z_it )      with  z = q·cᵀ + bias,  t = target of row i,

and, with label smoothing ε, (1 − ε) · z_it + ε · mean_j z_ij in place of z_it. A row may have further logits of its
own, which only its sum of exponentials includes.

If the cache holds too few rows of C logits for fast products, the columns are split into tiles as well. A row's
exponentials are then relative to its highest logit so far, and the sums so far are rescaled when that grows (Milakov
and Gimelshein, *Online normalizer calculation for softmax*, 2018). The candidates' gradient needs the complete sum, so
the exponentials of some rows are kept until it is known.

A query may have several embeddings (`twotower.model.interests`); each logit is then the highest of their products, and
its gradient is that of the highest. For these, columns are never split.

Internally, logits are scaled by log₂ e and exponentials are powers of 2, which are faster on most machines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from twotower.model.interests import apart
from twotower.model.tiles import Tiles
from twotower.ranks import current_ranks, summed

CACHED_LOGITS = 1 << 19
"""Logits processed at a time per CPU thread: 2 MiB in float32. That exceeds a core's L2 cache, but larger products gain
more than the cache misses cost."""

DEVICE_LOGITS = 1 << 25
"""Logits processed at a time on other devices, which need large products to stay busy: 128 MiB in float32."""

MIN_WHOLE_ROWS = 128
"""Split the columns into tiles if fewer whole rows than this can be processed at a time."""

TILE_ROWS = 512
"""Rows processed at a time when the columns are split into tiles."""

HELD_LOGITS = 1 << 25
"""Keep at most this many exponentials when the columns are split into tiles: 128 MiB in float32."""

RANK_TOLERANCE = 1e-5
"""Count logits within this relative difference as equal when ranks are counted: two ways to compute the product of one
pair of embeddings differ by that much, and a model that cannot tell candidates apart must not look good."""

LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Removed:
    """Logits to exclude from the softmax: (row, column) pairs with ascending rows.

    Attributes:
        rows: Row of each pair, `[P]`.
        columns: Column of each pair, `[P]`; never the row's target.
    """

    rows: Tensor
    columns: Tensor

    def within(self, rows: slice) -> Removed:
        """The pairs of some rows, numbered from the first of these rows."""
        ends = torch.searchsorted(self.rows, self.rows.new_tensor([rows.start, rows.stop]))
        first, last = ends.tolist()
        return Removed(self.rows[first:last] - rows.start, self.columns[first:last])


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
    ranks: Tensor | None = None,
    extra: Tensor | None = None,
) -> Tensor:
    """Weighted sum over the rows of the cross-entropy of a softmax over candidates.

    Not part of the public interface: it checks no argument, and wrong ones give errors of PyTorch or wrong numbers.
    Call the losses of `twotower.functional`, which check theirs.

    When several ranks train together, each computes a part of the rows; the result is the sum over all ranks.

    Args:
        queries: Query embeddings, `[B, K·d]`, K of each query.
        candidates: Candidate embeddings, `[C, d]`.
        target: Column of the chosen candidate, int64 `[B]`.
        weights: Weight of each row, `[B]`; for a mean, already divided by their sum.
        bias: Added to each column's logits, `[C]`.
        target_shift: Added to the target's logit of each row, `[B]`, if it counts differently as a target than as a
            negative.
        removed: Logits to exclude.
        hard_negatives: Keep only this many negatives per row, those with the highest logits after all
            of the above; None keeps all.
        smoothing: Share of each row's target that is spread evenly over all remaining columns, the chosen one
            included.
        ranks: Receives the ranks of the first n ≤ B rows' targets, `[n]`: how many columns have a logit at least as
            high, the target's own included. For all rows this adds a tenth to the loss's time.
        extra: Further logits of each row, −∞ for none, `[B, n]`: complete ones, to which no bias is added. They are
            never targets, removed, smoothed or counted in ranks.

    Returns:
        A scalar, differentiable once with respect to `queries`, `candidates` and `extra`.

    Example:
        >>> loss = softmax_loss(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.ones(2))
        >>> round(loss.item(), 4)  # 2 · log(1 + 1/e)
        0.6265
    """
    offset = torch.zeros(len(candidates), dtype=queries.dtype, device=queries.device) if bias is None else bias
    joined = current_ranks()
    is_shared = joined.shares(len(queries))
    if is_shared:
        own = joined.part(len(queries))
        queries, target, weights = queries[own], target[own], weights[own]
        target_shift = None if target_shift is None else target_shift[own]
        removed = None if removed is None else removed.within(own)
        ranks = None if ranks is None else ranks[own]
        extra = None if extra is None else extra[own]
    loss: Tensor = _Softmax.apply(  # type: ignore[no-untyped-call]
        queries, candidates, target, weights, offset, target_shift, removed, hard_negatives, smoothing, ranks, extra
    )
    return summed(loss) if is_shared else loss


class _Softmax(torch.autograd.Function):
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
        ranks: Tensor | None,
        extra: Tensor | None,
    ) -> Tensor:
        problem = _Problem(
            queries=queries,
            candidates=candidates,
            target=target,
            weights=weights,
            scaled_queries=queries * LOG2_E,
            bias=bias * LOG2_E,
            target_shift=None if target_shift is None else target_shift * LOG2_E,
            removed=removed,
            ranks=ranks,
            extra=None if extra is None else extra * LOG2_E,
        )
        gradients = None
        if any((*ctx.needs_input_grad[:2], ctx.needs_input_grad[10])):
            of_extra = None if extra is None else torch.zeros_like(extra)
            of_queries = torch.zeros_like(queries, memory_format=torch.contiguous_format)
            gradients = _Gradients(of_queries, torch.zeros_like(candidates), of_extra)
            ctx.save_for_backward(gradients.queries, gradients.candidates, gradients.extra)
        if ranks is not None:
            ranks.zero_()
        on_cpu = queries.device.type == "cpu"
        logits = CACHED_LOGITS * torch.get_num_threads() if on_cpu else DEVICE_LOGITS
        rows = max(1, logits // max(1, len(candidates)))
        if queries.shape[1] > candidates.shape[1]:
            rows = max(rows, min(MIN_WHOLE_ROWS, HELD_LOGITS // max(1, len(candidates))))
            return _in_whole_rows(problem, rows, hard_negatives, smoothing, gradients)
        if hard_negatives is not None or smoothing > 0 or rows >= min(MIN_WHOLE_ROWS, len(queries)):
            return _in_whole_rows(problem, rows, hard_negatives, smoothing, gradients)
        return _in_tiles(problem, logits, gradients)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        query_gradient, candidate_gradient, extra_gradient = ctx.saved_tensors
        of_extra = None if extra_gradient is None else extra_gradient * outer
        return (query_gradient * outer, candidate_gradient * outer, *[None] * 8, of_extra)


@dataclass(frozen=True)
class _Problem:
    """The arguments of `softmax_loss`; scaled queries, bias, shift and extra logits are multiplied by log₂ e."""

    queries: Tensor
    candidates: Tensor
    target: Tensor
    weights: Tensor
    scaled_queries: Tensor
    bias: Tensor
    target_shift: Tensor | None
    removed: Removed | None
    ranks: Tensor | None
    extra: Tensor | None

    def write_logits(self, rows: slice, transposed: Tensor, out: Tensor) -> Tensor | None:
        """Writes the products of some rows, plus the bias, to `out` `[rows, C]`; of several embeddings, the highest.

        Returns:
            Which embedding of the row each comes from, int8 `[rows, C]`; None if each query has one.
        """
        first, *others = apart(self.scaled_queries[rows], len(transposed)).unbind(1)
        torch.addmm(self.bias, first, transposed, out=out)
        if not others:
            return None
        best = torch.zeros_like(out, dtype=torch.int8)
        for place, other in enumerate(others, 1):
            rival = torch.addmm(self.bias, other, transposed)
            best.masked_fill_(rival > out, place)
            torch.maximum(out, rival, out=out)
        return best

    def raise_highest(self, rows: slice, highest: Tensor) -> None:
        """Raises the highest logits of some rows, `[rows]`, to their extra logits."""
        if self.extra is not None:
            torch.maximum(highest, self.extra[rows].amax(dim=1), out=highest)

    def add_extra(self, rows: slice, highest: Tensor, sums: Tensor) -> None:
        """Adds the exponentials of the extra logits of some rows, relative to the highest, to their sums, `[rows]`."""
        if self.extra is not None:
            sums.add_((self.extra[rows] - highest.unsqueeze(1)).exp2_().sum(dim=1))

    def count(self, logits: Tensor, start: int, wanted: Tensor) -> None:
        """Adds to the ranks of the rows from `start` on how many logits reach the target's; no-op without ranks."""
        if self.ranks is None or start >= len(self.ranks):
            return
        rows = min(len(self.ranks) - start, len(logits))
        bar = wanted[:rows] - RANK_TOLERANCE * wanted[:rows].abs().clamp_min(1)
        reached = torch.ge(logits[:rows], bar.unsqueeze(1), out=torch.empty_like(logits[:rows]))
        self.ranks[start : start + rows].add_(reached.sum(dim=1).to(self.ranks.dtype))


@dataclass(frozen=True)
class _Gradients:
    """Gradient buffers: gradients of queries and extra logits are overwritten, candidate gradients accumulated."""

    queries: Tensor
    candidates: Tensor
    extra: Tensor | None

    def add(self, problem: _Problem, rows: slice, slopes: Tensor, factors: Tensor, best: Tensor | None) -> None:
        """Sets the gradients of some rows' queries, but for the factor of each row, and adds to the candidates'.

        Args:
            problem: The problem.
            rows: The rows.
            slopes: The gradients of their logits, but for the factors, `[rows, C]`.
            factors: The factor of each row, `[rows, 1]`.
            best: Which embedding of the row each logit comes from; None if each query has one.
        """
        width = problem.candidates.shape[1]
        queries, own = (apart(of[rows], width) for of in (problem.queries, self.queries))
        for place in range(queries.shape[1]):
            part = slopes if best is None else slopes * (best == place)
            torch.mm(part, problem.candidates, out=own[:, place])
            self.candidates.addmm_(part.t(), queries[:, place] * factors)

    def set_extra(self, problem: _Problem, highest: Tensor, sums: Tensor) -> None:
        """Sets the gradient of the extra logits, given the highest logit and the sum of each row, `[B]`."""
        if self.extra is not None and problem.extra is not None:
            shares = (problem.extra - highest.unsqueeze(1)).exp2_()
            torch.mul(shares, (problem.weights / sums).unsqueeze(1), out=self.extra)


def _in_whole_rows(
    problem: _Problem, rows: int, hard_negatives: int | None, smoothing: float, gradients: _Gradients | None
) -> Tensor:
    """The loss and, if requested, its gradients, `rows` rows of logits at a time."""
    size, width = len(problem.queries), len(problem.candidates)
    rows = min(rows, size)
    tiles = Tiles(size, width, rows, width)
    place = tiles.place(torch.arange(size, device=problem.target.device), problem.target)
    removed = None if problem.removed is None else tiles.sorted(problem.removed.rows, problem.removed.columns)
    memory = problem.queries.new_empty(rows * width)
    highest, sums, wanted = problem.queries.new_empty(3, size)
    transposed = problem.candidates.t()
    for start in range(0, size, rows):
        part = slice(start, min(start + rows, size))
        line, chosen, top, total = memory[: (part.stop - start) * width], place[part], highest[part], sums[part]
        logits = line.view(-1, width)
        best = problem.write_logits(part, transposed, logits)
        if problem.target_shift is not None:
            line.index_add_(0, chosen, problem.target_shift[part])
        if removed is not None:
            line.index_fill_(0, removed.place[removed.within(start, 0)], -torch.inf)
        if hard_negatives is not None:
            _keep_hardest(logits, problem.target[part].unsqueeze(1), hard_negatives)
        torch.amax(logits, 1, out=top)
        torch.index_select(line, 0, chosen, out=wanted[part])
        problem.count(logits, start, wanted[part])
        if smoothing > 0:
            left_out = logits == -torch.inf
            kept = width - left_out.sum(dim=1)
            mean = logits.masked_fill(left_out, 0).sum(dim=1) / kept
            wanted[part].mul_(1 - smoothing).add_(mean, alpha=smoothing)
        problem.raise_highest(part, top)
        exponentials = logits.sub_(top.unsqueeze(1)).exp2_()
        torch.sum(exponentials, 1, out=total)
        problem.add_extra(part, top, total)
        if gradients is not None:
            slopes = exponentials  # dloss/dlogits of each row, times its sum, divided by its weight
            line.index_add_(0, chosen, total, alpha=smoothing - 1)
            if smoothing > 0:
                slopes.sub_((total * smoothing / kept).unsqueeze(1)).masked_fill_(left_out, 0)
            gradients.add(problem, part, slopes, (problem.weights[part] / total).unsqueeze(1), best)
    if gradients is not None:
        gradients.queries.mul_((problem.weights / sums).unsqueeze(1))
        gradients.set_extra(problem, highest, sums)
    return torch.dot(problem.weights, sums.log2_().add_(highest).sub_(wanted)) / LOG2_E


def _in_tiles(problem: _Problem, logits: int, gradients: _Gradients | None) -> Tensor:
    """The same in tiles of about `logits` logits; supports neither hard negatives nor smoothing."""
    size, width = len(problem.queries), len(problem.candidates)
    rows = max(1, min(size, TILE_ROWS, HELD_LOGITS // width))
    tiles = Tiles(size, width, rows, max(1, min(width, logits // rows)))
    targets = tiles.sorted(torch.arange(size, device=problem.target.device), problem.target)
    removed = None if problem.removed is None else tiles.sorted(problem.removed.rows, problem.removed.columns)
    chosen = problem.candidates.index_select(0, problem.target)  # [B, d]
    wanted = (problem.scaled_queries * chosen).sum(dim=1).add_(problem.bias.index_select(0, problem.target))
    if problem.target_shift is not None:
        wanted.add_(problem.target_shift)
    highest, sums = wanted.clone(), torch.zeros_like(wanted)
    problem.raise_highest(slice(None), highest)
    problem.add_extra(slice(None), highest, sums)
    memory = problem.queries.new_empty(rows * tiles.columns)
    held = problem.queries.new_empty(0 if gradients is None else rows * width)
    for start in range(0, size, rows):
        part = slice(start, min(start + rows, size))
        height = part.stop - start
        done = []  # for each tile: its columns, its exponentials, and the logits these are relative to
        for first in range(0, width, tiles.columns):
            columns = slice(first, min(first + tiles.columns, width))
            line = memory[: height * (columns.stop - first)]
            tile = line.view(height, -1)
            torch.addmm(problem.bias[columns], problem.scaled_queries[part], problem.candidates[columns].t(), out=tile)
            within = targets.within(start, first)
            line.index_copy_(0, targets.place[within], wanted.index_select(0, targets.rows[within]))
            if removed is not None:
                line.index_fill_(0, removed.place[removed.within(start, first)], -torch.inf)
            problem.count(tile, start, wanted[part])
            before = highest[part].clone()
            torch.maximum(before, tile.amax(dim=1), out=highest[part])
            kept = line if gradients is None else held[height * first : height * columns.stop]
            exponentials = torch.exp2(tile.sub_(highest[part].unsqueeze(1)), out=kept.view(height, -1))
            shrunk = before.sub_(highest[part]).exp2_()
            sums[part].mul_(shrunk).add_(exponentials.sum(dim=1))
            if gradients is not None:
                gradients.queries[part].mul_(shrunk.unsqueeze(1)).addmm_(exponentials, problem.candidates[columns])
                done.append((columns, exponentials, highest[part].clone()))
        if gradients is not None:
            factors = problem.weights[part] / sums[part]
            gradients.queries[part].mul_(factors.unsqueeze(1))
            for columns, exponentials, relative_to in done:
                scale = (relative_to - highest[part]).exp2_().mul_(factors)
                gradients.candidates[columns].addmm_(exponentials.t(), problem.queries[part] * scale.unsqueeze(1))
    if gradients is not None:
        gradients.set_extra(problem, highest, sums)
        pull = problem.weights.unsqueeze(1)
        gradients.queries.addcmul_(chosen, pull, value=-1)
        _add_rows(gradients.candidates, problem.target, problem.queries * -pull)
    return torch.dot(problem.weights, sums.log2_().add_(highest).sub_(wanted)) / LOG2_E


def _add_rows(whole: Tensor, rows: Tensor, values: Tensor) -> None:
    """Adds `values` `[n, d]` to rows of `whole`, in the same order on every run.

    The order of `index_add_` is fixed on a CPU, and that of `index_put_` on CUDA; not the other way round.
    """
    if whole.device.type == "cpu":
        whole.index_add_(0, rows, values)
    else:
        whole.index_put_((rows,), values, accumulate=True)


def _keep_hardest(logits: Tensor, target: Tensor, count: int) -> None:
    """Removes all but the target `[rows, 1]` and the `count` highest other logits of each row, in place."""
    if count >= logits.shape[1] - 1:
        return
    chosen = logits.gather(1, target)
    logits.scatter_(1, target, -torch.inf)
    hardest = logits.topk(count, dim=1)
    logits.fill_(-torch.inf).scatter_(1, hardest.indices, hardest.values).scatter_(1, target, chosen)
