"""`Graph`: FAISS's graph of neighbours (HNSW), kept as plain arrays that are checked before FAISS walks them."""

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

MOST = 1 << 16
"""Candidates that a search of a graph holds, at most."""

NARROWEST = 128
"""Vectors that a search holds at first, where the settings leave it open."""

WIDER = 1.4
"""How many times as many the next wider search holds."""

WIDEST = 6.0
"""Times √(vectors) that a search holds at most: exact search takes as long then."""

ROUNDING = 1e-6
"""A vector is longer than another where it is so by more than this share."""


class GraphSettings(Settings, frozen=True):
    """Settings of a graph of neighbours.

    Malkov and Yashunin, *Efficient and robust approximate nearest neighbor search using hierarchical navigable small
    world graphs*, TPAMI 2020, as FAISS has it.

    Attributes:
        neighbours: Neighbours of a candidate in a layer; twice as many in the lowest.
        build: Candidates held while a neighbour is looked for.
        search: Candidates held while a query is answered, at least; more find more and take longer. None for as many
            as it takes to find a little more than the parity gate asks for, on the queries that it is measured on.

    Raises:
        ConfigError: A number is out of its range.
    """

    neighbours: int = 32
    build: int = 200
    search: int | None = None

    def check(self) -> None:
        """Refuses what is out of range."""
        wide = 1 if self.search is None else self.search
        if not 2 <= self.neighbours <= 256 or not 1 <= self.build <= MOST or not 1 <= wide <= MOST:
            raise ConfigError(
                f"hnsw with neighbours={self.neighbours}, build={self.build}, search={self.search}; expected from 2 to "
                f"256 neighbours, and from 1 to {MOST} for the others"
            )


class Graph:
    """Vectors and the graph of their neighbours.

    A graph of highest dot products leaves out what lies near to nothing long, and of clustered vectors finds four in
    five however widely it looks. So each vector has one more number that makes all equally long, and a query a zero
    there: the nearest are then those with the highest dot products (Bachrach et al., *Speeding up the Xbox recommender
    system using a Euclidean transformation for inner-product spaces*, RecSys 2014).

    A graph is kept as the layers of each vector, the neighbours of all, and where a search enters; where the
    neighbours of a vector begin follows from the layers.

    Args:
        settings: What was asked for.
        index: FAISS's index of the lengthened vectors.
        length: Their length.
        width: Vectors that a search holds; default: as the settings say, or few.
    """

    def __init__(self, settings: GraphSettings, index: Any, length: float, width: int | None = None) -> None:
        self.settings, self.index, self.length = settings, index, length
        self.width = width or settings.search or NARROWEST
        self._faiss = require("faiss", "ann")

    @classmethod
    def build(cls, settings: GraphSettings, vectors: Tensor) -> Graph:
        """A graph of these vectors `[n, d]`, at least one."""
        index = _empty(settings, vectors.shape[1])
        length = float(vectors.norm(dim=1).max())
        index.add(_lengthened(vectors.numpy(), length))
        return cls(settings, index, length)

    @classmethod
    def restored(cls, settings: GraphSettings, vectors: Tensor, tensors: Mapping[str, Tensor]) -> Graph:
        """The graph that `tensors` are of.

        Raises:
            ValueError: They are of no graph of these vectors, or one that a walk would leave.
        """
        faiss = require("faiss", "ann")
        index = _empty(settings, vectors.shape[1])
        room = faiss.vector_to_array(index.hnsw.cum_nneighbor_per_level).astype(np.int64)
        levels, neighbours, entry, width = (tensors[name] for name in ("levels", "neighbours", "entry", "width"))
        if any(tensor.dtype != torch.int32 or tensor.dim() != 1 for tensor in (levels, neighbours, entry, width)):
            raise ValueError("the graph is not made of lists of int32")
        if len(width) != 1 or not 1 <= width[0] <= MOST:
            raise ValueError(f"a search of the graph holds {width.tolist()} vectors; expected one number up to {MOST}")
        length = tensors["length"]
        if length.dtype != torch.float64 or length.shape != (1,) or not bool(length.isfinite().all()):
            raise ValueError("the length of the graph's vectors is no number")
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
        """Numbers of the best `count` vectors of each query `[n, d]`, `[n, count]`; −1 where no more were found.

        Args:
            queries: Query embeddings.
            count: How many to find.
            bits: A bit for each vector, set where it may be found, the lowest of a byte first; None for all.
        """
        chosen = None if bits is None else self._faiss.IDSelectorBitmap(self.index.ntotal, self._faiss.swig_ptr(bits))
        wide = self._faiss.SearchParametersHNSW(efSearch=max(self.width, count), sel=chosen)
        self._faiss.omp_set_num_threads(torch.get_num_threads())
        lengthened = np.zeros((len(queries), queries.shape[1] + 1), dtype=np.float32)
        lengthened[:, :-1] = queries
        numbers: IntArray = self.index.search(lengthened, count, params=wide)[1]
        return numbers

    def wider(self) -> Graph | None:
        """The same vectors, of which a search looks at more; None at the widest, or where the settings say how wide."""
        most = min(MOST, int(WIDEST * self.index.ntotal**0.5))
        if self.settings.search is not None or self.width >= most:
            return None
        return Graph(self.settings, self.index, self.length, min(most, max(self.width + 1, int(WIDER * self.width))))

    def extended(self, vectors: npt.NDArray[np.float32]) -> Graph:
        """A graph with these vectors `[n, d]` too, numbered on; rebuilt where one is longer than all before."""
        if np.linalg.norm(vectors, axis=1).max(initial=0.0) > self.length * (1 + ROUNDING):
            held = self.index.storage.reconstruct_n(0, self.index.ntotal)[:, :-1]
            rebuilt = Graph.build(self.settings, torch.from_numpy(np.vstack([held, vectors])))
            return Graph(self.settings, rebuilt.index, rebuilt.length, self.width)
        index = self._faiss.clone_index(self.index)
        index.hnsw.efConstruction = self.settings.build
        index.add(_lengthened(vectors, self.length))
        return Graph(self.settings, index, self.length, self.width)

    def tensors(self) -> dict[str, Tensor]:
        """What `restored` makes it of, besides the vectors."""
        graph = self.index.hnsw
        arrays = {"levels": graph.levels, "neighbours": graph.neighbors}
        tensors = {name: torch.from_numpy(self._faiss.vector_to_array(array)) for name, array in arrays.items()}
        numbers = {"entry": graph.entry_point, "width": self.width}
        tensors |= {name: torch.tensor([number], dtype=torch.int32) for name, number in numbers.items()}
        return tensors | {"length": torch.tensor([self.length], dtype=torch.float64)}


def _lengthened(vectors: npt.NDArray[np.float32], length: float) -> npt.NDArray[np.float32]:
    """The vectors `[n, d]` with one more number that makes each as long, `[n, d + 1]`."""
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
    """Where each vector's neighbours begin, `[size + 1]`, of a graph whose every walk stays inside.

    Args:
        levels: How many layers each vector is in, `[size]`.
        neighbours: Neighbours of the first vector in its layers, the lowest first, then of the next; −1 for none.
        entry: Where a search enters: one vector.
        size: How many vectors there are.
        room: Places for neighbours in the lowest 0, 1, 2, … layers.
    """
    if size == 0 or len(levels) != size or levels.min() < 1 or levels.max() >= len(room):
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
