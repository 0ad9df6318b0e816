"""Evaluation: ranks over the whole catalogue, metrics of these ranks, and baselines."""

from twotower.evaluation.baselines import (
    BaselineBudget,
    Ease,
    Ials,
    ItemKnn,
    OracleScorer,
    Popularity,
    RecentPopularity,
)
from twotower.evaluation.baselines.names import BASELINES, FLOORS, NAMES, Baseline, BaselineNames
from twotower.evaluation.beside import measure_baselines
from twotower.evaluation.by_query import QueryScorer
from twotower.evaluation.by_rank import METRICS, Metric
from twotower.evaluation.comparisons import Comparison, Pair, against_baselines, compare
from twotower.evaluation.evaluate import Evaluation, evaluate
from twotower.evaluation.measure import Measurement, measure
from twotower.evaluation.metrics import (
    DEFAULT_KS,
    Metrics,
    Scores,
    Slice,
    query_metrics,
    rank_metrics,
    verdict_metric,
)
from twotower.evaluation.outcomes import PROTOCOLS, Outcomes
from twotower.evaluation.ranking import ModelScorer, ScoreBlock, Scorer, rank_events
from twotower.evaluation.two_stages import RerankEvaluation, evaluate_rerank
from twotower.evaluation.validation import Validation
from twotower.evaluation.verdicts import verdict_sentences

__all__ = [
    "BASELINES",
    "DEFAULT_KS",
    "FLOORS",
    "METRICS",
    "NAMES",
    "PROTOCOLS",
    "Baseline",
    "BaselineBudget",
    "BaselineNames",
    "Comparison",
    "Ease",
    "Evaluation",
    "Ials",
    "ItemKnn",
    "Measurement",
    "Metric",
    "Metrics",
    "ModelScorer",
    "OracleScorer",
    "Outcomes",
    "Pair",
    "Popularity",
    "QueryScorer",
    "RecentPopularity",
    "RerankEvaluation",
    "ScoreBlock",
    "Scorer",
    "Scores",
    "Slice",
    "Validation",
    "against_baselines",
    "compare",
    "evaluate",
    "evaluate_rerank",
    "measure",
    "measure_baselines",
    "query_metrics",
    "rank_events",
    "rank_metrics",
    "verdict_metric",
    "verdict_sentences",
]
