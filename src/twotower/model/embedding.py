"""From tables to embeddings: encodes a table for a tower, and embeds an encoded side block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import torch
from torch import Tensor, nn

from twotower.data.plain import plain_table
from twotower.errors import DataError
from twotower.features.lookups import require_joined
from twotower.model.encoding import EncodedColumn, EncodedSide
from twotower.model.sharding import ranks_sharing
from twotower.model.tower_module import TowerModule, features_of

BLOCK = 8192
"""Rows embedded at a time outside training, so that memory does not grow with the data."""


def encode_table(tower: TowerModule, table: pa.Table) -> EncodedSide:
    """Encodes each row of a table for a tower.

    Raises:
        DataError: A column is missing or holds a value that cannot be encoded.
    """
    table = plain_table(table)
    columns = {name: table[name] for name in table.column_names}
    for feature in features_of(tower):
        for name in feature.reads:
            if name not in columns:
                raise DataError(f"column {name!r} is missing; expected it among {', '.join(columns)}")
    encoded = [EncodedColumn(feature.encode_columns(columns)) for feature in features_of(tower)]
    return EncodedSide(encoded, table.num_rows)


@torch.no_grad()
def embedded_blocks(
    model: nn.Module, side: EncodedSide, vectors: Callable[[Sequence[Tensor]], Tensor], numbers: Tensor
) -> list[Tensor]:
    """Embeds the entries `numbers` `[n]` of an encoded side in evaluation mode; blocks of up to `BLOCK` rows, in order.

    For a sharded model, all ranks must call this together, each with any number of entries.

    Args:
        model: The model, whose mode is restored afterwards.
        side: The encoded side.
        vectors: Embeds gathered entries, such as `TwoTower.query_vectors`.
        numbers: The entries, on the model's device.
    """
    was_training = model.training
    model.eval()
    parts = list(torch.split(numbers, BLOCK)) if len(numbers) else []
    sharing = ranks_sharing(model)
    most = len(parts)
    if sharing.size > 1:
        require_joined(sharing)
        most = max(sharing.gather_messages(len(parts)))  # ranks with fewer blocks must still join
    blocks = [vectors(side.gather(part)) for part in parts]
    for _ in range(most - len(parts)):
        vectors(side.gather(torch.zeros(1, dtype=torch.int64, device=numbers.device)))
    model.train(was_training)
    return blocks
