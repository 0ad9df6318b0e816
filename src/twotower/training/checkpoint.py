"""Checkpoints: a training's state on disk, from which an interrupted one goes on to the same bits."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from twotower.errors import SavedFolderError
from twotower.evaluation.history import TrainingHistory
from twotower.features.lookups import Table
from twotower.files import MarkedFolder, replaced_folder
from twotower.model.sharding import shards_of
from twotower.model.two_tower import TwoTower
from twotower.ranks import ALONE, Ranks
from twotower.shards import Shard
from twotower.tensors import ShardOf, read_tensors, write_tensors
from twotower.training.identity import Identity

EVERY_SECONDS = 5.0
"""Seconds of training that an interruption may cost, beside the epoch it falls in."""

Weights = dict[str, Tensor]


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    identity: Identity
    history: TrainingHistory


def _is_state(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw, type=_State)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return False
    return True


STATE, WEIGHTS, OPTIMIZER, BEST = "state.json", "weights.safetensors", "optimizer.safetensors", "best.safetensors"

KIND = MarkedFolder("a checkpoint", STATE, _is_state, ("*.safetensors",))


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
        history = ranks.from_first(self._read, TrainingHistory | None)
        if history is None:
            return None
        of_weights, of_moments = _shards_of_weights(model), _shards_of_moments(optimizer)
        weights, moments, best = (
            read_tensors(self.folder / name, ranks, shard_of, model.device)
            for name, shard_of in ((WEIGHTS, of_weights), (OPTIMIZER, of_moments), (BEST, of_weights))
        )
        model.load_state_dict(weights)
        _restore_optimizer(optimizer, moments)
        return history, best

    def _read(self) -> TrainingHistory | None:
        """The history that the folder holds, whose other files can be read; None where it is not there."""
        if not self.folder.exists():
            return None
        try:
            state = msgspec.json.decode((self.folder / STATE).read_bytes(), type=_State)
            for name in (WEIGHTS, OPTIMIZER, BEST):
                with safe_open(self.folder / name, framework="pt"):
                    pass
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
        return state.history

    def save(
        self, model: TwoTower, optimizer: Optimizer, history: TrainingHistory, best: Weights, ranks: Ranks = ALONE
    ) -> None:
        """Replaces the folder's content, unless the last time was a moment ago; all ranks call it, the first writes."""
        if ranks.from_first(lambda: time.monotonic() - self._written < EVERY_SECONDS, bool):
            return
        of_weights, of_moments = _shards_of_weights(model), _shards_of_moments(optimizer)
        with replaced_folder(self.folder, KIND) if ranks.is_first else nullcontext(Path()) as building:
            if ranks.is_first:
                (building / STATE).write_bytes(msgspec.json.encode(_State(self.identity, history)))
            write_tensors(building / WEIGHTS, model.state_dict(), ranks, of_weights)
            write_tensors(building / OPTIMIZER, _optimizer_tensors(optimizer), ranks, of_moments)
            write_tensors(building / BEST, best, ranks, of_weights)
        self._written = time.monotonic()


def _shards_of_weights(model: TwoTower) -> ShardOf:
    shards = shards_of(model)
    return lambda name, _: shards.get(name)


def _shards_of_moments(optimizer: Optimizer) -> ShardOf:
    """How ranks share out what the optimiser keeps of each row of a table, as `_optimizer_tensors` names it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def shard_of(name: str, dimensions: int) -> Shard | None:
        parameter = parameters[int(name.partition(".")[0])]
        return parameter.shard if isinstance(parameter, Table) and dimensions == parameter.dim() else None

    return shard_of


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
