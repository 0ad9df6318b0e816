"""Looks rows up in embedding tables, with a gradient of the whole table or of only the rows looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twotower.errors import TwoTowerError
from twotower.ranks import Ranks, current_ranks
from twotower.shards import Route, Shard

Refresh = Callable[["Table", Tensor], None]

SORTED_LOOK_UPS = 1024
"""Sum gradients after a sort from this many look-ups on; PyTorch's own backward pass is as fast for fewer."""

ROWS_PER_LOOK_UP = 8
"""Sum gradients after a sort unless the table has more rows than this for each look-up."""


class Table(nn.Parameter):
    """An embedding table, `[rows, dim]`.

    Attributes:
        row_gradients: Whether the gradient of a look-up is a sparse tensor of the rows looked up, not a dense one of
            all rows. See the function `row_gradients`.
        refresh: Called with the table and the rows before a look-up.
        shard: Which rows of a sharded table this rank holds; None for a whole table. All ranks must look up rows of a
            sharded table at the same time, whichever they hold.
    """

    row_gradients: bool = False
    refresh: Refresh | None = None
    shard: Shard | None = None

    @property
    def whole_rows(self) -> int:
        """Rows of the whole table."""
        return len(self) if self.shard is None else self.shard.rows


@contextmanager
def row_gradients(tables: Iterable[Table], refresh: Refresh | None = None) -> Iterator[None]:
    """Inside the block, the gradients of these tables are sparse and hold only the rows looked up.

    Args:
        tables: The tables.
        refresh: Called with a table and the rows to look up, a tensor of any shape, before each look-up.

    Example:
        >>> table = Table(torch.ones(1_000_000, 2))
        >>> with row_gradients([table]):
        ...     embed(torch.tensor([7, 3, 7]), table).sum().backward()
        >>> gradient = table.grad.coalesce()
        >>> gradient.indices().tolist(), gradient.values().tolist()
        ([[3, 7]], [[1.0, 1.0], [2.0, 2.0]])
    """
    tables = list(tables)
    for table in tables:
        table.row_gradients, table.refresh = True, refresh
    try:
        yield
    finally:
        for table in tables:
            table.row_gradients, table.refresh = False, None


def embed(rows: Tensor, table: Tensor, padding: int | None = None) -> Tensor:
    """The `rows` `[…]` of a table `[rows, dim]`: `[…, dim]`.

    Args:
        rows: Rows of the table, int32 or int64.
        table: The table; a `Table` with `row_gradients` has a sparse gradient.
        padding: A row that gets no gradient.
    """
    if isinstance(table, Table) and table.shard is not None:
        rows, table, place = _fetched(rows, table, table.shard, padding)
        padding = None if padding is None else place
    row_gradients = _prepared(rows, table)
    if row_gradients or _sorting_pays(rows, table):
        embedded: Tensor = _Rows.apply(table, rows, padding, row_gradients)  # type: ignore[no-untyped-call]
        return embedded
    return F.embedding(rows, table, padding_idx=padding)


def embed_mean(rows: Tensor, table: Tensor, padding: int) -> Tensor:
    """The mean of the rows of each bag `[n, slots]`, zeros where all are padding: `[n, dim]`.

    On a CPU the padding, often most of the input, is dropped first. Other devices keep it, since counting it would
    force a synchronisation.

    Args:
        rows: Rows of the table, int32 or int64.
        table: The table; a `Table` with `row_gradients` has a sparse gradient.
        padding: A row that does not count and gets no gradient.
    """
    if isinstance(table, Table) and table.shard is not None:
        rows, table, padding = _fetched(rows, table, table.shard, padding)
    if _prepared(rows, table):
        embedded: Tensor = _Means.apply(table, rows, padding)  # type: ignore[no-untyped-call]
        return embedded
    if torch.compiler.is_exporting():  # other runtimes lack embedding_bag
        shares = (rows != padding).to(table.dtype)
        return embed_sum(rows, table, shares / shares.sum(dim=1, keepdim=True).clamp_min(1.0), padding)
    if rows.device.type != "cpu":
        return F.embedding_bag(rows, table, mode="mean", padding_idx=padding)
    there = rows != padding
    lengths = there.sum(dim=1)
    begins = lengths.cumsum(dim=0).sub_(lengths)
    return F.embedding_bag(rows.masked_select(there).long(), table, begins, mode="mean")


