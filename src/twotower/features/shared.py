"""`SharedItems`: the candidate tower's item embeddings, as used by histories."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import pad

from twotower.features.base import Columns, Feature
from twotower.features.category import Category
from twotower.features.growth import Rows
from twotower.features.lookups import Table, embed
from twotower.features.record import FIRST, PADDING, UNKNOWN
from twotower.randomness import own_draws

LEADING_ROWS = FIRST
"""Leading rows without attributes (the unknown item and the padding), which are encoded as nulls."""


class SharedItems:
    """Items as a candidate tower embeds them before its layers: the id's embedding plus those of the attributes.

    The items are the vocabulary of the id feature. Their attributes are encoded once and kept.

    Args:
        ids: The candidate tower's feature of the id.
        attributes: Its other features, whose embeddings are added; none unless the tower sums its features.
    """

    def __init__(self, ids: Category, attributes: Sequence[Feature] = ()) -> None:
        self.ids, self.attributes = ids, list(attributes)
        self.encoded: list[Tensor] = []

    def look_ups(self, slots: int) -> list[tuple[Table, int]]:
        """The tables, each with the maximum number of rows looked up for this many items."""
        tables = [found for feature in (self.ids, *self.attributes) for found in feature.look_ups]
        return [(table, rows * slots) for table, rows in tables]

    def take(self, items: Columns) -> None:
        """Encodes the attributes.

        Args:
            items: Columns of the candidate table, one row per item of the vocabulary.

        Raises:
            DataError: A column holds a value that cannot be encoded.
        """
        self.encoded = []
        for feature in self.attributes:
            columns = {}
            for name in feature.reads:
                front = pa.nulls(LEADING_ROWS, items[name].type)
                columns[name] = pa.chunked_array([front, *items[name].chunks], items[name].type)
            self.encoded.append(feature.encode_columns(columns))

    def grow(self, items: Columns, rows: Rows | None) -> None:
        """Encodes the attributes of a grown vocabulary; items missing from the candidate table keep theirs.

        Args:
            items: Columns of the candidate table, one row per item of the vocabulary; nulls for a missing item.
            rows: Where the rows of the vocabulary's table come from; None if they have not changed.

        Raises:
            DataError: A column holds a value that cannot be encoded.
        """
        before = self.encoded
        self.take(items)
        missing = torch.from_numpy(items[self.ids.column].is_null().to_numpy())
        missing = torch.cat([torch.zeros(LEADING_ROWS, dtype=torch.bool), missing])
        sources = torch.arange(len(missing)) if rows is None else rows.sources
        kept = missing if rows is None else missing & ~rows.is_new
        for number, (old, new) in enumerate(zip(before, self.encoded, strict=True)):
            if kept.any():
                known, grown = _padded_alike(old.cpu().index_select(0, sources), new)
                grown[kept] = known[kept]
                self.encoded[number] = grown

    def learned(self) -> pa.Table:
        """The encoded attributes as plain data, one list per row."""
        arrays = []
        for rows in self.encoded:
            flat = rows.reshape(len(rows), -1)
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat.flatten().numpy()), flat.shape[1]))
        return pa.table(arrays, [str(number) for number in range(len(arrays))])

    def restore(self, state: pa.Table) -> None:
        """Restores the state that `learned` returned."""
        self.encoded = []
        for name in state.column_names:
            column = state[name].combine_chunks()
            rows = torch.from_numpy(column.flatten().to_numpy(zero_copy_only=False).copy())
            rows = rows.reshape(len(column), column.type.list_size)
            self.encoded.append(rows.squeeze(1) if rows.shape[1] == 1 else rows)

    def embeddings(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Embeds the given items, with gradient, as a table of the distinct items and each item's row in it.

        Args:
            items: Rows of the vocabulary's table, `[n, slots]`; `UNKNOWN` and `PADDING` keep their rows.

        Returns:
            The table `[rows, dim]` and rows of it, `[n, slots]`.
        """
        assert self.ids.table is not None
        if not self.attributes:
            return self.ids.table, items
        exports = torch.compiler.is_exporting()  # the table is then a tensor like any other, and whole
        rows = self.ids.table.shape[0] if exports else self.ids.table.whole_rows
        if exports or items.numel() >= rows:
            wanted, places = torch.arange(rows, device=items.device), items
        else:
            front = torch.tensor([UNKNOWN, PADDING], dtype=items.dtype, device=items.device)
            wanted, places = torch.unique(torch.cat([front, items.flatten()]), return_inverse=True)
            places = places[len(front) :].view_as(items)
        self.encoded = [rows.to(items.device) for rows in self.encoded]
        table = embed(wanted, self.ids.table)
        with own_draws():
            for feature, encoded in zip(self.attributes, self.encoded, strict=True):
                table = table + feature(encoded.index_select(0, wanted))
        return table, places


def _padded_alike(*encoded: Tensor) -> list[Tensor]:
    """Encoded rows `[n, …]`; bags `[n, length]` are padded to the same length."""
    if encoded[0].dim() != 2:
        return list(encoded)
    longest = max(rows.shape[1] for rows in encoded)
    return [pad(rows, (0, longest - rows.shape[1])) for rows in encoded]


def shared_items(column: str, candidate: Sequence[Feature], combine: str) -> SharedItems | None:
    """The item embeddings that a history of this column shares with a candidate tower.

    None if the tower has no `Category` of that column.

    Args:
        column: The column of the ids.
        candidate: The candidate tower's features.
        combine: How the tower combines them.
    """
    ids = next((feature for feature in candidate if isinstance(feature, Category) and feature.column == column), None)
    if ids is None:
        return None
    return SharedItems(ids, [feature for feature in candidate if feature is not ids] if combine == "sum" else [])
