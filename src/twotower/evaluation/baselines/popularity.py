"""Popularity: the same candidates for every query, those chosen most often or most often recently."""

from __future__ import annotations

import numpy as np
import torch

from twotower.arguments import checks_arguments
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.errors import ConfigError
from twotower.evaluation.baselines.names import BASELINES
from twotower.evaluation.by_query import QueryScorer
from twotower.evaluation.ranking import IntArray

LATEST_SHARE = 0.1
"""The default half-life of `RecentPopularity` is the time span of this latest share of the train events."""


@BASELINES.register
class Popularity(QueryScorer):
    """Recommends the candidates chosen most often in train to every query.

    Args:
        train: The training split, in memory or streamed.
    """

    kind, label = "popularity", "popularity"

    @checks_arguments
    def __init__(self, train: Log) -> None:
        self.counts = torch.from_numpy(train.candidate_weights())

    def score_queries(self, queries: IntArray) -> torch.Tensor:
        """The same scores for every query."""
        return self.counts.expand(len(queries), -1)


@BASELINES.register
class RecentPopularity(Popularity):
    """Recommends the candidates chosen most often recently to every query: the baseline to beat on a temporal split.

    A train event counts 2^(−age / half-life), where its age is the time from it to the latest train event. With a
    smooth decay there is no cutoff to choose, and candidates that nobody chose recently are still ordered. The
    half-life adapts to the pace of the log: by default it is the time span of the latest tenth of the train events.

    Args:
        train: The training split; it must have times.
        half_life: Seconds after which an event counts half.

    Raises:
        DataError: The data has no time column.
    """

    kind, label = "recent_popularity", "recent popularity"

    @checks_arguments
    def __init__(self, train: Dataset, half_life: float | None = None) -> None:
        if half_life is not None and half_life <= 0:
            raise ConfigError(f"RecentPopularity: half_life={half_life}; expected seconds above 0", field="half_life")
        age = train.times.max() - train.times
        # If the whole latest tenth has the same time, half a second keeps the decay defined.
        self.half_life = half_life or max(0.5, float(np.quantile(age, LATEST_SHARE)))
        self.counts = torch.from_numpy(train.sums_by_candidate(train.weights * np.exp2(-age / self.half_life)))
