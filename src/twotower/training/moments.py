"""`Moments`: the optimiser state of each weight, kept from one training to the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer as TorchOptimizer

from twotower.arguments import checks_arguments
from twotower.errors import ConfigError, SavedFolderError
from twotower.features.lookups import Table
from twotower.files import check_file_target, replaced_file
from twotower.model.learning import Growth
from twotower.model.two_tower import TwoTower
from twotower.ranks import ALONE, Ranks
from twotower.shards import Shard
from twotower.tensors import write_tensors
from twotower.training.optimizers import Adagrad, AdamW, Optimizer

KIND = "twotower moments"
NAMES = {"step", "sum", "exp_avg", "exp_avg_sq"}
"""Names of the optimiser state of a weight."""


class Moments:
    """The optimiser state of each weight: running means, sums of squares, step counts.

    Pass the same object to every `Trainer.fit`, and each training starts with the state that the previous one left.
    `grow` follows `TwoTower.grow`: known ids keep their state, and new ones start without.

    After a training with sharded tables, each rank has the state of the rows that it holds. All ranks must then call
    `grow`, `save` and the next `Trainer.fit` together.

    Attributes:
        optimizer: The optimiser that the state belongs to; None until something was trained.
        towers: Version of the model that the state belongs to, if the file it was read from names one.
        tensors: Tensors by parameter name, then by the optimiser's name for them.
        shards: Of a sharded table, which rows this rank has the state of, by parameter name.

    Example:
        >>> import pyarrow as pa
        >>> from twotower import AdamW, Category, Tower, Trainer, data
        >>> ids = {"query_id": "who", "candidate_id": "what"}
        >>> monday = data.from_tables(pa.table({"who": ["a", "b"], "what": [1, 2]}), **ids)
        >>> tuesday = data.from_tables(pa.table({"who": ["a", "c"], "what": [1, 3]}), **ids)
        >>> model = TwoTower(Tower([Category("who", 8)]), Tower([Category("what", 8)]))
        >>> trainer, moments = Trainer(epochs=1), Moments()
        >>> _ = trainer.fit(model, monday, moments=moments)
        >>> moments.grow(model.grow(tuesday))
        >>> _ = trainer.fit(model, tuesday, moments=moments)
        >>> moments.tensors["candidate.features.0.table"]["step"].item()
        2.0
    """

    def __init__(self) -> None:
        self.optimizer: Optimizer | None = None
        self.towers: str | None = None
        self.tensors: dict[str, dict[str, Tensor]] = {}
        self.shards: dict[str, Shard] = {}

    def grow(self, growth: Growth) -> None:
        """Rearranges table rows as `TwoTower.grow` did; new rows start as in a new training."""
        self._gather()
        initial = self.optimizer.initial_accumulator if isinstance(self.optimizer, Adagrad) else 0.0
        for name, rows in growth.tables.items():
            if (known := self.tensors.get(name)) is not None:
                self.tensors[name] = {
                    what: rows.moments(tensor, initial) if tensor.dim() else tensor for what, tensor in known.items()
                }

    def take(self, model: TwoTower, optimizer: TorchOptimizer, settings: Optimizer) -> None:
        """Copies the state of an optimiser after a training."""
        names = _names_of(model, optimizer)
        state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
        self.optimizer, self.towers = settings, None
        self.tensors = {
            names[number]: {name: torch.as_tensor(value).detach().cpu().clone() for name, value in values.items()}
            for number, values in state.items()
        }
        self.shards = {name: shard for name, one in model.named_parameters() if (shard := _shard_of(one)) is not None}

    def give(self, model: TwoTower, optimizer: TorchOptimizer, settings: Optimizer) -> None:
        """Loads the kept state into a new optimiser; weights without kept state start as in a new training.

        Raises:
            ConfigError: The state belongs to another kind of optimiser, or to weights of other shapes.
        """
        if self.optimizer is None:
            return
        if type(settings) is not type(self.optimizer):
            raise ConfigError(
                f"moments of {type(self.optimizer).__name__}, but the optimizer is {type(settings).__name__}; expected "
                f"the same optimizer, or Moments() to start without",
                field="moments",
            )
        weights, given = dict(model.named_parameters()), optimizer.state_dict()
        if any(_layout(shard) != _layout(_shard_of(weights.get(name))) for name, shard in self.shards.items()):
            self._gather()  # the model's tables are not sharded any more, or otherwise
        for number, name in enumerate(_names_of(model, optimizer)):
            if (known := self.tensors.get(name)) is None:
                continue
            shard = None if name in self.shards else _shard_of(weights[name])
            shape = [*weights[name].shape] if shard is None else [shard.rows, *weights[name].shape[1:]]
            for tensor in known.values():
                if tensor.dim() and [*tensor.shape] != shape:
                    raise ConfigError(
                        f"moments of {name} have shape {[*tensor.shape]}, but its weights {shape}; expected the same: "
                        f"pass the result of model.grow(…) to moments.grow(…)",
                        field="moments",
                    )
            given["state"][number] = {
                what: (shard.take(tensor) if shard is not None and tensor.dim() else tensor).clone()
                for what, tensor in known.items()
            }
        optimizer.load_state_dict(given)

    @checks_arguments
    def save(self, file: str | Path, towers: str | None = None) -> None:
        """Writes the moments to a safetensors file; may replace only a file of moments.

        Of sharded tables, the file holds the state of all rows: all ranks call this together, and the first one writes.

        Args:
            file: The file.
            towers: Version of the model that they belong to, stored in the file.

        Raises:
            ConfigError: Nothing was trained, or the file holds something else or cannot be written.
        """
        if self.optimizer is None:
            raise ConfigError("there are no moments to save: train with them first")
        marks = {"kind": KIND, "optimizer": msgspec.json.encode(self.optimizer).decode()}
        marks |= {} if towers is None else {"towers": towers}
        flat = {f"{name}|{what}": one.contiguous() for name, own in self.tensors.items() for what, one in own.items()}
        ranks = self._ranks

        def shard_of(key: str, dimensions: int) -> Shard | None:
            return self.shards.get(key.partition("|")[0]) if dimensions else None

        target = Path(ranks.from_first(lambda: str(check_file_target(Path(file), is_moments, "moments")), str))

        def written() -> bool:
            with replaced_file(target) as building:
                write_tensors(building, flat, ranks, shard_of, marks)
            return True

        if not ranks.is_first:
            write_tensors(Path(), flat, ranks, shard_of)
        ranks.from_first(written, bool)

    @classmethod
    def load(cls, file: str | Path) -> Moments:
        """Reads what `save` wrote.

        Raises:
            SavedFolderError: The file is missing, damaged or something else.
        """
        moments = cls()
        try:
            with safe_open(file, framework="pt") as opened:
                marks = opened.metadata() or {}
                if marks.get("kind") != KIND:
                    raise ValueError(f"it is of kind {marks.get('kind')!r}")
                moments.optimizer = msgspec.json.decode(marks["optimizer"], type=Adagrad | AdamW)
                moments.towers = marks.get("towers")
                for key in opened.keys():  # noqa: SIM118 (not a mapping)
                    name, _, what = key.partition("|")
                    if what not in NAMES:
                        raise ValueError(f"it has {what!r}")
                    moments.tensors.setdefault(name, {})[what] = opened.get_tensor(key)
        except (OSError, ValueError, KeyError, SafetensorError, msgspec.MsgspecError) as error:
            raise SavedFolderError(f"{file} holds no moments: {error}") from error
        return moments

    @property
    def _ranks(self) -> Ranks:
        """The ranks that have the state together."""
        return next((shard.ranks for shard in self.shards.values()), ALONE)

    def _gather(self) -> None:
        """Gathers the state of sharded tables on every rank; all ranks call it."""
        for name, shard in self.shards.items():
            self.tensors[name] = {
                what: torch.cat([block.cpu() for block in shard.gathered(tensor)]) if tensor.dim() else tensor
                for what, tensor in self.tensors.get(name, {}).items()
            }
        self.shards = {}


def is_moments(file: Path) -> bool:
    """Whether a file holds moments, so that new ones may replace it."""
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get("kind") == KIND
    except (OSError, SafetensorError):
        return False


def _names_of(model: TwoTower, optimizer: TorchOptimizer) -> list[str]:
    """Parameter names in the optimiser's order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def _shard_of(parameter: Tensor | None) -> Shard | None:
    return parameter.shard if isinstance(parameter, Table) else None


def _layout(shard: Shard | None) -> tuple[int, int] | None:
    return None if shard is None else (shard.rows, shard.ranks.size)
