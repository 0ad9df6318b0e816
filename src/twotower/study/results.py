"""What a study found, as the plain values that `results.json` holds and the report is made of."""

from __future__ import annotations

from pathlib import Path

import msgspec

from twotower.errors import SavedFolderError
from twotower.evaluation.metrics import Metrics, Scores
from twotower.files import write_file
from twotower.saved import read_json

__all__ = [
    "CurvePoint",
    "DataSummary",
    "Metrics",
    "Run",
    "Scores",
    "Seconds",
    "Study",
    "read_results",
    "write_results",
]


class CurvePoint(msgspec.Struct, frozen=True):
    """One validation: `loss` is the mean over the whole epoch before it."""

    epoch: int
    loss: float
    all: Metrics
    unseen: Metrics


class Seconds(msgspec.Struct, frozen=True):
    """Where a run's time went."""

    train: float
    validate: float


class Run(msgspec.Struct, frozen=True):
    """One model trained with one seed.

    Attributes:
        layers: Widths of the dense layers of both towers.
        seed: Seed of the initial weights and of the batches.
        recipe: `tutorial` or `tuned`.
        epochs: Epochs trained, early stopping included.
        parameters: Trained numbers in the model.
        seconds: Time spent training and validating (a refit on all of train included).
        history: The validated epochs, on `Study.curves_on`.
        losses: Mean loss of every epoch, the first first.
        final: The finished model on the test part.
        best_epoch: The epoch with the best validated score.
    """

    layers: list[int]
    seed: int
    recipe: str
    epochs: int
    parameters: int
    seconds: Seconds
    history: list[CurvePoint]
    losses: list[float]
    final: Scores
    best_epoch: int

    @property
    def label(self) -> str:
        """The layers as reports write them, `[64, 32]`."""
        return str(self.layers)


class DataSummary(msgspec.Struct, frozen=True):
    """Which data a study ran on, cut how."""

    name: str
    interactions: int
    queries: int
    candidates: int
    train: int
    validation: int
    test: int
    split: str
    fingerprint: str
    dropped: int = 0
    terms: str = ""


class Study(msgspec.Struct, frozen=True):
    """Everything a study found.

    Attributes:
        data: The data and its split.
        baselines: `popularity`, `item_knn`, `ease`, `ials`, where test follows train `recent_popularity`, and where
            the truth is known `oracle`, on the test part.
        runs: Every model trained: each depth with each seed.
        curves_on: The part that `Run.history` and `curve_baselines` are measured on: `test`, as the
            tutorial does, or `validation`, a part cut from train.
        curve_baselines: The baselines on the part that the curves are measured on.
        metric: The metric the curves show, `top_100`.
        verdicts: What the figures say, in sentences.
        command: The command that repeats the study.
        versions: Versions of twotower, Python and PyTorch, and the threads used.
        created: When, in ISO 8601.
        seconds: Seconds the whole study took.
    """

    data: DataSummary
    baselines: dict[str, Scores]
    runs: list[Run]
    curves_on: str
    curve_baselines: dict[str, Scores]
    metric: str
    verdicts: list[str]
    command: str
    versions: dict[str, str]
    created: str
    seconds: float


def write_results(study: Study, path: Path) -> None:
    """Writes `results.json`."""
    write_file(path, msgspec.json.format(msgspec.json.encode(study), indent=1))


def read_results(path: Path) -> Study:
    """Reads what `write_results` wrote.

    Raises:
        SavedFolderError: The file is missing or is not a study's results.
    """
    try:
        return read_json(path, Study)
    except SavedFolderError as error:
        raise SavedFolderError(f"{path} holds no study's results: {error}") from error
