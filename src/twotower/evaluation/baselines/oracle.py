"""The oracle: the ceiling for any model, if the true probabilities are known."""

from __future__ import annotations

import torch

from twotower.data.dataset import Dataset, Oracle
from twotower.evaluation.baselines.names import BASELINES
from twotower.evaluation.ranking import ScoreBlock


@BASELINES.register
class OracleScorer:
    """The true choice probabilities as scores: the ceiling of any model on simulated data.

    Args:
        oracle: The true probabilities behind the data.
    """

    kind, label = "oracle", "oracle"

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle

    def score_block(self, events: Dataset) -> ScoreBlock:
        """Log-probabilities given query and time."""
        times = events.times
        return lambda numbers: torch.from_numpy(
            self.oracle.log_probabilities(events.query_index[numbers], times[numbers])
        )
