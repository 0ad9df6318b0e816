"""`Lists`: FAISS's lists of compressed vectors (IVF-PQ), kept as plain arrays that are checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.extras import require
from twotower.retrieval.index import IntArray, IvfPq

CODES = 256
"""Values of a byte: so many vectors are the least that one can learn codes from."""

SAMPLE = 64
"""Vectors for each list that the lists are learned from, at most."""


class Lists:
    """Vectors in lists around centres, a few bytes each; the arguments are FAISS's index and its settings."""

    def __init__(self, settings: IvfPq, index: Any) -> None:
        self.settings, self.index, self.widening = settings, index, settings.refine
        self._faiss = require("faiss", "ann")

    @classmethod
    def build(cls, settings: IvfPq, vectors: Tensor) -> Lists | None:
        """Lists learned from these vectors `[n, d]`; None where they are too few to learn from.

        Raises:
            ConfigError: The parts do not divide the width.
        """
        index = _empty(settings, len(vectors), vectors.shape[1])
        if len(vectors) < CODES:
            return None
        wanted = max(CODES * SAMPLE, index.nlist * SAMPLE)
        sample = np.random.default_rng(0).permutation(len(vectors))[:wanted]
        index.train(vectors.numpy()[np.sort(sample)])
        index.add(vectors.numpy())
        return cls(settings, index)

    @classmethod
    def restored(cls, settings: IvfPq, vectors: Tensor, tensors: Mapping[str, Tensor]) -> Lists | None:
        """The lists that `tensors` are of.

        Raises:
            ValueError: They are of no lists of these vectors.
        """
        if "codes" not in tensors:
            return None
        faiss = require("faiss", "ann")
        centres, books, codes, of = (tensors[name] for name in ("centres", "codebooks", "codes", "lists"))
        index = _empty(settings, 0, vectors.shape[1], len(centres))
        size, width = vectors.shape
        if (
            (centres.dtype, books.dtype, codes.dtype, of.dtype)
            != (torch.float32, torch.float32, torch.uint8, torch.int64)
            or centres.shape != (index.nlist, width)
            or books.shape != (CODES * width,)
            or codes.shape != (size, index.code_size)
            or of.shape != (size,)
            or not bool(((of >= 0) & (of < index.nlist)).all())
            or not bool(centres.isfinite().all() & books.isfinite().all())
        ):
            raise ValueError("the lists of the index fit neither each other nor the embeddings")
        index.quantizer.add(centres.numpy())
        faiss.copy_array_to_vector(books.numpy(), index.pq.centroids)
        index.is_trained = True
        order = np.argsort(of.numpy(), kind="stable")
        ends = np.searchsorted(of.numpy()[order], np.arange(index.nlist + 1))
        for number in np.flatnonzero(np.diff(ends)).tolist():
            members = order[ends[number] : ends[number + 1]]
            bytes_of = np.ascontiguousarray(codes.numpy()[members])
            index.invlists.add_entries(number, len(members), faiss.swig_ptr(members), faiss.swig_ptr(bytes_of))
        index.ntotal = size
        return cls(settings, index)

    def search(self, queries: npt.NDArray[np.float32], count: int, bits: npt.NDArray[np.uint8] | None) -> IntArray:
        """See `Engine.search`."""
        chosen = None if bits is None else self._faiss.IDSelectorBitmap(self.index.ntotal, self._faiss.swig_ptr(bits))
        wide = self._faiss.SearchParametersIVF(nprobe=min(self.settings.probes, self.index.nlist), sel=chosen)
        self._faiss.omp_set_num_threads(torch.get_num_threads())
        numbers: IntArray = self.index.search(np.ascontiguousarray(queries), count, params=wide)[1]
        return numbers

    def wider(self) -> None:
        """See `Engine.wider`: the settings say into how many lists to look."""

    def extended(self, vectors: npt.NDArray[np.float32]) -> Lists:
        """See `Engine.extended`."""
        index = self._faiss.clone_index(self.index)
        index.add(np.ascontiguousarray(vectors))
        return Lists(self.settings, index)

    def tensors(self) -> dict[str, Tensor]:
        """See `Engine.tensors`."""
        index, faiss = self.index, self._faiss
        of = np.empty(index.ntotal, dtype=np.int64)
        codes = np.empty((index.ntotal, index.code_size), dtype=np.uint8)
        for number in range(index.nlist):
            if size := index.invlists.list_size(number):
                members = faiss.rev_swig_ptr(index.invlists.get_ids(number), size)
                of[members] = number
                raw = faiss.rev_swig_ptr(index.invlists.get_codes(number), size * index.code_size)
                codes[members] = raw.reshape(size, index.code_size)
        arrays = {
            "centres": index.quantizer.reconstruct_n(0, index.nlist),
            "codebooks": faiss.vector_to_array(index.pq.centroids),
            "codes": codes,
            "lists": of,
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _empty(settings: IvfPq, size: int, width: int, lists: int | None = None) -> Any:
    """FAISS's index before it has learned; the number of lists is the settings', or about 4·√size."""
    faiss = require("faiss", "ann")
    parts = settings.parts or (width // 2 if width % 2 == 0 else width)
    if width % parts:
        raise ConfigError(f"ivfpq with parts={parts}; expected a divisor of the {width} numbers of an embedding")
    if lists is None:
        lists = min(settings.lists or int(4 * size**0.5), size // 4) or 1
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(width), width, lists, parts, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # few are no mistake, and no warning
    return index
