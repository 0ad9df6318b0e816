"""Models of whose large tables each rank holds a part of the rows: sharing them out, and making them whole again."""

from __future__ import annotations

import torch
from torch import nn

from twotower.features.lookups import Table
from twotower.features.tables import shard_of
from twotower.ranks import ALONE, Ranks
from twotower.shards import Shard


def shards_of(model: nn.Module) -> dict[str, Shard]:
    """How each table that ranks share out is shared out, by its name in `state_dict`; nothing of an ordinary model."""
    return {name: table.shard for name, table in _tables(model) if table.shard is not None}


def ranks_sharing(model: nn.Module) -> Ranks:
    """The ranks that share out tables of a model; `ALONE` for an ordinary one."""
    return next((shard.ranks for shard in shards_of(model).values()), ALONE)


@torch.no_grad()
def shard_tables(model: nn.Module) -> None:
    """Shares out those whole tables of a model that `sharded_tables` says; each rank keeps its part of the rows."""
    for _, table in _tables(model):
        if table.shard is None and (shard := shard_of(*table.shape)) is not None:
            table.data = shard.take(table.data).clone()
            table.shard = shard


@torch.no_grad()
def gather_tables(model: nn.Module) -> None:
    """Makes the tables that ranks share out whole on every rank; all ranks call it, and have an ordinary model then.

    `save_model`, called by all ranks, writes a sharded model without that, and so needs less memory.

    Args:
        model: A model that several ranks have trained; of another one nothing changes.
    """
    for _, table in _tables(model):
        if table.shard is not None:
            table.data = torch.cat(list(table.shard.gathered(table.data)))
            table.shard = None


def _tables(model: nn.Module) -> list[tuple[str, Table]]:
    named = model.named_parameters(remove_duplicate=False)
    return [(name, parameter) for name, parameter in named if isinstance(parameter, Table)]
