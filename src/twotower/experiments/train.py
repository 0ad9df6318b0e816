"""`train`: one run of a config, measured beside the baselines, as a bundle that is ready to recommend."""

from __future__ import annotations

from dataclasses import dataclass

from twotower.evaluation.evaluate import Evaluation
from twotower.retrieval import Retriever


@dataclass(frozen=True)
class TrainedBundle:
    """What `train` gave.

    Attributes:
        retriever: The bundle, saved.
        evaluation: The model and the baselines on test.
    """

    retriever: Retriever
    evaluation: Evaluation
