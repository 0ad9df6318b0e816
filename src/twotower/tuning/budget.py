"""`Budget`: how many trials, until when; and the time that the final training will need."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

FINAL_SHARE = 0.4
"""Share of the time kept for the final training while no trial says how long one takes."""

TRAININGS = 2.0
"""What training and measuring a config in the end takes, in trials: the search for its epochs, then all of train.

One worker's threads in a trial, all of them in the end: with several workers it takes less.
"""


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a command may spend.

    Attributes:
        trials: Finished trials in all, those of earlier commands included; None: no limit.
        start: When the command began, in seconds since 1970.
        end: When it has to be done, the final training included; None: no limit.
    """

    trials: int | None = None
    start: float
    end: float | None = None

    @classmethod
    def of(cls, trials: int | None, minutes: float | None) -> Budget:
        """A budget that begins now."""
        now = time.time()
        return cls(trials=trials, start=now, end=None if minutes is None else now + 60 * minutes)

    def deadline(self, seconds: Sequence[float]) -> float | None:
        """When trials have to stop, in seconds since 1970, for the final trainings to be done in time.

        Args:
            seconds: Of each complete trial; two of the slowest are kept free.
        """
        if self.end is None:
            return None
        kept = 2 * TRAININGS * max(seconds) if seconds else 0.0
        longest = (self.end - self.start) * (1 - FINAL_SHARE)
        return self.end - kept if seconds and kept < longest else self.start + longest
