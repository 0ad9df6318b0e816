"""`Traffic`: what a rank has exchanged with the others, counted where it happens."""

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
    """What a rank has exchanged with the others.

    Attributes:
        payload: Bytes handed to each kind of exchange: `sum` a tensor that all add up, `gather` the rank's part of what
            all get, `scatter` the whole of which each gets the sum of a part, `broadcast` what the first rank sends,
            `exchange` what goes to one rank each, its own part included.
        calls: How often.
        seconds: Spent in them: sending, and waiting for others.
    """

    payload: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @contextmanager
    def of(self, kind: str, tensor: Tensor) -> Iterator[None]:
        """Counts an exchange that happens in the block.

        Raises:
            TwoTowerError: Another rank has ended, or cannot be reached.
        """
        started = time.perf_counter()
        try:
            yield
        except RuntimeError as error:
            raise TwoTowerError(f"rank {dist.get_rank()} has lost the others: {error}") from error
        self.seconds += time.perf_counter() - started
        self.payload[kind] += tensor.numel() * tensor.element_size()
        self.calls[kind] += 1
