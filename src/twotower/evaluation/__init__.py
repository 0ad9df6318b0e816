"""Evaluation: ranks over the whole catalogue, the metrics made from them, and the baselines."""

from twotower.evaluation.baselines import Ease, Ials, ItemKnn, OracleScorer, Popularity, RecentPopularity
from twotower.evaluation.comparisons import comparisons
from twotower.evaluation.evaluate import Evaluation, evaluate
from twotower.evaluation.measure import FLOORS, NAMES, measure, measure_baselines
from twotower.evaluation.metrics import DEFAULT_KS, Metrics, Scores, Slice, query_metrics, rank_metrics
from twotower.evaluation.ranking import ModelScorer, ScoreBlock, Scorer, rank_events
from twotower.evaluation.validation import Validation

__all__ = [
    "DEFAULT_KS",
    "FLOORS",
    "NAMES",
    "Ease",
    "Evaluation",
    "Ials",
    "ItemKnn",
    "Metrics",
    "ModelScorer",
    "OracleScorer",
    "Popularity",
    "RecentPopularity",
    "ScoreBlock",
    "Scorer",
    "Scores",
    "Slice",
    "Validation",
    "comparisons",
    "evaluate",
    "measure",
    "measure_baselines",
    "query_metrics",
    "rank_events",
    "rank_metrics",
]
