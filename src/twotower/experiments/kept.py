"""What a finished run has kept in the store: its order, outcome, ranks, history, model and moments."""

from __future__ import annotations

from pathlib import Path

import msgspec

from twotower.errors import SavedFolderError
from twotower.evaluation import Outcomes
from twotower.evaluation.history import TrainingHistory
from twotower.experiments.results import ModelOutcome
from twotower.experiments.run import HISTORY, MODEL, MOMENTS, RANKS, Order
from twotower.experiments.store import SPEC, Store
from twotower.files import check_file_target, write_file
from twotower.model.saving import load_model
from twotower.model.two_tower import TwoTower
from twotower.training.moments import is_moments


def order_of(store: Store, key: str) -> Order:
    """What a run was asked to do.

    Raises:
        SavedFolderError: Its file is missing or damaged.
    """
    path = store.folder_of(key) / SPEC
    try:
        return msgspec.json.decode(path.read_bytes(), type=Order)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise SavedFolderError(f"{path} cannot be read: {error}") from error


def outcome_of(store: Store, key: str) -> ModelOutcome:
    """What a finished model gave.

    Raises:
        SavedFolderError: It is not there any more, or damaged.
    """
    found = store.outcome(key, ModelOutcome)
    if found is None:
        raise SavedFolderError(f"{store.folder_of(key)} holds no finished model; run the command again")
    return found


def ranks_of(store: Store, key: str) -> Outcomes:
    """The rank of every test event that a finished run gave."""
    return Outcomes.read(store.folder_of(key) / RANKS)


def history_of(store: Store, key: str) -> TrainingHistory:
    """The epochs of a finished run's model: those of the search, where there was one."""
    return msgspec.json.decode((store.folder_of(key) / HISTORY).read_bytes(), type=TrainingHistory)


def model_of(store: Store, key: str) -> TwoTower:
    """The model of a finished run."""
    return load_model(store.folder_of(key) / MODEL)


def copy_moments(store: Store, key: str, file: Path) -> None:
    """Copies the optimizer state of a run to a file, which may hold other moments; a run with sharded tables has none.

    Raises:
        ConfigError: The file holds something else, or cannot be written.
    """
    kept = store.folder_of(key) / MOMENTS
    if kept.is_file():
        write_file(check_file_target(file, is_moments, "moments"), kept.read_bytes())
