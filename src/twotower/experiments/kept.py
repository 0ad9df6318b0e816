"""Reads what a finished run left in the store: its order, outcome, ranks, history, model and moments."""

from __future__ import annotations

from pathlib import Path

import msgspec

from twotower.errors import SavedFolderError
from twotower.evaluation import Outcomes
from twotower.evaluation.history import TrainingHistory
from twotower.experiments.orders import HISTORY, MODEL, MOMENTS, RANKS, Order
from twotower.experiments.results import ModelOutcome
from twotower.experiments.store import SPEC, Store
from twotower.files import check_file_target, write_file
from twotower.model.saving import load_model
from twotower.model.two_tower import TwoTower
from twotower.training.moments import is_moments


def order_of(store: Store, key: str) -> Order:
    """The order of a run.

    Raises:
        SavedFolderError: Its file is missing or damaged.
    """
    path = store.folder_of(key) / SPEC
    try:
        return msgspec.json.decode(path.read_bytes(), type=Order)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise SavedFolderError(f"{path} cannot be read: {error}") from error


def outcome_of(store: Store, key: str) -> ModelOutcome:
    """The outcome of a model run.

    Raises:
        SavedFolderError: It is missing or damaged.
    """
    found = store.outcome(key, ModelOutcome)
    if found is None:
        raise SavedFolderError(f"{store.folder_of(key)} holds no finished model; rerun the command")
    return found


def ranks_of(store: Store, key: str) -> Outcomes:
    """The rank of every event the run was measured on."""
    return Outcomes.read(store.folder_of(key) / RANKS)


def history_of(store: Store, key: str) -> TrainingHistory:
    """The training history of a finished run; that of the search, if there was one."""
    return msgspec.json.decode((store.folder_of(key) / HISTORY).read_bytes(), type=TrainingHistory)


def model_of(store: Store, key: str) -> TwoTower:
    """The model of a finished run."""
    return load_model(store.folder_of(key) / MODEL)


def copy_moments(store: Store, key: str, file: Path) -> None:
    """Copies a run's optimizer state to a file, replacing earlier moments there.

    Raises:
        ConfigError: The file holds something else, or cannot be written.
    """
    kept = store.folder_of(key) / MOMENTS
    if kept.is_file():
        write_file(check_file_target(file, is_moments, "moments"), kept.read_bytes())
