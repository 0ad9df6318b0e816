"""Exchanges between ranks that train together: gradients, initial weights, and checks that the ranks agree."""

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
    """Computes the gradient of a step and sums it over the ranks, so that it is the same on every rank.

    Args:
        loss: The loss of the whole step, equal on every rank.
        parameters: The model's parameters.
        ranks: The ranks that train together.
    """
    if ranks.size == 1:
        loss.backward()  # type: ignore[no-untyped-call]
        return
    (loss / ranks.size).backward()  # type: ignore[no-untyped-call]
    given = [parameter for parameter in parameters if parameter.grad is not None and not _is_sharded(parameter)]
    sum_dense([one for one in given if not one.grad.is_sparse], ranks)  # type: ignore[union-attr]
    sum_rows([one for one in given if one.grad.is_sparse], ranks)  # type: ignore[union-attr]


def _is_sharded(parameter: nn.Parameter) -> bool:
    """Whether a table is sharded; each rank then already has the summed gradient of its own rows."""
    return isinstance(parameter, Table) and parameter.shard is not None


@torch.no_grad()
def sum_dense(parameters: list[nn.Parameter], ranks: Ranks) -> None:
    """Sums the gradients of dense parameters over the ranks, in one all-reduce."""
    if not parameters:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    whole = ranks.sum(torch.cat([gradient.flatten() for gradient in gradients]))
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, total in zip(gradients, whole.split_with_sizes(sizes), strict=True):
        gradient.copy_(total.view_as(gradient))


@torch.no_grad()
def sum_rows(tables: list[nn.Parameter], ranks: Ranks) -> None:
    """Sums the sparse gradients of tables over the ranks; only the rows that a rank has touched are exchanged."""
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
    """Concatenates all ranks' tensors `[n, …]`, whose row counts are `lengths`."""
    padded = own.new_zeros(longest, *own.shape[1:])
    padded[: len(own)] = own
    whole = ranks.gather(padded).view(ranks.size, longest, *own.shape[1:])
    return torch.cat([part[:length] for part, length in zip(whole, lengths, strict=True)])


def require_same_training(ranks: Ranks, identity: Identity, sharding: str) -> None:
    """Checks that all ranks have the same data, settings and versions as the first.

    Raises:
        ConfigError: Some rank differs; the message names the rank and what differs.
    """
    found = identity | {"sharding": sharding, "twotower": VERSION, "PyTorch": str(torch.__version__)}
    ranks.require_same(found, "expected the same settings, data and versions on all ranks")


def broadcast_initial_weights(ranks: Ranks, model: TwoTower) -> None:
    """Gives every rank the first one's weights, except sharded tables, which all ranks drew from the same seed.

    Raises:
        ConfigError: The models' parameters differ, or one has a batch norm, whose statistics would cover only a part
            of a batch.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"{name} normalises over the batch, which is split between {ranks.size} ranks; expected norm='layer'"
            )
    state, shards = model.state_dict(), shards_of(model)
    shapes = {name: list(one.shape) if name not in shards else [shards[name].rows] for name, one in state.items()}
    ranks.require_same({"the shapes of weights": digest(shapes)}, "expected the same model on all ranks")
    for name, tensor in state.items():
        if name not in shards:
            ranks.broadcast(tensor)


def require_same_draws(ranks: Ranks, device: torch.device) -> None:
    """Checks that all ranks have drawn the same random numbers.

    Raises:
        ConfigError: They have not.
    """
    state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    drawn = hashlib.sha256(state.numpy().tobytes()).hexdigest()[:16]
    ranks.require_same(
        {"random numbers": drawn},
        "expected features, layers and tasks that draw with twotower.randomness.uniform, which keeps ranks in sync",
    )


def log_exchange(ranks: Ranks, model: TwoTower, optimizer: Optimizer, batch_size: int) -> None:
    """Logs how a step is split between ranks, and how the gradients of each kind of weight are exchanged."""
    if not ranks.is_first:
        return
    lazy = optimizer.tables if isinstance(optimizer, LazyAdagrad | LazyAdamW) else []
    of_rows = [table for table in lazy if table.shard is None]
    sharded = [parameter for parameter in model.parameters() if isinstance(parameter, Table) and _is_sharded(parameter)]
    counts = [sum(table.whole_rows * table.shape[1] for table in tables) for tables in (of_rows, sharded)]
    log.info(
        "%d ranks split batches of %d events; %d tables (%d numbers) are sharded; of %d tables (%d numbers), only the "
        "rows of a step are exchanged; other weights (%d numbers) are exchanged whole",
        ranks.size,
        batch_size,
        len(sharded),
        counts[1],
        len(of_rows),
        counts[0],
        model.parameter_count - sum(counts),
    )
