"""`Shard`: which rows of a sharded embedding table a rank holds, and how other ranks fetch them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from twotower.ranks import Ranks, message_device

BLOCK_NUMBERS = 1 << 22
"""Numbers per message when a whole table is transferred: 16 MiB of float32."""


@dataclass(frozen=True, eq=False)
class Shard:
    """The rows of a table that a rank holds: with N ranks, every N-th row, starting at the rank's number.

    Vocabularies begin with the most frequent values, so with contiguous shards one rank would get most look-ups.

    Attributes:
        rows: Number of rows of the whole table.
        ranks: The ranks that hold the table together.

    Example:
        >>> shard = Shard(5, Ranks(1, 2))
        >>> shard.held, shard.take(torch.arange(5)).tolist()
        (2, [1, 3])
    """

    rows: int
    ranks: Ranks

    @property
    def held(self) -> int:
        """How many rows this rank holds."""
        return len(range(self.ranks.rank, self.rows, self.ranks.size))

    def blocks(self, dim: int) -> Iterator[slice]:
        """Splits the rows of the whole table into blocks; each begins at a row that the first rank holds."""
        size = self.ranks.size
        rows = max(1, BLOCK_NUMBERS // (dim * size)) * size
        return (slice(begin, min(begin + rows, self.rows)) for begin in range(0, self.rows, rows))

    def take(self, block: Tensor) -> Tensor:
        """Selects the rows of a block, or of the whole table, that this rank holds."""
        return block[self.ranks.rank :: self.ranks.size]

    def gathered(self, held: Tensor) -> Iterator[Tensor]:
        """Yields the rows of the whole table, block by block, on every rank; collective: all ranks iterate together.

        Args:
            held: The rows that this rank holds, `[held, dim]`. If they are on a CPU and the ranks exchange only CUDA
                tensors, the blocks are on the GPU.
        """
        size, dim = self.ranks.size, held.shape[1]
        device = message_device() if size > 1 and held.device.type == "cpu" else held.device
        for block in self.blocks(dim):
            rows = block.stop - block.start
            each = -(-rows // size)
            own = held[block.start // size :][:each]
            padded = held.new_zeros(each, dim, device=device)
            padded[: len(own)] = own
            whole = self.ranks.gather(padded).view(size, each, dim).transpose(0, 1)  # row by row, then rank by rank
            yield whole.reshape(size * each, dim)[:rows]

    def route(self, rows: Tensor) -> Route:
        """Plans how to fetch rows `[n]` of the whole table from their holders; collective: all ranks call it."""
        size = self.ranks.size
        holder = rows % size
        order = torch.argsort(holder, stable=True)
        counts = torch.bincount(holder, minlength=size)
        sent, received = counts.tolist(), self.ranks.exchange(counts, [1] * size, [1] * size).tolist()
        wanted = self.ranks.exchange((rows[order] // size).int(), sent, received)
        return Route(self.ranks, order, sent, received, wanted.long())


@dataclass(frozen=True, eq=False)
class Route:
    """How rows travel from the ranks that hold them to those that request them, and their gradients back.

    Attributes:
        ranks: The ranks that hold the table together.
        order: The order that sorts this rank's requested rows by holder, `[n]`.
        sent: Number of rows that this rank requests from each rank.
        received: Number of rows that each rank requests from this one.
        wanted: Indices of the latter among the rows that this rank holds, `[Σ received]`.
    """

    ranks: Ranks
    order: Tensor
    sent: list[int]
    received: list[int]
    wanted: Tensor

    def fetch(self, held: Tensor) -> Tensor:
        """Fetches the rows that this rank requested, `[n, dim]`, given those that it holds, `[held, dim]`."""
        ordered = self.ranks.exchange(held.index_select(0, self.wanted), self.received, self.sent)
        found = torch.empty_like(ordered)
        return found.index_copy_(0, self.order, ordered)

    def give_back(self, values: Tensor) -> Tensor:
        """Sends a value per requested row, `[n, dim]`, to its holder; returns `wanted`, `[Σ received, dim]`."""
        return self.ranks.exchange(values.index_select(0, self.order), self.sent, self.received)
