"""`Shard`: which rows of an embedding table a rank holds, where ranks share them out, and how others get them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from twotower.ranks import Ranks

BLOCK_NUMBERS = 1 << 22
"""Numbers that go from rank to rank at once where a whole table does: 16 MiB of float32."""


@dataclass(frozen=True, eq=False)
class Shard:
    """The rows of a table that a rank holds: of N ranks every N-th row, from the rank's own number on.

    Vocabularies begin with the most frequent values: consecutive rows would give one rank most of the look-ups.

    Attributes:
        rows: Of the whole table.
        ranks: Those that share them out.

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
        """The rows of the whole table in blocks, each of which begins at a row of the first rank."""
        size = self.ranks.size
        rows = max(1, BLOCK_NUMBERS // (dim * size)) * size
        return (slice(begin, min(begin + rows, self.rows)) for begin in range(0, self.rows, rows))

    def take(self, block: Tensor) -> Tensor:
        """The rows of a block, or of the whole table, that this rank holds."""
        return block[self.ranks.rank :: self.ranks.size]

    def gathered(self, held: Tensor) -> Iterator[Tensor]:
        """The rows of the whole table, block by block, on every rank; all ranks go through it together.

        Args:
            held: Those of this rank, `[held, dim]`.
        """
        size, dim = self.ranks.size, held.shape[1]
        for block in self.blocks(dim):
            rows = block.stop - block.start
            each = -(-rows // size)
            own = held[block.start // size :][:each]
            padded = held.new_zeros(each, dim)
            padded[: len(own)] = own
            whole = self.ranks.gather(padded).view(size, each, dim).transpose(0, 1)  # row by row, then rank by rank
            yield whole.reshape(size * each, dim)[:rows]

    def route(self, rows: Tensor) -> Route:
        """How to get rows `[n]` of the whole table from those that hold them; all ranks ask at the same time."""
        size = self.ranks.size
        holder = rows % size
        order = torch.argsort(holder, stable=True)
        counts = torch.bincount(holder, minlength=size)
        sent, received = counts.tolist(), self.ranks.exchange(counts, [1] * size, [1] * size).tolist()
        wanted = self.ranks.exchange((rows[order] // size).int(), sent, received)
        return Route(self.ranks, order, sent, received, wanted.long())


@dataclass(frozen=True, eq=False)
class Route:
    """The way of rows from those that hold them to those that ask for them, and of their gradients back.

    Attributes:
        ranks: Those that ask and hold.
        order: The rows that this rank asks for, by holder, `[n]`.
        sent: How many rows it asks each rank for.
        received: How many rows each rank asks it for.
        wanted: Which of the rows that it holds these are, `[Σ received]`.
    """

    ranks: Ranks
    order: Tensor
    sent: list[int]
    received: list[int]
    wanted: Tensor

    def fetch(self, held: Tensor) -> Tensor:
        """The rows that this rank asks for, `[n, dim]`, given those that it holds, `[held, dim]`."""
        ordered = self.ranks.exchange(held.index_select(0, self.wanted), self.received, self.sent)
        found = torch.empty_like(ordered)
        return found.index_copy_(0, self.order, ordered)

    def give_back(self, values: Tensor) -> Tensor:
        """A value for each of `wanted`, `[Σ received, dim]`, given on each rank one for each row it asks for."""
        return self.ranks.exchange(values.index_select(0, self.order), self.sent, self.received)
