"""`MLflow`: logs metrics and settings of a training as a run of an MLflow experiment."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from twotower.extras import check_installed, require
from twotower.training.loggers.base import LOGGERS, Logger, flat

MAX_PARAMETER_LENGTH = 500
"""Longer parameter values are truncated to this many characters, which every MLflow store accepts."""


@LOGGERS.register
class MLflow(Logger):
    """Logs a training as a run of an MLflow experiment: settings as parameters, metrics by epoch; extra `mlflow`.

    A run that failed or was interrupted is marked as failed. MLflow's active run is not touched.

    Args:
        experiment: The experiment; created if it does not exist.
        uri: The tracking server, such as `http://mlflow:5000` or `sqlite:///runs.db`; default: MLflow's own
            configuration, e.g. `MLFLOW_TRACKING_URI`.
        name: Name of the run.

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
        """Starts a run."""
        mlflow = require("mlflow", "mlflow")
        self._client = mlflow.MlflowClient(tracking_uri=self.uri)
        self._metric = mlflow.entities.Metric
        experiment = self._client.get_experiment_by_name(self.experiment)
        number = self._client.create_experiment(self.experiment) if experiment is None else experiment.experiment_id
        self._run = self._client.create_run(number, run_name=self.name).info.run_id
        parameters = [
            mlflow.entities.Param(name, str(value)[:MAX_PARAMETER_LENGTH]) for name, value in flat(settings).items()
        ]
        self._client.log_batch(self._run, params=parameters[:100])

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Writes an epoch's metrics."""
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [self._metric(name, value, now, epoch) for name, value in figures.items()])

    def close(self, failed: bool) -> None:
        """Ends the run."""
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")
