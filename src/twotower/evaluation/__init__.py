"""Evaluation: ranks over the whole catalogue, the metrics made from them, and the baselines."""

from twotower.evaluation.baselines import Ease, OracleScorer, Popularity
from twotower.evaluation.evaluate import Evaluation, comparisons, evaluate, measure, measure_baselines
from twotower.evaluation.metrics import DEFAULT_KS, Metrics, Scores, query_metrics, rank_metrics
from twotower.evaluation.ranking import ModelScorer, ScoreBlock, Scorer, rank_events
from twotower.evaluation.validation import Validation

__all__ = [
    "DEFAULT_KS",
    "Ease",
    "Evaluation",
    "Metrics",
    "ModelScorer",
    "OracleScorer",
    "Popularity",
    "ScoreBlock",
    "Scorer",
    "Scores",
    "Validation",
    "comparisons",
    "evaluate",
    "measure",
    "measure_baselines",
    "query_metrics",
    "rank_events",
    "rank_metrics",
]
