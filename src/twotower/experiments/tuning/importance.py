"""How much of the difference between good and poor trials each key explains."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

MIN_TRIALS = 10
"""With fewer complete trials, importances would be noise."""

GOOD_SHARE = 0.25
"""Share of the trials that count as good."""


def importances(trials: Sequence[FrozenTrial], keys: Sequence[str]) -> dict[str, float]:
    """Importance of each key, the greatest first, with sum 1; empty if there are too few trials.

    PED-ANOVA measures how far a parameter's distribution among good trials is from its distribution among all trials
    (Watanabe, Bansal and Hutter, IJCAI 2023). Unlike fANOVA, it needs no random forest.

    Args:
        trials: All trials.
        keys: The parameters.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and set(keys) <= set(trial.params)]
    varied = [key for key in keys if len({trial.params[key] for trial in complete}) > 1]
    if len(complete) < MIN_TRIALS or not varied:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials(complete)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # warns that few trials are inaccurate; the report says so too
        return get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(target_quantile=GOOD_SHARE), params=varied
        )
