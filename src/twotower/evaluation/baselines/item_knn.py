"""Item-kNN: candidates that are like what the query has chosen, by who chose both."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.seen import Seen, entries_of
from twotower.errors import TwoTowerError
from twotower.evaluation.ranking import FloatArray, IntArray, ScoreBlock

BLOCK_ENTRIES = 1 << 22
"""Co-occurrences, similarities and entries held at once: some 100 MB whatever the size of the catalogue."""

MOST_STEPS = 5_000_000_000
"""Co-occurrences counted and pairs compared: about a minute on one thread."""


class ItemKnn:
    """Item-kNN: a candidate scores the sum of its similarities to those of its neighbours that the query has chosen.

    The similarity of two candidates is the cosine of their columns in the binary matrix of queries × candidates
    in train, |Q_i ∩ Q_j| / (√(|Q_i| |Q_j|) + s), Q_i being who chose i and s the shrinkage. The neighbours of a
    candidate are the K others most similar to it (Deshpande and Karypis, *Item-based top-N recommendation
    algorithms*, TOIS 2004, with neighbours per target). Only they are kept, so that memory is O(K·C);
    similarities are counted block by block, never C×C at once.

    Args:
        train: The training split.
        neighbours: K.
        shrinkage: s, which lowers the similarities that rest on few queries.

    Raises:
        TwoTowerError: The log has so many co-occurrences that counting them would take many minutes.
    """

    def __init__(self, train: Dataset, neighbours: int = 100, shrinkage: float = 0.0) -> None:
        self.seen = Seen.of(train)
        self.catalogue = train.candidates.num_rows
        steps = _steps(self.seen)
        if steps > MOST_STEPS:
            raise TwoTowerError(
                f"item-kNN needs {steps / 1e9:.1f} billion steps on this log; expected at most {MOST_STEPS / 1e9:g}"
            )
        candidate, neighbour, similarity = _neighbours(self.seen, self.catalogue, neighbours, shrinkage)
        # By neighbour: which candidates it speaks for.
        order = np.argsort(neighbour, kind="stable")
        self.candidates, self.similarities = candidate[order], similarity[order]
        self.offsets = np.searchsorted(neighbour[order], np.arange(self.catalogue + 1))

    def score_block(self, events: Dataset) -> ScoreBlock:
        """Scores from what each event's query has in train."""

        def block(numbers: IntArray) -> Tensor:
            queries, place = np.unique(events.query_index[numbers], return_inverse=True)
            position, chosen = self.seen.pairs(queries)
            reach = self.offsets[chosen + 1] - self.offsets[chosen]
            work = np.bincount(position, reach, minlength=len(queries)).astype(np.int64)
            parts = [self._scores(queries[start:stop]) for start, stop in _runs(work, BLOCK_ENTRIES)]
            return torch.cat(parts)[torch.from_numpy(place)]

        return block

    def _scores(self, queries: IntArray) -> Tensor:
        """Scores of a few queries, `[n, C]`."""
        position, chosen = self.seen.pairs(queries)
        of, entry = entries_of(self.offsets, chosen)
        cells = position[of] * self.catalogue + self.candidates[entry]
        scores = np.bincount(cells, self.similarities[entry], minlength=len(queries) * self.catalogue)
        return torch.from_numpy(scores).reshape(len(queries), self.catalogue)


def _steps(seen: Seen) -> int:
    """Co-occurrences to count and pairs of chosen candidates to compare."""
    return int((np.diff(seen.offsets) ** 2).sum()) + len(np.unique(seen.candidates)) ** 2


def _neighbours(seen: Seen, catalogue: int, neighbours: int, shrinkage: float) -> tuple[IntArray, IntArray, FloatArray]:
    """Each candidate's nearest neighbours as triples (candidate, neighbour, similarity above 0)."""
    known, counts = np.unique(seen.candidates, return_counts=True)
    column = np.zeros(catalogue, dtype=np.int64)
    column[known] = np.arange(len(known))
    history = np.diff(seen.offsets)
    queries = np.repeat(np.arange(len(history)), history)[np.argsort(seen.candidates, kind="stable")]
    begin = np.concatenate([[0], np.cumsum(counts)])  # `queries` from begin[i] to begin[i + 1] chose known[i]
    work = np.add.reduceat(history[queries], begin[:-1]) + len(known)
    found = []
    for start, stop in _runs(work, BLOCK_ENTRIES):
        position, other = seen.pairs(queries[begin[start] : begin[stop]])
        row = np.repeat(np.arange(stop - start), counts[start:stop])[position]
        cells = np.bincount(row * len(known) + column[other], minlength=(stop - start) * len(known))
        together = torch.from_numpy(cells.reshape(stop - start, len(known)))
        similar = together / torch.from_numpy(np.sqrt(np.outer(counts[start:stop], counts)) + shrinkage)
        similar[torch.arange(stop - start), torch.arange(start, stop)] = 0.0
        values, columns = similar.topk(min(neighbours, len(known)), dim=1)
        rows, places = (part.numpy() for part in values.nonzero(as_tuple=True))
        found.append((known[start + rows], known[columns.numpy()[rows, places]], values.numpy()[rows, places]))
    candidate, neighbour, similarity = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return candidate, neighbour, similarity


def _runs(work: IntArray, most: int) -> Iterator[tuple[int, int]]:
    """Cuts 0 … n into runs of about `most` work each, or of one member where that alone is more."""
    border = np.flatnonzero(np.diff(np.cumsum(work) // most)) + 1
    return pairwise([0, *border.tolist(), len(work)])
