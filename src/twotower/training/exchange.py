"""What ranks that train together exchange: the gradient of a step, the state to begin with, and what is decided."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from twotower.errors import ConfigError
from twotower.features.lookups import Table, coalesced, summed_rows
from twotower.model.sharding import shards_of
from twotower.model.two_tower import TwoTower
from twotower.ranks import Ranks
from twotower.training.identity import Identity, digest
from twotower.training.lazy import LazyAdagrad, LazyAdamW
from twotower.version import VERSION

log = logging.getLogger("twotower")


def backward(loss: Tensor, parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Makes the gradient of a step, the same on every rank: of what all have computed.

    Args:
        loss: The loss of the step, which every rank has.
        parameters: The model's.
        ranks: Those that train together.
    """
    if ranks.size == 1:
        loss.backward()  # type: ignore[no-untyped-call]
        return
    (loss / ranks.size).backward()  # type: ignore[no-untyped-call]
    given = [parameter for parameter in parameters if parameter.grad is not None and not _is_sharded(parameter)]
    sum_dense([one for one in given if not one.grad.is_sparse], ranks)  # type: ignore[union-attr]
    sum_rows([one for one in given if one.grad.is_sparse], ranks)  # type: ignore[union-attr]


def _is_sharded(parameter: nn.Parameter) -> bool:
    """Whether ranks share out a table's rows, and each has the gradient of its own from all ranks already."""
    return isinstance(parameter, Table) and parameter.shard is not None


@torch.no_grad()
def sum_dense(parameters: list[nn.Parameter], ranks: Ranks) -> None:
    """Adds up the ranks' gradients of parameters, in one exchange."""
    if not parameters:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    whole = ranks.sum(torch.cat([gradient.flatten() for gradient in gradients]))
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, total in zip(gradients, whole.split_with_sizes(sizes), strict=True):
        gradient.copy_(total.view_as(gradient))


@torch.no_grad()
def sum_rows(tables: list[nn.Parameter], ranks: Ranks) -> None:
    """Adds up the ranks' gradients of the rows of tables: what is exchanged are the rows that a rank has touched."""
    if not tables:
        return
    own = [coalesced(table.grad) for table in tables if table.grad is not None]
    counts = torch.tensor([one.values().shape[0] for one in own], device=own[0].device)
    each = ranks.gather(counts).view(ranks.size, len(tables)).T.tolist()  # [tables][ranks]
    for table, gradient, lengths in zip(tables, own, each, strict=True):
        if (longest := max(lengths)) == 0:
            continue
        rows = _from_all(gradient.indices()[0].int(), lengths, longest, ranks)
        values = _from_all(gradient.values(), lengths, longest, ranks)
        table.grad = summed_rows(rows.unsqueeze(1), values, table.shape)


def _from_all(own: Tensor, lengths: list[int], longest: int, ranks: Ranks) -> Tensor:
    """All ranks' tensors `[n, …]`, of which each has as many rows as `lengths` says, one after the other."""
    padded = own.new_zeros(longest, *own.shape[1:])
    padded[: len(own)] = own
    whole = ranks.gather(padded).view(ranks.size, longest, *own.shape[1:])
    return torch.cat([part[:length] for part, length in zip(whole, lengths, strict=True)])


def require_same_training(ranks: Ranks, identity: Identity, sharding: str) -> None:
    """Refuses to train where ranks have other data, settings or versions than the first.

    Raises:
        ConfigError: It names the rank and what differs.
    """
    found = identity | {"sharding": sharding, "twotower": VERSION, "PyTorch": str(torch.__version__)}
    ranks.require_same(found, "expected the same settings, data and versions on all ranks")


def begin_alike(ranks: Ranks, model: TwoTower) -> None:
    """Gives every rank the first one's weights; of tables that are shared out, all have drawn the same from one seed.

    Raises:
        ConfigError: The models have other parameters; or a batch norm, whose statistics would be of a part of a batch.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"{name} normalises over a batch, of which each of {ranks.size} ranks has a part; expected norm='layer'"
            )
    state, shards = model.state_dict(), shards_of(model)
    shapes = {name: list(one.shape) if name not in shards else [shards[name].rows] for name, one in state.items()}
    ranks.require_same({"the shapes of weights": digest(shapes)}, "expected the same model on all ranks")
    for name, tensor in state.items():
        if name not in shards:
            ranks.broadcast(tensor)


def require_same_draws(ranks: Ranks, device: torch.device) -> None:
    """Refuses to go on where ranks have drawn different random numbers.

    Raises:
        ConfigError: They have.
    """
    state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    drawn = hashlib.sha256(state.numpy().tobytes()).hexdigest()[:16]
    ranks.require_same(
        {"random numbers": drawn},
        "expected features, layers and tasks that draw by twotower.randomness.uniform, so that all ranks draw alike",
    )


def say_what_is_exchanged(ranks: Ranks, model: TwoTower, optimizer: Optimizer, batch_size: int) -> None:
    """Logs how a step is shared out, and which tables are exchanged as a whole."""
    if not ranks.is_first:
        return
    lazy = optimizer.tables if isinstance(optimizer, LazyAdagrad | LazyAdamW) else []
    of_rows = [table for table in lazy if table.shard is None]
    sharded = [parameter for parameter in model.parameters() if isinstance(parameter, Table) and _is_sharded(parameter)]
    counts = [sum(table.whole_rows * table.shape[1] for table in tables) for tables in (of_rows, sharded)]
    log.info(
        "%d ranks share batches of %d events; %d tables (%d numbers) are sharded; rows of a step are exchanged of %d "
        "(%d numbers), all of other weights (%d numbers)",
        ranks.size,
        batch_size,
        len(sharded),
        counts[1],
        len(of_rows),
        counts[0],
        model.parameter_count - sum(counts),
    )
