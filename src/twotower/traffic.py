"""`Traffic`: counts the bytes, calls and time of a rank's collective operations."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor
from torch import distributed as dist

from twotower.errors import TwoTowerError


@dataclass
class Traffic:
    """Counters of a rank's collective operations.

    Attributes:
        payload: Bytes passed to each kind of operation: for `sum` the tensor that is all-reduced, for `gather` this
            rank's part, for `scatter` the whole tensor, for `broadcast` the first rank's tensor, for `exchange` the
            rows for all ranks, including this one.
        calls: Calls of each kind.
        seconds: Time spent in them, sending and waiting for other ranks.
    """

    payload: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @contextmanager
    def of(self, kind: str, tensor: Tensor) -> Iterator[None]:
        """Counts the collective operation in the block.

        Raises:
            TwoTowerError: Another rank has ended, or is unreachable.
        """
        started = time.perf_counter()
        try:
            yield
        except RuntimeError as error:
            raise TwoTowerError(f"rank {dist.get_rank()} has lost contact with the other ranks: {error}") from error
        self.seconds += time.perf_counter() - started
        self.payload[kind] += tensor.numel() * tensor.element_size()
        self.calls[kind] += 1
