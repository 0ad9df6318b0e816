"""`Graph`: FAISS's graph of neighbours (HNSW), kept as plain arrays that are checked before FAISS walks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.extras import require
from twotower.retrieval.index import Hnsw, IntArray


class Graph:
    """Vectors and the graph of their neighbours; the arguments are FAISS's index and its settings.

    A graph is kept as the layers of each vector, the neighbours of all, and where a search enters; where the
    neighbours of a vector begin follows from the layers.
    """

    widening = 1

    def __init__(self, settings: Hnsw, index: Any) -> None:
        self.settings, self.index = settings, index
        self._faiss = require("faiss", "ann")

    @classmethod
    def build(cls, settings: Hnsw, vectors: Tensor) -> Graph | None:
        """A graph of these vectors `[n, d]`; None where there are none."""
        if len(vectors) == 0:
            require("faiss", "ann")
            return None
        index = _empty(settings, vectors.shape[1])
        index.add(vectors.numpy())
        return cls(settings, index)

    @classmethod
    def restored(cls, settings: Hnsw, vectors: Tensor, tensors: Mapping[str, Tensor]) -> Graph | None:
        """The graph that `tensors` are of.

        Raises:
            ValueError: They are of no graph of these vectors, or one that a walk would leave.
        """
        if len(vectors) == 0:
            return None
        faiss = require("faiss", "ann")
        index = _empty(settings, vectors.shape[1])
        room = faiss.vector_to_array(index.hnsw.cum_nneighbor_per_level).astype(np.int64)
        levels, neighbours, entry = (tensors[name] for name in ("levels", "neighbours", "entry"))
        if any(tensor.dtype != torch.int32 or tensor.dim() != 1 for tensor in (levels, neighbours, entry)):
            raise ValueError("the graph is not made of lists of int32")
        offsets = _checked(levels.numpy(), neighbours.numpy(), entry.numpy(), len(vectors), room)
        index.storage.add(np.ascontiguousarray(vectors.numpy()))
        index.ntotal = len(vectors)
        graph = index.hnsw
        faiss.copy_array_to_vector(levels.numpy(), graph.levels)
        faiss.copy_array_to_vector(offsets.astype(np.uint64), graph.offsets)
        faiss.copy_array_to_vector(neighbours.numpy(), graph.neighbors)
        graph.entry_point, graph.max_level = int(entry[0]), int(levels.max()) - 1
        return cls(settings, index)

    def search(self, queries: npt.NDArray[np.float32], count: int, bits: npt.NDArray[np.uint8] | None) -> IntArray:
        """See `Engine.search`."""
        chosen = None if bits is None else self._faiss.IDSelectorBitmap(self.index.ntotal, self._faiss.swig_ptr(bits))
        wide = self._faiss.SearchParametersHNSW(efSearch=max(self.settings.search, count), sel=chosen)
        numbers: IntArray = self.index.search(np.ascontiguousarray(queries), count, params=wide)[1]
        return numbers

    def extended(self, vectors: npt.NDArray[np.float32]) -> Graph:
        """See `Engine.extended`."""
        index = self._faiss.clone_index(self.index)
        index.hnsw.efConstruction = self.settings.build
        index.add(np.ascontiguousarray(vectors))
        return Graph(self.settings, index)

    def tensors(self) -> dict[str, Tensor]:
        """See `Engine.tensors`."""
        graph = self.index.hnsw
        arrays = {"levels": graph.levels, "neighbours": graph.neighbors}
        tensors = {name: torch.from_numpy(self._faiss.vector_to_array(array)) for name, array in arrays.items()}
        return tensors | {"entry": torch.tensor([graph.entry_point], dtype=torch.int32)}


def _empty(settings: Hnsw, width: int) -> Any:
    faiss = require("faiss", "ann")
    index = faiss.IndexHNSWFlat(width, settings.neighbours, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = settings.build
    return index


def _checked(
    levels: npt.NDArray[np.int32],
    neighbours: npt.NDArray[np.int32],
    entry: npt.NDArray[np.int32],
    size: int,
    room: IntArray,
) -> IntArray:
    """Where each vector's neighbours begin, `[size + 1]`, of a graph whose every walk stays inside.

    Args:
        levels: How many layers each vector is in, `[size]`.
        neighbours: Neighbours of the first vector in its layers, the lowest first, then of the next; −1 for none.
        entry: Where a search enters: one vector.
        size: How many vectors there are.
        room: Places for neighbours in the lowest 0, 1, 2, … layers.
    """
    if len(levels) != size or levels.min() < 1 or levels.max() >= len(room):
        raise ValueError("the graph has not a sensible number of layers for each vector")
    offsets = np.concatenate([[0], np.cumsum(room[levels])])
    if len(neighbours) != offsets[-1] or neighbours.min() < -1 or neighbours.max() >= size:
        raise ValueError("the graph has neighbours that are no vectors")
    if len(entry) != 1 or not 0 <= entry[0] < size or levels[entry[0]] != levels.max():
        raise ValueError("the graph is not entered at its top")
    for level in range(1, int(levels.max())):
        there = np.flatnonzero(levels > level)
        places = offsets[there][:, None] + np.arange(room[level], room[level + 1])
        others = neighbours[places]
        if (levels[others[others >= 0]] <= level).any():
            raise ValueError(f"the graph has neighbours in layer {level} that are not in it")
    return offsets