def embed_sum(rows: Tensor, table: Tensor, weights: Tensor, padding: int) -> Tensor:
    """The weighted sum of the rows of each bag `[n, slots]`: `[n, dim]`.

    Args:
        rows: Rows of the table, int32 or int64.
        table: The table; a `Table` with `row_gradients` has a sparse gradient.
        weights: Weight of each slot, `[n, slots]`, with gradient.
        padding: A row that does not count and gets no gradient.
    """
    if isinstance(table, Table) and table.shard is not None:
        rows, table, padding = _fetched(rows, table, table.shard, padding)
    if _prepared(rows, table) or torch.compiler.is_exporting():
        weights = weights.masked_fill(rows == padding, 0.0)
        return torch.bmm(weights.unsqueeze(1), embed(rows, table, padding)).squeeze(1)
    return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights, padding_idx=padding)


class _Rows(torch.autograd.Function):
    """`F.embedding` whose gradient is summed after a sort: sparse, of the rows looked up, or dense."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, padding: int | None, row_gradients: bool) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape, ctx.padding, ctx.row_gradients = table.shape, padding, row_gradients
        return F.embedding(rows, table)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (rows,) = ctx.saved_tensors
        gradient = gradient.flatten(0, -2)
        if ctx.row_gradients:
            return summed_rows(rows.unsqueeze(-1), gradient, ctx.shape, ctx.padding), None, None, None
        return _summed_table(rows.flatten(), gradient, ctx.shape[0], ctx.padding), None, None, None


class _Means(torch.autograd.Function):
    """`F.embedding_bag` in mode `mean` with a sparse gradient of the rows looked up."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape, ctx.padding = table.shape, padding
        return F.embedding_bag(rows, table, mode="mean", padding_idx=padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        count = (rows != ctx.padding).sum(dim=1, keepdim=True).clamp_min(1)
        return summed_rows(rows, gradient / count, ctx.shape, ctx.padding), None, None


class _Fetched(torch.autograd.Function):
    """Rows of a sharded table; each rank receives the gradients of the rows it holds from all ranks."""

    @staticmethod
    def forward(ctx: Any, held: Tensor, route: Route, row_gradients: bool) -> Tensor:
        ctx.route, ctx.shape, ctx.row_gradients = route, held.shape, row_gradients
        return route.fetch(held)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        whole = summed_rows(ctx.route.wanted.unsqueeze(1), ctx.route.give_back(gradient), ctx.shape)
        return whole if ctx.row_gradients else whole.to_dense(), None, None


def _fetched(rows: Tensor, table: Table, shard: Shard, padding: int | None = None) -> tuple[Tensor, Tensor, int]:
    """Fetches the distinct rows that are looked up in a sharded table, with gradient.

    Returns:
        The place of each of `rows` among the distinct rows; the distinct rows, `[distinct, dim]`; and the place of the
        padding, −1 without padding.
    """
    require_joined(shard.ranks)
    asked = rows.flatten() if padding is None else torch.cat([rows.flatten(), rows.new_tensor([padding])])
    distinct, places = torch.unique(asked, return_inverse=True)
    route = shard.route(distinct.long())
    if table.refresh is not None:
        table.refresh(table, route.wanted)
    found = _Fetched.apply(table, route, table.row_gradients)  # type: ignore[no-untyped-call]
    return places[: rows.numel()].view(rows.shape), found, -1 if padding is None else int(places[-1])


def require_joined(ranks: Ranks) -> None:
    """Refuses to look up rows of sharded tables unless all of their ranks are joined.

    Raises:
        TwoTowerError: They are not joined.
    """
    if current_ranks().size != ranks.size:
        raise TwoTowerError(
            f"this model's tables are sharded over {ranks.size} ranks; expected all of them to be joined, or "
            f"gather_tables(model) called first, on all of them"
        )


def summed_rows(rows: Tensor, gradient: Tensor, shape: torch.Size, padding: int | None = None) -> Tensor:
    """For each distinct row, the sum of the gradients of its bags, as a sparse tensor of the table's shape.

    A stable sort groups equal rows, and `embedding_bag` sums their gradients in order. Nothing of the size of the
    table, or of the look-ups times `dim`, is allocated, and the result is deterministic.

    Args:
        rows: Rows of the table, `[…, slots]`.
        gradient: Gradient of each bag, `[n, dim]`.
        shape: Shape of the table.
        padding: A row to exclude.
    """
    slots = rows.shape[-1]
    rows = rows.flatten()
    if padding is None:
        ordered, source = torch.sort(rows, stable=True)
    else:
        present = (rows != padding).nonzero().squeeze(1)
        ordered, order = torch.sort(rows[present], stable=True)
        source = present[order]
    distinct, counts = torch.unique_consecutive(ordered, return_counts=True)
    starts = counts.cumsum(0) - counts
    sums = F.embedding_bag(source // slots if slots > 1 else source, gradient.contiguous(), starts, mode="sum")
    return torch.sparse_coo_tensor(distinct.long().unsqueeze(0), sums, shape, is_coalesced=True, check_invariants=False)


def _summed_table(rows: Tensor, gradient: Tensor, size: int, padding: int | None) -> Tensor:
    """The same sums as `F.embedding`'s backward pass, to the bit: `[size, dim]`.

    PyTorch adds one row at a time on one thread. Sorting first lets all threads add, each its own rows: 4 to 6 times
    faster for 40,960 look-ups in a table of 25 or 3,500 rows.

    Args:
        rows: Rows of the table, `[n]`.
        gradient: Gradient of each look-up, `[n, dim]`.
        size: Rows of the table.
        padding: A row whose gradient is zero.
    """
    _, source = torch.sort(rows, stable=True)
    counts = torch.bincount(rows, minlength=size)
    sums = F.embedding_bag(source, gradient.contiguous(), counts.cumsum(0) - counts, mode="sum")
    if padding is not None:
        sums[padding] = 0.0
    return sums


def _sorting_pays(rows: Tensor, table: Tensor) -> bool:
    """Whether `_summed_table` is faster than PyTorch's backward pass: many look-ups, not too few for the table."""
    return (
        table.requires_grad
        and torch.is_grad_enabled()
        and rows.device.type == "cpu"
        and rows.numel() >= max(SORTED_LOOK_UPS, len(table) // ROWS_PER_LOOK_UP)
        and not torch.compiler.is_compiling()
    )


def coalesced(gradient: Tensor) -> Tensor:
    """A table's sparse gradient with each row once, in ascending order; a dense gradient is made sparse.

    PyTorch loses the flag that the rows are distinct and sorted when it hands a gradient to the parameter. Checking the
    rows is far cheaper than `coalesce`, which is called only if several gradients were added up.
    """
    if not gradient.is_sparse:
        return gradient.to_sparse(1)
    rows = gradient._indices()[0]
    return gradient._coalesced_(True) if (rows[1:] > rows[:-1]).all() else gradient.coalesce()


def _prepared(rows: Tensor, table: Tensor) -> bool:
    """Calls the table's `refresh`, if any; returns whether the gradient must be sparse."""
    if not isinstance(table, Table):
        return False
    if table.refresh is not None:
        table.refresh(table, rows)
    return table.row_gradients and torch.is_grad_enabled()
