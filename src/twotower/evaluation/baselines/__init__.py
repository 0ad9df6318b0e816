"""The baselines that reports compare models with; each is a `Scorer` that learns from train alone."""

from twotower.evaluation.baselines.budget import BaselineBudget
from twotower.evaluation.baselines.ease import Ease
from twotower.evaluation.baselines.ials import Ials
from twotower.evaluation.baselines.item_knn import ItemKnn
from twotower.evaluation.baselines.oracle import OracleScorer
from twotower.evaluation.baselines.popularity import Popularity, RecentPopularity

__all__ = ["BaselineBudget", "Ease", "Ials", "ItemKnn", "OracleScorer", "Popularity", "RecentPopularity"]
