"""A metric of your own: how far down the list the true candidate is, on a scale of logarithms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower import METRICS


@METRICS.register
class LogRank:
    """−log2 of the rank: 0 at the top, one less each time the rank doubles."""

    kind, label, by_length = "log_rank", "−log2 rank", False

    def values(self, ranks: npt.NDArray[np.float64], k: int | None) -> npt.NDArray[np.float64]:
        """What each event adds to the mean, `[N]`."""
        return -np.log2(ranks)
