"""Evaluation: ranks over the whole catalogue, the metrics made from them, and the baselines."""

from twotower.evaluation.baselines import (
    BaselineBudget,
    Ease,
    Ials,
    ItemKnn,
    OracleScorer,
    Popularity,
    RecentPopularity,
)
from twotower.evaluation.baselines.names import FLOORS, NAMES, BaselineNames
from twotower.evaluation.beside import measure_baselines
from twotower.evaluation.by_query import QueryScorer
from twotower.evaluation.comparisons import comparisons
from twotower.evaluation.evaluate import Evaluation, evaluate
from twotower.evaluation.measure import measure
from twotower.evaluation.metrics import DEFAULT_KS, Metrics, Scores, Slice, query_metrics, rank_metrics
from twotower.evaluation.ranking import ModelScorer, ScoreBlock, Scorer, rank_events
from twotower.evaluation.validation import Validation

__all__ = [
    "DEFAULT_KS",
    "FLOORS",
    "NAMES",
    "BaselineBudget",
    "BaselineNames",
    "Ease",
    "Evaluation",
    "Ials",
    "ItemKnn",
    "Metrics",
    "ModelScorer",
    "OracleScorer",
    "Popularity",
    "QueryScorer",
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
