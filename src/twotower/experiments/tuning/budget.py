"""`Budget`: how many trials, until when; and the time that the final training will need."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

FINAL_SHARE = 0.4
"""Share of the time kept for the final training while no trial says how long one takes."""

TRAININGS = 1.5
"""What training a config on all of train and measuring it takes, in trials that found its number of epochs."""

BASELINES_SHARE = 0.05
"""Share of the time kept for the baselines and the report."""


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
        whole = self.end - self.start
        kept = BASELINES_SHARE * whole + 2 * TRAININGS * max(seconds, default=0.0)
        longest = whole * (1 - FINAL_SHARE)
        return self.end - kept if seconds and kept < longest else self.start + longest
