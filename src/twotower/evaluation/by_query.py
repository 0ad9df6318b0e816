"""`QueryScorer`: scores that depend on who asks alone, so that a query's events share one list and its cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.seen import Seen, entries_of
from twotower.errors import TwoTowerError
from twotower.evaluation.ranking import FloatArray, IntArray, ScoreBlock, top_lists
from twotower.progress import ReportStep, no_report

BoolArray = npt.NDArray[np.bool_]

TakeLists = Callable[[Literal["all", "unseen"], IntArray, IntArray], None]
"""Takes the protocol, top-k lists as `top_lists` gives them, `[n, k]`, and the numbers of their events, `[n]`."""

BLOCK_SCORES = 1 << 21
"""Scores held at once, in a few arrays: some 50 MB, or one query's where the catalogue alone is more."""

BLOCK_ENTRIES = 1 << 22
"""Entries of lists and histories looked at at once: some 100 MB."""

MOST_QUERIES = 1024
"""Queries scored at once, however few candidates there are."""


class QueryScorer:
    """A `Scorer` that looks at who asks and not at when: every event of a query has the same scores.

    A subclass gives `score_queries`.
    """

    def score_queries(self, queries: IntArray) -> Tensor:
        """Scores of every candidate for queries, given their rows in the query table: `[n]` to `[n, C]`."""
        raise NotImplementedError

    def score_block(self, events: Dataset) -> ScoreBlock:
        """Scores of each event's query."""

        def block(numbers: IntArray) -> Tensor:
            queries, place = np.unique(events.query_index[numbers], return_inverse=True)
            return self.score_queries(queries)[torch.from_numpy(place)]

        return block


def rank_by_query(
    scorer: QueryScorer,
    test: Dataset,
    seen: Seen,
    k: int,
    take_lists: TakeLists,
    step: ReportStep = no_report,
) -> FloatArray:
    """Ranks of the true candidates as `RankCounter` counts them, each query scored and listed once.

    Args:
        scorer: What scores.
        test: The events, each with one true candidate.
        seen: What each query is not shown in the protocol `unseen`; the true candidate always takes part.
        k: Length of the top-k lists.
        take_lists: Given the top-k list of each event, under both protocols.
        step: Told the share that is done.

    Returns:
        Ranks with nothing excluded, and ranks with what was seen excluded, `[2, N]`.

    Raises:
        TwoTowerError: A score is not a number.
    """
    ranks = np.empty((2, len(test)))
    order = np.argsort(test.query_index, kind="stable")
    queries, begin = np.unique(test.query_index[order], return_index=True)
    border = np.append(begin, len(order))  # the events of queries[i] are order[border[i] : border[i + 1]]
    together = min(MOST_QUERIES, max(1, BLOCK_SCORES // test.candidates.num_rows))
    for start in range(0, len(queries), together):
        stop = min(start + together, len(queries))
        block = _Block(scorer, queries[start:stop], seen, k)
        row = np.repeat(np.arange(stop - start), np.diff(border[start : stop + 1]))
        numbers = order[border[start] : border[stop]]
        for first, last in runs(block.work[row], BLOCK_ENTRIES):
            own, of = numbers[first:last], row[first:last]
            chosen = test.candidate_index[own]
            ranks[:, own], repeated = block.ranks(of, chosen)
            block.give_lists(take_lists, own, of, chosen, repeated)
        step("ranking", border[stop] / len(order))
    return ranks


def runs(work: IntArray, most: int) -> Iterator[tuple[int, int]]:
    """Cuts 0 … n into runs of about `most` work each, or of one member where that alone is more."""
    border = np.flatnonzero(np.diff(np.cumsum(work) // most)) + 1
    return pairwise([0, *border.tolist(), len(work)])


class _Block:
    """Some queries, their scores and top-k lists.

    Args:
        scorer: What scores.
        queries: Rows in the query table, `[q]`.
        seen: What each query has seen.
        k: Length of the lists.
    """

    def __init__(self, scorer: QueryScorer, queries: IntArray, seen: Seen, k: int) -> None:
        self.queries, self.seen, self.k = queries, seen, k
        given = scorer.score_queries(queries).detach().cpu()
        self.scores = given if given.dtype == torch.float32 else given.double()  # [q, C]
        if bool(self.scores.amax(dim=1).isnan().any()):  # a maximum is NaN where any score is
            raise TwoTowerError("a score is not a number (NaN), so that nothing can be ranked by it")
        rows, candidates = seen.pairs(queries)
        self.left = self.scores.clone()
        self.left[torch.from_numpy(rows), torch.from_numpy(candidates)] = -torch.inf
        self.lists = top_lists(self.scores, k), top_lists(self.left, k)
        self.work = np.bincount(rows, minlength=len(queries)) + k  # numbers held to rank an event of each query

    def ranks(self, row: IntArray, chosen: IntArray) -> tuple[FloatArray, BoolArray]:
        """Ranks of events under both protocols, `[2, n]`, and whether their query has seen what it chose, `[n]`.

        Args:
            row: Which of the queries each event is of, `[n]`.
            chosen: Its true candidate, `[n]`.
        """
        scores = self.scores.numpy()
        true = scores[row, chosen]
        doubled = 1 + np.array([_doubled(scores[own], rival) for own, rival in zip(row, true, strict=True)])
        event, entry = entries_of(self.seen.offsets, self.queries[row])
        excluded = self.seen.candidates[entry]  # each (event, candidate that its query has seen)
        rival = true[event]
        others = scores[row[event], excluded]
        repeated = np.zeros(len(row), dtype=bool)
        repeated[event[excluded == chosen[event]]] = True
        # A repeated choice takes part; as one of those seen it ties with itself.
        fewer = np.bincount(event, (others > rival) * 1.0 + (others >= rival), len(row)) - repeated
        return np.stack([doubled, doubled - fewer]) / 2, repeated

    def give_lists(
        self, take: TakeLists, numbers: IntArray, row: IntArray, chosen: IntArray, repeated: BoolArray
    ) -> None:
        """Gives the top-k list of each event under both protocols.

        Args:
            take: Takes them.
            numbers: The events, `[n]`.
            row: Which of the queries each is of, `[n]`.
            chosen: Its true candidate, `[n]`.
            repeated: Whether the query has seen it, `[n]`.
        """
        take("all", self.lists[0][row], numbers)
        take("unseen", self.lists[1][row[~repeated]], numbers[~repeated])
        again = np.flatnonzero(repeated)  # in their lists the true candidate takes part
        for start in range(0, len(again), len(self.queries)):  # so that they take the memory that the queries took
            part = again[start : start + len(self.queries)]
            own, true = torch.from_numpy(row[part]), torch.from_numpy(chosen[part])
            left = self.left[own]
            left[torch.arange(len(part)), true] = self.scores[own, true]
            take("unseen", top_lists(left, self.k), numbers[part])


def _doubled(scores: npt.NDArray[np.floating], rival: np.floating) -> int:
    """How many scores are higher, plus how many are at least as high."""
    return int(np.count_nonzero(scores > rival)) + int(np.count_nonzero(scores >= rival))
