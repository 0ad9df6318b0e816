"""The results of a tuning as plain values, stored in `tune.json` and shown in the report."""

from __future__ import annotations

from typing import Any

import msgspec

from twotower.evaluation.comparisons import Comparison
from twotower.evaluation.metrics import Scores
from twotower.experiments.results import Cut, ModelOutcome
from twotower.experiments.tuning.trials import TrialRecord


class Final(msgspec.Struct, frozen=True, kw_only=True):
    """A config trained on all of train and measured on test.

    Attributes:
        trial: Number of its trial; None for the built-in config without a complete trial.
        score: Score of its trial on validation.
        key: Name of its folder in `runs/`.
        outcome: Results of training and measuring it.
    """

    trial: int | None
    score: float | None
    key: str
    outcome: ModelOutcome


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """All results of a tuning.

    Attributes:
        cut: The data and their split.
        metric: The metric that trials are compared by on validation.
        test_metric: The metric that the best config is compared by on test.
        space: Range of each key.
        trials: All trials that ended, in order.
        best: The config with the best validation score; the built-in one if none is better.
        built_in: The built-in config; None if its training failed.
        importances: Share of the differences between trials that each key explains; empty if there are too few trials.
        baselines: Scores of the baselines on test.
        comparisons: The best config compared with each baseline and with the built-in config.
        verdicts: The conclusions, in sentences.
        command: The command that repeats the tuning.
        versions: Versions of twotower, Python, PyTorch and Optuna; the number of workers and their threads.
        created: Time of creation, in ISO 8601.
        seconds: Duration of the last command.
    """

    cut: Cut
    metric: str
    test_metric: str
    space: dict[str, Any]
    trials: list[TrialRecord]
    best: Final
    built_in: Final | None
    importances: dict[str, float]
    baselines: dict[str, Scores]
    comparisons: list[Comparison]
    verdicts: list[str]
    command: str
    versions: dict[str, str]
    created: str
    seconds: float
