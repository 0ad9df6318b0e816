"""`Budget`: the limits on trials and time, with time reserved for the final training."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

FINAL_SHARE = 0.4
"""Share of the time reserved for the final training before any trial has shown how long one takes."""

TRAINING_COST = 1.5
"""Time to train a config on all of train and measure it, as a multiple of the time of its trial."""

BASELINES_SHARE = 0.05
"""Share of the time reserved for the baselines and the report."""


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """The budget of a command.

    Attributes:
        trials: Total number of finished trials, including those of earlier commands; None for no limit.
        start: When the command started, in seconds since 1970.
        end: When it must be done, including the final training, in seconds since 1970; None for no limit.
    """

    trials: int | None = None
    start: float
    end: float | None = None

    @classmethod
    def of(cls, trials: int | None, minutes: float | None) -> Budget:
        """A budget that starts now."""
        now = time.time()
        return cls(trials=trials, start=now, end=None if minutes is None else now + 60 * minutes)

    def deadline(self, seconds: Sequence[float]) -> float | None:
        """When trials must stop so that the final trainings finish in time, in seconds since 1970.

        Args:
            seconds: Duration of each complete trial. Time for two trainings of the slowest one is reserved.
        """
        if self.end is None:
            return None
        whole = self.end - self.start
        kept = BASELINES_SHARE * whole + 2 * TRAINING_COST * max(seconds, default=0.0)
        longest = whole * (1 - FINAL_SHARE)
        return self.end - kept if seconds and kept < longest else self.start + longest
