"""Ranks of true candidates over the whole catalogue, counted block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.seen import Seen
from twotower.errors import TwoTowerError
from twotower.model.two_tower import TwoTower

BLOCK_SCORES = 1 << 22
"""Scores held at once: 16 MB in float32, whatever the number of events and candidates."""

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

ScoreBlock = Callable[[IntArray], Tensor]
"""Scores of every candidate for the events with these numbers: `[n]` to `[n, C]`."""


class Scorer(Protocol):
    """Anything that scores the whole catalogue for events: a baseline, an oracle, a model of your own."""

    def score_block(self, events: Dataset) -> ScoreBlock:
        """How to score the candidates for any of these events, from who asks and when."""
        ...


class ModelScorer:
    """A two-tower model as a `Scorer`.

    Args:
        model: The model.
    """

    def __init__(self, model: TwoTower) -> None:
        self.model = model

    def score_block(self, events: Dataset) -> ScoreBlock:
        """Embeds the queries of the events and the catalogue once."""
        return dot_products(self.model.embed_queries(events), self.model.embed_candidates(events.candidates))


def dot_products(queries: Tensor, candidates: Tensor) -> ScoreBlock:
    """Scores that are dot products of query embeddings `[N, d]` and candidate embeddings `[C, d]`.

    Raises:
        TwoTowerError: An embedding is not finite, so that its rank would mean nothing.
    """
    for embeddings, which in ((queries, "query"), (candidates, "candidate")):
        if not bool(embeddings.isfinite().all()):
            raise TwoTowerError(
                f"a {which} embedding is not finite: training has diverged; a lower learning rate may help"
            )
    transposed = candidates.t()

    def block(numbers: IntArray) -> Tensor:
        return queries[torch.from_numpy(numbers).to(queries.device)] @ transposed

    return block


def one_list_a_query(score: ScoreBlock, events: Dataset) -> ScoreBlock:
    """Scores that give all events of a query the one list that it would have been given at the first of them."""
    when = np.arange(len(events)) if events.time is None else events.times
    order = np.lexsort((when, events.query_index))
    _, begin, group = np.unique(events.query_index[order], return_index=True, return_inverse=True)
    first = np.empty(len(events), dtype=np.int64)
    first[order] = order[begin][group]

    def block(numbers: IntArray) -> Tensor:
        distinct, place = np.unique(first[numbers], return_inverse=True)
        scores = score(distinct)
        return scores[torch.from_numpy(place).to(scores.device)]

    return block


def blocks_of(events: Dataset) -> list[IntArray]:
    """The numbers of all events in blocks whose scores fit in memory, events of one query side by side."""
    order = np.argsort(events.query_index, kind="stable")
    size = max(1, BLOCK_SCORES // max(1, events.candidates.num_rows))
    return [order[start : start + size] for start in range(0, len(order), size)]


def rank_events(score: ScoreBlock, events: Dataset, seen: Seen | None = None) -> tuple[FloatArray, FloatArray]:
    """Ranks each event's true candidate over the whole catalogue, under both protocols.

    The rank is 1 + the candidates that score higher + half of those that score the same: a model that
    scores everything alike gets the middle, not the top.

    Args:
        score: Scores of all candidates for given events.
        events: The events, each with one true candidate.
        seen: What each query is not shown in the protocol `unseen`; the true candidate always takes part.

    Returns:
        Ranks with nothing excluded, and ranks with what was seen excluded, `[N]` each.

    Raises:
        TwoTowerError: A score is not a number.
    """
    ranks = np.empty(len(events))
    unseen_ranks = np.empty(len(events))
    for numbers in blocks_of(events):
        excluded = None if seen is None else excluded_pairs(seen, events, numbers)
        ranks[numbers], unseen_ranks[numbers] = rank_block(score(numbers), events.candidate_index[numbers], excluded)
    return ranks, unseen_ranks


def rank_block(
    scores: Tensor, chosen: IntArray, excluded: tuple[IntArray, IntArray] | None
) -> tuple[FloatArray, FloatArray]:
    """The ranks of `rank_events` for some of the events.

    Args:
        scores: Their scores, `[n, C]`.
        chosen: Their true candidates, `[n]`.
        excluded: What `excluded_pairs` gives for them.
    """
    target = torch.from_numpy(chosen).to(scores.device)
    true_score = scores.gather(1, target.unsqueeze(1))  # [n, 1]
    if bool(scores.max().isnan()):  # a maximum is NaN where any score is
        raise TwoTowerError("a score is not a number (NaN), so that nothing can be ranked by it")
    # Counting "higher" and "at least as high" once each makes ties halves; the true one ties with itself.
    doubled = _count(scores > true_score) + _count(scores >= true_score)
    fewer = torch.zeros_like(doubled)
    if excluded is not None:
        row, column = (torch.from_numpy(part).to(scores.device) for part in excluded)
        pair_score, rival = scores[row, column], true_score.squeeze(1)[row]
        fewer.index_add_(0, row, (pair_score > rival).long() + (pair_score >= rival).long())
    ranks, lower = (doubled + 1).double() / 2, fewer.double() / 2
    return ranks.cpu().numpy(), (ranks - lower).cpu().numpy()


def _count(mask: Tensor) -> Tensor:
    """Trues in each row; summed in 32 bits, which is twice as fast as in 64."""
    return mask.sum(dim=1, dtype=torch.int32).long()


def excluded_pairs(seen: Seen, events: Dataset, numbers: IntArray) -> tuple[IntArray, IntArray]:
    """What these events' queries have seen, the true candidates apart: (place in `numbers`, candidate)."""
    rows, columns = seen.pairs(events.query_index[numbers])
    other = columns != events.candidate_index[numbers][rows]
    return rows[other], columns[other]


def top_lists(scores: Tensor, k: int, excluded: tuple[IntArray, IntArray] | None = None) -> IntArray:
    """The k best candidates of each row, the best first, −1 where nothing is left, `[n, min(k, C)]`."""
    if excluded is not None:
        scores = scores.clone()
        rows, columns = (torch.from_numpy(part).to(scores.device) for part in excluded)
        scores[rows, columns] = -torch.inf
    best = scores.topk(min(k, scores.shape[1]), dim=1)
    lists: IntArray = best.indices.masked_fill(best.values == -torch.inf, -1).cpu().numpy()
    return lists
