"""`Excerpt`: events of a streamed log that are in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from twotower.data.dataset import Dataset, IntArray


@dataclass(frozen=True, eq=False)
class Excerpt(Dataset):
    """Some of a log's events in memory, with the candidate counts of the whole log.

    Attributes:
        counts: Number of events of each candidate in the whole log, `[candidates]`.
    """

    counts: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False)

    def candidate_counts(self) -> IntArray:
        """How often each candidate was chosen in the whole log, `[candidates]`."""
        return self.counts
