"""`SeededSampler`: Optuna's TPE with each trial's random numbers derived from (seed, trial number)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

INTERRUPTED = "interrupted"
"""Attribute of trials interrupted when a command was killed. They do not count, as another trial repeats each."""


class SeededSampler(BaseSampler):
    """Tree-structured Parzen estimators over all parameters jointly, for any number of workers.

    Bergstra et al., *Algorithms for hyper-parameter optimization*, NIPS 2011; joint sampling: Falkner et al., *BOHB*,
    ICML 2018. Running trials count as poor ones, so that workers do not all try the same values. A sampler seeded once
    would repeat its first draws in every worker and each time a tuning resumes; this one has no state to lose.

    Args:
        seed: With one worker, the same seed gives the same trials.
        distributions: Distributions of all parameters.
    """

    def __init__(self, seed: int, distributions: Mapping[str, BaseDistribution]) -> None:
        self.seed = seed
        self.distributions = {name: one for name, one in distributions.items() if not one.single()}
        self._sampler: tuple[int, TPESampler] | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters, whether or not earlier trials have them."""
        del study, trial
        return self.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draws all parameters jointly, or none while there are too few trials to learn from."""
        return self._of(study, trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draws one parameter that was not drawn jointly."""
        return self._of(study, trial).sample_independent(study, trial, param_name, param_distribution)

    def _of(self, study: Study, trial: FrozenTrial) -> TPESampler:
        if self._sampler is None or self._sampler[0] != trial.number:
            earlier = study.get_trials(deepcopy=False)[: trial.number]
            number = trial.number - sum(INTERRUPTED in one.user_attrs for one in earlier)
            seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
            self._sampler = trial.number, TPESampler(seed=seed, multivariate=True, constant_liar=True)
        return self._sampler[1]
