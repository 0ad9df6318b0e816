"""`ExposedEvents`: the test events with which something was shown, for metrics of ranks among what was shown."""

from __future__ import annotations

import msgspec


class ExposedEvents(msgspec.Struct, frozen=True):
    """The test events with which something was shown and not chosen.

    Attributes:
        events: Their number.
        shown: Mean number of candidates shown beside the chosen one.
        chance: The metrics of a random order.
    """

    events: int
    shown: float
    chance: dict[str, float]
