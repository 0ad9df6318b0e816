"""`Graph`: a FAISS HNSW graph, stored as plain arrays that are checked before FAISS traverses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.arguments import Settings
from twotower.errors import ConfigError
from twotower.extras import require
from twotower.retrieval.index import IntArray

MAX_WIDTH = 1 << 16
"""Allow search widths (FAISS's efSearch and efConstruction) up to this."""

START_WIDTH = 128
"""Start at this search width if the settings have none."""

WIDENING = 1.4
"""Multiply the width by this to widen a search."""

MAX_WIDTH_PER_ROOT = 6.0
"""Widen a search to at most this many times √(vectors); beyond that, exact search is as fast."""

ROUNDING = 1e-6
"""Call a vector longer than another only if it is longer by more than this fraction."""


class GraphSettings(Settings, frozen=True):
    """Settings of an HNSW graph.

    Malkov and Yashunin, *Efficient and robust approximate nearest neighbor search using hierarchical navigable small
    world graphs*, TPAMI 2020, as FAISS has it.

    Attributes:
        neighbours: Neighbours of a candidate per layer (M); twice as many in the lowest.
        build: Search width while the graph is built (efConstruction).
        search: Minimum search width of a query (efSearch); a wider search finds more and takes longer. None to widen
            the search until it finds slightly more than the parity gate requires, on the queries that the gate uses.

    Raises:
        ConfigError: A number is out of its range.
    """

    neighbours: int = 32
    build: int = 200
    search: int | None = None

    def check(self) -> None:
        """Refuse numbers that are out of range."""
        wide = 1 if self.search is None else self.search
        if not 2 <= self.neighbours <= 256 or not 1 <= self.build <= MAX_WIDTH or not 1 <= wide <= MAX_WIDTH:
            raise ConfigError(
                f"hnsw with neighbours={self.neighbours}, build={self.build}, search={self.search}; expected from 2 to "
                f"256 neighbours, and from 1 to {MAX_WIDTH} for the others"
            )


class Graph:
    """Vectors and the graph of their neighbours.

    A graph built on dot products cannot reach vectors that are not close to a long one; on clustered vectors it finds
    only 80%, however wide the search. So each vector gets an extra coordinate that makes all of them equally long, and
    a query gets a zero there. The nearest vectors are then those with the highest dot products (Bachrach et al.,
    *Speeding up the Xbox recommender system using a Euclidean transformation for inner-product spaces*, RecSys 2014).

    A graph is stored as the number of layers of each vector, the neighbours of all, and the entry point; the offsets of
    the neighbour lists follow from the layers.

    Args:
        settings: The settings it was built with.
        index: FAISS's index of the lengthened vectors.
        length: The length of the lengthened vectors.
        width: Search width; default: that of the settings, or `START_WIDTH`.
    """

    def __init__(self, settings: GraphSettings, index: Any, length: float, width: int | None = None) -> None:
        self.settings, self.index, self.length = settings, index, length
        self.width = width or settings.search or START_WIDTH
        self._faiss = require("faiss", "ann")

    @classmethod
    def build(cls, settings: GraphSettings, vectors: Tensor) -> Graph:
        """Build a graph of these vectors `[n, d]`, at least one."""
        index = _empty(settings, vectors.shape[1])
        length = float(vectors.norm(dim=1).max())
        index.add(_lengthened(vectors.numpy(), length))
        return cls(settings, index, length)

    @classmethod
    def restored(cls, settings: GraphSettings, vectors: Tensor, tensors: Mapping[str, Tensor]) -> Graph:
        """Restore a graph from its tensors.

        Raises:
            ValueError: They are not a graph of these vectors, or a traversal would leave the arrays.
        """
        faiss = require("faiss", "ann")
        index = _empty(settings, vectors.shape[1])
        room = faiss.vector_to_array(index.hnsw.cum_nneighbor_per_level).astype(np.int64)
        levels, neighbours, entry, width = (tensors[name] for name in ("levels", "neighbours", "entry", "width"))
        if any(tensor.dtype != torch.int32 or tensor.dim() != 1 for tensor in (levels, neighbours, entry, width)):
            raise ValueError("the graph's arrays are not int32 vectors")
        if len(width) != 1 or not 1 <= width[0] <= MAX_WIDTH:
            raise ValueError(f"the graph's search width is {width.tolist()}; expected one number up to {MAX_WIDTH}")
        length = tensors["length"]
        if length.dtype != torch.float64 or length.shape != (1,) or not bool(length.isfinite().all()):
            raise ValueError("the length of the graph's vectors is not a finite number")
        offsets = _checked(levels.numpy(), neighbours.numpy(), entry.numpy(), len(vectors), room)
        index.storage.add(_lengthened(vectors.numpy(), float(length)))
        index.ntotal = len(vectors)
        graph = index.hnsw
        faiss.copy_array_to_vector(levels.numpy(), graph.levels)
        faiss.copy_array_to_vector(offsets.astype(np.uint64), graph.offsets)
        faiss.copy_array_to_vector(neighbours.numpy(), graph.neighbors)
        graph.entry_point, graph.max_level = int(entry[0]), int(levels.max()) - 1
        return cls(settings, index, float(length), int(width[0]))

    def search(self, queries: npt.NDArray[np.float32], count: int, bits: npt.NDArray[np.uint8] | None) -> IntArray:
        """Numbers of the best `count` vectors of each query `[n, d]`, `[n, count]`; −1 where fewer were found.

        Args:
            queries: Query embeddings.
            count: How many to find.
            bits: One bit per vector, set if it may be found, lowest bit of a byte first; None for all.
        """
        chosen = None if bits is None else self._faiss.IDSelectorBitmap(self.index.ntotal, self._faiss.swig_ptr(bits))
        wide = self._faiss.SearchParametersHNSW(efSearch=max(self.width, count), sel=chosen)
        self._faiss.omp_set_num_threads(torch.get_num_threads())
        lengthened = np.zeros((len(queries), queries.shape[1] + 1), dtype=np.float32)
        lengthened[:, :-1] = queries
        numbers: IntArray = self.index.search(lengthened, count, params=wide)[1]
        return numbers

    def wider(self) -> Graph | None:
        """The same graph with a wider search; None at the maximum width, or if the settings fix the width."""
        most = min(MAX_WIDTH, int(MAX_WIDTH_PER_ROOT * self.index.ntotal**0.5))
        if self.settings.search is not None or self.width >= most:
            return None
        return Graph(self.settings, self.index, self.length, min(most, max(self.width + 1, int(WIDENING * self.width))))

    def extended(self, vectors: npt.NDArray[np.float32]) -> Graph:
        """The graph with these vectors `[n, d]` appended; rebuilt if one of them is longer than all existing ones."""
        if np.linalg.norm(vectors, axis=1).max(initial=0.0) > self.length * (1 + ROUNDING):
            held = self.index.storage.reconstruct_n(0, self.index.ntotal)[:, :-1]
            rebuilt = Graph.build(self.settings, torch.from_numpy(np.vstack([held, vectors])))
            return Graph(self.settings, rebuilt.index, rebuilt.length, self.width)
        index = self._faiss.clone_index(self.index)
        index.hnsw.efConstruction = self.settings.build
        index.add(_lengthened(vectors, self.length))
        return Graph(self.settings, index, self.length, self.width)

    def tensors(self) -> dict[str, Tensor]:
        """Everything besides the vectors that `restored` needs."""
        graph = self.index.hnsw
        arrays = {"levels": graph.levels, "neighbours": graph.neighbors}
        tensors = {name: torch.from_numpy(self._faiss.vector_to_array(array)) for name, array in arrays.items()}
        numbers = {"entry": graph.entry_point, "width": self.width}
        tensors |= {name: torch.tensor([number], dtype=torch.int32) for name, number in numbers.items()}
        return tensors | {"length": torch.tensor([self.length], dtype=torch.float64)}


def _lengthened(vectors: npt.NDArray[np.float32], length: float) -> npt.NDArray[np.float32]:
    """The vectors `[n, d]` with an extra coordinate that gives each this length, `[n, d + 1]`."""
    missing = length**2 - np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return np.hstack([vectors, np.sqrt(np.maximum(missing, 0.0)).astype(np.float32)[:, None]])


def _empty(settings: GraphSettings, width: int) -> Any:
    faiss = require("faiss", "ann")
    index = faiss.IndexHNSWFlat(width + 1, settings.neighbours, faiss.METRIC_L2)
    index.hnsw.efConstruction = settings.build
    return index


def _checked(
    levels: npt.NDArray[np.int32],
    neighbours: npt.NDArray[np.int32],
    entry: npt.NDArray[np.int32],
    size: int,
    room: IntArray,
) -> IntArray:
    """Check that no traversal leaves the graph, and return the offsets of each vector's neighbours, `[size + 1]`.

    Args:
        levels: How many layers each vector is in, `[size]`.
        neighbours: Neighbours of the first vector, lowest layer first, then of the next vector; −1 for none.
        entry: The entry point: one vector.
        size: How many vectors there are.
        room: Slots for neighbours in the lowest 0, 1, 2, … layers.
    """
    if size == 0 or len(levels) != size or levels.min() < 1 or levels.max() >= len(room):
        raise ValueError("the graph has an invalid number of layers for a vector")
    offsets = np.concatenate([[0], np.cumsum(room[levels])])
    if len(neighbours) != offsets[-1] or neighbours.min() < -1 or neighbours.max() >= size:
        raise ValueError("the graph has neighbours that do not exist")
    if len(entry) != 1 or not 0 <= entry[0] < size or levels[entry[0]] != levels.max():
        raise ValueError("the graph's entry point is not in its top layer")
    for level in range(1, int(levels.max())):
        there = np.flatnonzero(levels > level)
        places = offsets[there][:, None] + np.arange(room[level], room[level + 1])
        others = neighbours[places]
        if (levels[others[others >= 0]] <= level).any():
            raise ValueError(f"the graph has neighbours in layer {level} that are not in that layer")
    return offsets
