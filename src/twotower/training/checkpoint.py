"""Checkpoints: the state of a training on disk; a resumed training gives bit-identical results."""

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
"""Minimum seconds between checkpoints; an interruption costs at most this much training plus the current epoch."""

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
        folder: The folder; replaced as a whole each time.
        identity: Identity of the training, from `identity_of`; only the same training can resume from it.
    """

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.folder, self.identity = folder, identity
        self._written = time.monotonic()

    def resume(
        self, model: TwoTower, optimizer: Optimizer, ranks: Ranks = ALONE
    ) -> tuple[TrainingHistory, Weights] | None:
        """Restores the saved state of model and optimiser, if there is one.

        Args:
            model: The model.
            optimizer: Its optimiser.
            ranks: The ranks that train together; the first reads for all.

        Returns:
            The history and the best weights so far (empty if none are kept); None without a checkpoint.

        Raises:
            SavedFolderError: The folder belongs to another training, or cannot be read.
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
        """Reads the history and checks that the other files are readable; None if the folder does not exist."""
        if not self.folder.exists():
            return None
        try:
            state = msgspec.json.decode((self.folder / STATE).read_bytes(), type=_State)
            for name in (WEIGHTS, OPTIMIZER, BEST):
                with safe_open(self.folder / name, framework="pt"):
                    pass
        except (OSError, SafetensorError, msgspec.DecodeError) as error:
            raise SavedFolderError(
                f"the checkpoint {self.folder} cannot be read ({error}); delete it to start over"
            ) from error
        names = [*self.identity, *(name for name in state.identity if name not in self.identity)]
        if differing := [name for name in names if self.identity.get(name) != state.identity.get(name)]:
            raise SavedFolderError(
                f"the checkpoint {self.folder} is from another training run that differs in "
                f"{' and '.join(differing)}; delete it to start over"
            )
        return state.history

    def save(
        self, model: TwoTower, optimizer: Optimizer, history: TrainingHistory, best: Weights, ranks: Ranks = ALONE
    ) -> None:
        """Saves the state, unless that was done just before; collective: all ranks call it, and the first writes."""
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
    """Shards of the optimiser state of sharded tables, by the names of `_optimizer_tensors`."""
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
