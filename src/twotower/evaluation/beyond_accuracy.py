"""Metrics beyond accuracy: novelty and diversity of lists, and how often they hit where popularity misses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from twotower.data.dataset import Dataset
from twotower.data.lookup import entries_of
from twotower.data.seen import Seen
from twotower.evaluation.intervals import weighted_mean

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SAMPLED_LISTS = 512
"""Lists sampled for diversity: their mean is within 0.01 of the mean over all lists."""

BLOCK_EVENTS = 4096
"""Events processed at once together with their queries' histories."""


class ListQuality:
    """Novelty and diversity of top-k lists, accumulated block by block.

    - `novelty_k`: mean over all list entries of log2(Q / q_i) bits, where q_i of the Q queries in train chose candidate
      i: its self-information (Zhou et al., *Solving the apparent diversity-accuracy dilemma of recommender systems*,
      PNAS 2010). A candidate that no query chose counts as if one had.
    - `diversity_k`: mean over the pairs of a list of 1 − cosine, where a candidate is the binary vector of the train
      queries that chose it: intra-list distance (Vargas and Castells, *Rank and relevance in novelty and diversity
      metrics for recommender systems*, RecSys 2011). It does not use embeddings, so models and baselines are
      comparable. A candidate without events has distance 1 from all others. Averaged over at most 512 lists, evenly
      spaced over the events.

    A list has the weight of its event.

    Args:
        seen: What each query chose in train.
        candidates: Number of candidates.
        events: Number of events with lists.
        ks: Lengths of lists.
    """

    def __init__(self, seen: Seen, candidates: int, events: int, ks: Sequence[int]) -> None:
        self.seen, self.ks = seen, ks
        queries = np.count_nonzero(np.diff(seen.offsets))
        choices = np.bincount(seen.candidates, minlength=candidates)
        self._information = np.log2(max(1, queries) / np.maximum(1, choices))
        self._every = max(1, events // SAMPLED_LISTS)
        self._bits, self._entries = dict.fromkeys(ks, 0.0), dict.fromkeys(ks, 0.0)
        self._sampled: list[tuple[IntArray, FloatArray]] = []

    def add(self, lists: IntArray, numbers: IntArray, weights: FloatArray | None = None) -> None:
        """Adds lists `[n, at least max(ks), or all candidates]`, best first, with −1 for empty places.

        Args:
            lists: Candidates in each event's list.
            numbers: Index of each event, `[n]`.
            weights: Weight of each event, above 0, `[n]`; None for equal weights.
        """
        counts = np.ones(len(numbers)) if weights is None else weights
        for k in self.ks:
            listed = lists[:, :k]
            filled = listed >= 0
            self._bits[k] += float(counts @ np.where(filled, self._information[listed], 0.0).sum(axis=1))
            self._entries[k] += float(counts @ filled.sum(axis=1))
        sampled = numbers % self._every == 0
        if sampled.any():
            self._sampled.append((lists[sampled], counts[sampled]))

    def metrics(self) -> dict[str, float]:
        """The metrics so far; there is no diversity for lists of length 1."""
        found = {f"novelty_{k}": self._bits[k] / (self._entries[k] or 1.0) for k in self.ks}
        longer = [k for k in self.ks if k > 1]
        if self._sampled and longer:
            lists, weights = (np.concatenate(parts) for parts in zip(*self._sampled, strict=True))
            found |= {f"diversity_{k}": _diversity(lists[:, :k], self.seen, weights) for k in longer}
        return found


def _diversity(lists: IntArray, seen: Seen, weights: FloatArray) -> float:
    """Mean over lists of the mean pairwise distance in a list; 0 if no list has two candidates."""
    filled = lists >= 0
    listed, place = np.unique(lists[filled], return_inverse=True)
    rows = np.nonzero(filled)[0]
    units = _units(listed, seen)  # [listed, queries]
    members = sparse.csr_array((np.ones(len(rows)), (rows, place)), shape=(len(lists), len(listed)))
    sums, squares = members @ units, members @ units.multiply(units).sum(axis=1)
    sizes = filled.sum(axis=1)
    pairs = sizes * (sizes - 1) / 2
    cosines = (sums.multiply(sums).sum(axis=1) - squares) / 2  # |Σ u|² = Σ |u|² + 2 Σ_{i<j} u_i · u_j
    counted = pairs > 0
    if not counted.any():
        return 0.0
    return weighted_mean(1 - cosines[counted] / pairs[counted], weights[counted])


def _units(listed: IntArray, seen: Seen) -> sparse.csr_array:
    """Normalised binary vectors of the queries that chose each of the candidates, ascending, `[listed, queries]`."""
    place = np.minimum(np.searchsorted(listed, seen.candidates), max(0, len(listed) - 1))
    wanted = np.flatnonzero(listed[place] == seen.candidates) if len(listed) else np.empty(0, dtype=np.int64)
    query = np.searchsorted(seen.offsets, wanted, side="right") - 1
    lengths = np.sqrt(np.bincount(place[wanted], minlength=len(listed)))
    values = 1 / lengths[place[wanted]]
    return sparse.csr_array((values, (place[wanted], query)), shape=(len(listed), len(seen.offsets) - 1))


def serendipity(
    ranks: FloatArray, popular: FloatArray, ks: Sequence[int], weights: FloatArray | None = None
) -> dict[str, float]:
    """`serendipity_k`: share of events whose true candidate is in the list, but not in the popularity baseline's list.

    A hit that a trivial recommender finds as well is no surprise (Ge, Delgado-Battenfeld and Jannach, *Beyond
    accuracy: evaluating recommender systems by coverage and serendipity*, RecSys 2010). It is 0 for popularity itself.

    Args:
        ranks: Rank of each event's true candidate, `[N]`.
        popular: Its rank by popularity, with the same exclusions, `[N]`.
        ks: Lengths of lists.
        weights: Weight of each event, `[N]`; None for equal weights.

    Example:
        >>> serendipity(np.array([1.0, 2.0, 9.0]), np.array([1.0, 8.0, 1.0]), ks=[5])
        {'serendipity_5': 0.3333333333333333}
    """
    return {f"serendipity_{k}": weighted_mean(((ranks <= k) & (popular > k)).astype(np.float64), weights) for k in ks}


def popularity_ranks(test: Dataset, seen: Seen, popularity: FloatArray) -> FloatArray:
    """Rank of each event's true candidate by popularity, under `all` and `unseen`, `[2, N]`; ties get the mean rank.

    Args:
        test: The events.
        seen: What `unseen` excludes for each query; the true candidate is never excluded.
        popularity: Number of choices of each candidate in train, `[C]`.
    """
    ordered, own = np.sort(popularity), popularity[test.candidate_index]
    higher = len(ordered) - np.searchsorted(ordered, own, side="right")
    doubled = 1 + 2 * higher + (len(ordered) - higher - np.searchsorted(ordered, own))
    fewer = np.zeros(len(test))
    for start in range(0, len(test), BLOCK_EVENTS):
        part = slice(start, start + BLOCK_EVENTS)
        event, entry = entries_of(seen.offsets, test.query_index[part])
        excluded, rival = seen.candidates[entry], own[part][event]
        others = popularity[excluded]
        counted = (others > rival) * 1.0 + (others >= rival) - (excluded == test.candidate_index[part][event])
        fewer[part] = np.bincount(event, counted, len(own[part]))
    return np.stack([doubled, doubled - fewer]) / 2
