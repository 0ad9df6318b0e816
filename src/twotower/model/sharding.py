"""Shards a model's large tables, so that each rank holds a part of the rows, and gathers them again."""

from __future__ import annotations

import torch
from torch import nn

from twotower.features.lookups import Table
from twotower.features.tables import shard_of
from twotower.ranks import ALONE, Ranks
from twotower.shards import Shard


def shards_of(model: nn.Module) -> dict[str, Shard]:
    """The shards of a model's sharded tables, by name in `state_dict`; empty for an ordinary model."""
    return {name: table.shard for name, table in _tables(model) if table.shard is not None}


def ranks_sharing(model: nn.Module) -> Ranks:
    """The ranks that a model's tables are sharded over; `ALONE` for an ordinary model."""
    return next((shard.ranks for shard in shards_of(model).values()), ALONE)


@torch.no_grad()
def shard_tables(model: nn.Module) -> None:
    """Shards the tables that the surrounding `sharded_tables` block selects; each rank keeps its part of the rows."""
    for _, table in _tables(model):
        if table.shard is None and (shard := shard_of(*table.shape)) is not None:
            table.data = shard.take(table.data).clone()
            table.shard = shard


@torch.no_grad()
def gather_tables(model: nn.Module) -> None:
    """Gathers sharded tables on every rank, which leaves an ordinary model; all ranks must call it.

    `save_model`, called by all ranks, saves a sharded model without gathering it, which needs less memory.

    Args:
        model: A model trained by several ranks; an ordinary model is not changed.
    """
    for _, table in _tables(model):
        if table.shard is not None:
            table.data = torch.cat(list(table.shard.gathered(table.data)))
            table.shard = None


def _tables(model: nn.Module) -> list[tuple[str, Table]]:
    named = model.named_parameters(remove_duplicate=False)
    return [(name, parameter) for name, parameter in named if isinstance(parameter, Table)]
