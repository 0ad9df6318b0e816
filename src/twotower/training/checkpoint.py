"""Checkpoints: a training's state on disk, from which an interrupted one goes on to the same bits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from twotower.errors import SavedFolderError
from twotower.evaluation.history import TrainingHistory
from twotower.files import MarkedFolder, replaced_folder
from twotower.model.two_tower import TwoTower
from twotower.ranks import ALONE, Ranks
from twotower.training.identity import Identity

EVERY_SECONDS = 5.0
"""Seconds of training that an interruption may cost, beside the epoch it falls in."""

Weights = dict[str, Tensor]


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    identity: Identity
    history: TrainingHistory


@dataclass(frozen=True)
class _Saved:
    history: TrainingHistory
    weights: Weights
    moments: Weights
    best: Weights


def _is_state(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw, type=_State)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return False
    return True


KIND = MarkedFolder("a checkpoint", "state.json", _is_state, ("*.safetensors",))


class Checkpoint:
    """A folder that holds the latest state of one training.

    Args:
        folder: Where; replaced as a whole each time.
        identity: What the training is, from `identity_of`: another one does not go on from it.
    """

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.folder, self.identity = folder, identity
        self._written = time.monotonic()

    def resume(
        self, model: TwoTower, optimizer: Optimizer, ranks: Ranks = ALONE
    ) -> tuple[TrainingHistory, Weights] | None:
        """Puts the saved state into model and optimiser; None where there is none.

        Args:
            model: The model.
            optimizer: Its optimiser.
            ranks: Those that train together, of which the first reads for all.

        Returns:
            The history so far, and the best weights so far, empty where none are kept.

        Raises:
            SavedFolderError: The folder holds another training, or cannot be read.
        """
        found: list[_Saved] = []

        def read() -> TrainingHistory | None:
            found.extend(self._read())
            return found[0].history if found else None

        history = ranks.from_first(read, TrainingHistory | None)
        if history is None:
            return None
        weights, moments, best = (
            ranks.tensors_from_first(getattr(found[0], name) if found else {}, model.device)
            for name in ("weights", "moments", "best")
        )
        model.load_state_dict(weights)
        _restore_optimizer(optimizer, moments)
        return history, best

    def _read(self) -> list[_Saved]:
        """What the folder holds; nothing where it is not there."""
        if not self.folder.exists():
            return []
        try:
            state = msgspec.json.decode((self.folder / "state.json").read_bytes(), type=_State)
            weights = load_file(self.folder / "weights.safetensors")
            moments = load_file(self.folder / "optimizer.safetensors")
            best = load_file(self.folder / "best.safetensors")
        except (OSError, SafetensorError, msgspec.DecodeError) as error:
            raise SavedFolderError(
                f"the checkpoint {self.folder} cannot be read ({error}); delete it to start anew"
            ) from error
        names = [*self.identity, *(name for name in state.identity if name not in self.identity)]
        if differing := [name for name in names if self.identity.get(name) != state.identity.get(name)]:
            raise SavedFolderError(
                f"the checkpoint {self.folder} is of another training, whose {' and '.join(differing)} differ; "
                f"delete it to start anew"
            )
        return [_Saved(state.history, weights, moments, best)]

    def save(self, model: TwoTower, optimizer: Optimizer, history: TrainingHistory, best: Weights) -> None:
        """Replaces the folder's content, unless the last time was a moment ago."""
        if time.monotonic() - self._written < EVERY_SECONDS:
            return
        with replaced_folder(self.folder, KIND) as building:
            (building / "state.json").write_bytes(msgspec.json.encode(_State(self.identity, history)))
            save_file(model.state_dict(), building / "weights.safetensors")
            save_file(_optimizer_tensors(optimizer), building / "optimizer.safetensors")
            save_file(best, building / "best.safetensors")
        self._written = time.monotonic()


def _optimizer_tensors(optimizer: Optimizer) -> Weights:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(value).contiguous()
        for number, values in state.items()
        for name, value in values.items()
    }


def _restore_optimizer(optimizer: Optimizer, moments: Weights) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
