"""What a tuning found, as the plain values that `tune.json` holds and the report is made of."""

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
        trial: Number of its trial; None: the built-in config, of which no trial is complete.
        score: Of its trial, on validation.
        key: Names its folder in `runs/`.
        outcome: What training and measuring it gave.
    """

    trial: int | None
    score: float | None
    key: str
    outcome: ModelOutcome


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a tuning found.

    Attributes:
        cut: The data and its split.
        metric: What trials are compared by, on the validation part.
        test_metric: What the best config is compared by on test.
        space: Range of each key.
        trials: All that ended, the first first.
        best: The config that validated best; the built-in one where none is better.
        built_in: The built-in config; None where its training failed.
        importances: Share of the differences between trials that each key explains; none where they are few.
        baselines: Scores of the baselines on test.
        comparisons: The best config with each baseline and with the built-in config.
        verdicts: What the figures say, in sentences.
        command: The command that repeats it.
        versions: Of twotower, Python, PyTorch and Optuna; the workers and their threads.
        created: When, in ISO 8601.
        seconds: Seconds of the last command.
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
