"""`MLflow`: a training's figures and settings as a run of an MLflow experiment."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from twotower.extras import check_installed, require
from twotower.training.loggers.base import LOGGERS, Logger, flat

LONGEST_PARAMETER = 500
"""Characters of a parameter's value that every MLflow store takes; what is longer is cut off."""


@LOGGERS.register
class MLflow(Logger):
    """Makes a run of an MLflow experiment: settings as parameters, each epoch's figures as metrics; extra `mlflow`.

    A run that failed or was interrupted is marked so. MLflow's own active run is left alone.

    Args:
        experiment: The experiment; made where there is none.
        uri: The tracking server, such as `http://mlflow:5000` or `sqlite:///runs.db`; default: what MLflow is
            configured with, by `MLFLOW_TRACKING_URI` for one.
        name: The run.

    Raises:
        MissingExtraError: MLflow is not installed.

    Example:
        >>> Trainer(epochs=10).fit(model, train, callbacks=[MLflow("retrieval")])  # doctest: +SKIP
    """

    kind = "mlflow"

    def __init__(self, experiment: str = "twotower", uri: str | None = None, name: str = "training") -> None:
        super().__init__(name)
        check_installed("mlflow", "mlflow")
        self.experiment, self.uri = experiment, uri

    def open(self, settings: Mapping[str, Any]) -> None:
        """Begins a run."""
        mlflow = require("mlflow", "mlflow")
        self._client = mlflow.MlflowClient(tracking_uri=self.uri)
        self._metric = mlflow.entities.Metric
        experiment = self._client.get_experiment_by_name(self.experiment)
        number = self._client.create_experiment(self.experiment) if experiment is None else experiment.experiment_id
        self._run = self._client.create_run(number, run_name=self.name).info.run_id
        parameters = [
            mlflow.entities.Param(name, str(value)[:LONGEST_PARAMETER]) for name, value in flat(settings).items()
        ]
        self._client.log_batch(self._run, params=parameters[:100])

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Writes an epoch's figures."""
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [self._metric(name, value, now, epoch) for name, value in figures.items()])

    def close(self, failed: bool) -> None:
        """Ends the run."""
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")
