"""How much of the difference between good and poor trials each key explains."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

TRIALS = 10
"""Complete trials below which importances would be noise."""

GOOD = 0.25
"""Share of the trials that count as good."""


def importances(trials: Sequence[FrozenTrial], keys: Sequence[str]) -> dict[str, float]:
    """Importance of each key, the greatest first, their sum 1; none where trials are too few.

    PED-ANOVA: how far the distribution of a parameter among the good trials is from that among all
    (Watanabe, Bansal and Hutter, IJCAI 2023). Unlike fANOVA's, it needs no forest of trees.

    Args:
        trials: All trials.
        keys: The parameters.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and set(keys) <= set(trial.params)]
    varied = [key for key in keys if len({trial.params[key] for trial in complete}) > 1]
    if len(complete) < TRIALS or not varied:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials(complete)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says that few trials make it inaccurate; so does the report
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=GOOD), params=varied)
