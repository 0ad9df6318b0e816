"""An index of your own: candidates in cells around centres, of which a search looks into the nearest (IVF)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from twotower import INDEXES, Settings
from twotower.retrieval import ExactIndex, Hits
from twotower.retrieval.index import IntArray, Pairs


class CellsIndex:
    """Each query is compared with the candidates of the cells whose centres score highest.

    Args:
        embeddings: Candidate embeddings, `[C, d]`.
        cell: The cell of each candidate, `[C]`.
        probes: How many cells a query looks into; more where they hold fewer candidates than are asked for.
    """

    kind = "cells"

    def __init__(self, embeddings: Tensor, cell: Tensor, probes: int) -> None:
        self.embeddings, self.cell, self.probes = embeddings, cell, probes
        self._exact = ExactIndex.over(embeddings)
        count = int(cell.max()) + 1
        sums = torch.zeros(count, embeddings.shape[1]).index_add_(0, cell, embeddings)
        self.centres = sums / torch.bincount(cell, minlength=count).clamp_min(1)[:, None]

    def __len__(self) -> int:
        return len(self.embeddings)

    def search(self, queries: Tensor, k: int, excluded: Pairs | None = None, allowed: IntArray | None = None) -> Hits:
        """The best k candidates that may be found in the nearest cells; see `Index.search`."""
        self._exact.check(queries, k)
        may = torch.ones(len(self), dtype=torch.bool)
        if allowed is not None:
            may = torch.zeros_like(may)
            may[torch.from_numpy(allowed)] = True
        k = min(k, int(may.sum()))
        scores = queries @ self.embeddings.T  # [n, C]; a real one would not score what it does not look at
        scores[:, ~may] = -torch.inf
        if excluded is not None:
            scores[torch.from_numpy(excluded[0]), torch.from_numpy(excluded[1])] = -torch.inf
        nearest = (queries @ self.centres.T).argsort(dim=1, descending=True)  # [n, cells]
        order = torch.empty_like(nearest).scatter_(1, nearest, torch.arange(len(self.centres)).expand_as(nearest))
        probed = scores.masked_fill(order[:, self.cell] >= self.probes, -torch.inf)
        found = probed.topk(k, dim=1)
        short = found.values[:, -1] == -torch.inf if k else torch.zeros(len(queries), dtype=torch.bool)
        values, rows = found.values.clone(), found.indices.clone()
        values[short], rows[short] = scores[short].topk(k, dim=1)
        return Hits(rows.masked_fill(values == -torch.inf, -1), values)

    def wider(self) -> CellsIndex | None:
        """The same, looking into twice as many cells; None where it looks into all."""
        if self.probes >= len(self.centres):
            return None
        return CellsIndex(self.embeddings, self.cell, min(2 * self.probes, len(self.centres)))

    def moved(self, embeddings: Tensor, origin: IntArray) -> CellsIndex:
        """The index of another catalogue; what is new goes to the cell of the nearest centre."""
        nearest = torch.cdist(embeddings, self.centres).argmin(dim=1)
        before = self.cell[torch.from_numpy(np.maximum(origin, 0))]
        return CellsIndex(embeddings, torch.where(torch.from_numpy(origin < 0), nearest, before), self.probes)

    def tensors(self) -> dict[str, Tensor]:
        """What a bundle keeps."""
        return {"cell": self.cell, "probes": torch.tensor(self.probes)}


@INDEXES.register
class Cells(Settings, frozen=True, tag="cells", tag_field="kind"):
    """Settings of `CellsIndex`.

    Attributes:
        count: How many cells, at most.
        probes: How many of them a query looks into, at least.
    """

    count: int = 16
    probes: int = 4

    def make(self, embeddings: Tensor) -> CellsIndex:
        """Cells around candidates that are spread over the catalogue."""
        ExactIndex.over(embeddings)  # refuses what is not finite
        spread = torch.linspace(0, len(embeddings) - 1, min(self.count, len(embeddings))).long()
        return CellsIndex(embeddings, torch.cdist(embeddings, embeddings[spread]).argmin(dim=1), self.probes)

    def restore(self, embeddings: Tensor, tensors: Mapping[str, Tensor]) -> CellsIndex:
        """The index that was kept; what lies in a bundle may be anything."""
        cell, probes = tensors["cell"], int(tensors["probes"])
        fits = cell.dtype == torch.int64 and cell.shape == (len(embeddings),) and probes >= 1
        if not fits or not 0 <= int(cell.min()) <= int(cell.max()) < len(embeddings):
            raise ValueError("the cells do not fit the embeddings")
        return CellsIndex(embeddings, cell, probes)
