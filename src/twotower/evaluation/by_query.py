"""`QueryScorer`: scores that depend only on the query, so all events of a query share one list and its cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.lookup import entries_of
from twotower.data.seen import Seen
from twotower.errors import TwoTowerError
from twotower.evaluation.ranking import FloatArray, IntArray, ScoreBlock, top_lists
from twotower.progress import ReportStep, no_report

BoolArray = npt.NDArray[np.bool_]

TakeLists = Callable[[Literal["all", "unseen"], IntArray, IntArray], None]
"""Receives the protocol, top-k lists from `top_lists`, `[n, k]`, and the indices of their events, `[n]`."""

BLOCK_SCORES = 1 << 21
"""Scores held at once, in a few arrays: about 50 MB, or one query's scores if the catalogue is larger than this."""

BLOCK_ENTRIES = 1 << 22
"""Entries of lists and histories processed at once: about 100 MB."""

MAX_QUERIES = 1024
"""Maximum number of queries scored at once, for small catalogues."""


class QueryScorer:
    """A `Scorer` that ignores time: every event of a query has the same scores.

    Subclasses implement `score_queries`.
    """

    def score_queries(self, queries: IntArray) -> Tensor:
        """Scores of all candidates for queries, given as rows of the query table: `[n]` to `[n, C]`."""
        raise NotImplementedError

    def score_block(self, events: Dataset) -> ScoreBlock:
        """Scores the query of each event."""

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
    """Ranks of the true candidates as in `RankCounter`, but scores and lists each query only once.

    Args:
        scorer: The scorer.
        test: The events, each with one true candidate.
        seen: What `unseen` excludes for each query; the true candidate is never excluded.
        k: Length of the top-k lists.
        take_lists: Receives the top-k list of each event, under both protocols.
        step: Receives the progress.

    Returns:
        Ranks with nothing excluded, and ranks with seen candidates excluded, `[2, N]`.

    Raises:
        TwoTowerError: A score is not a number.
    """
    ranks = np.empty((2, len(test)))
    order = np.argsort(test.query_index, kind="stable")
    queries, begin = np.unique(test.query_index[order], return_index=True)
    bounds = np.append(begin, len(order))  # the events of queries[i] are order[bounds[i] : bounds[i + 1]]
    together = min(MAX_QUERIES, max(1, BLOCK_SCORES // test.candidates.num_rows))
    for start in range(0, len(queries), together):
        stop = min(start + together, len(queries))
        block = _Block(scorer, queries[start:stop], seen, k)
        row = np.repeat(np.arange(stop - start), np.diff(bounds[start : stop + 1]))
        numbers = order[bounds[start] : bounds[stop]]
        for first, last in runs(block.work[row], BLOCK_ENTRIES):
            own, of = numbers[first:last], row[first:last]
            chosen = test.candidate_index[own]
            ranks[:, own], repeated = block.ranks(of, chosen)
            block.give_lists(take_lists, own, of, chosen, repeated)
        step("ranking", bounds[stop] / len(order))
    return ranks


def runs(work: IntArray, most: int) -> Iterator[tuple[int, int]]:
    """Cuts 0 … n into runs of about `most` work each; a member with more work than that gets its own run."""
    bounds = np.flatnonzero(np.diff(np.cumsum(work) // most)) + 1
    return pairwise([0, *bounds.tolist(), len(work)])


class _Block:
    """A block of queries with their scores and top-k lists.

    Args:
        scorer: The scorer.
        queries: Rows in the query table, `[q]`.
        seen: What each query has seen.
        k: Length of the lists.
    """

    def __init__(self, scorer: QueryScorer, queries: IntArray, seen: Seen, k: int) -> None:
        self.queries, self.seen, self.k = queries, seen, k
        given = scorer.score_queries(queries).detach().cpu()
        self.scores = given if given.dtype == torch.float32 else given.double()  # [q, C]
        if bool(self.scores.amax(dim=1).isnan().any()):  # a maximum is NaN where any score is
            raise TwoTowerError("a score is not a number (NaN), so candidates cannot be ranked by it")
        rows, candidates = seen.pairs(queries)
        self.left = self.scores.clone()
        self.left[torch.from_numpy(rows), torch.from_numpy(candidates)] = -torch.inf
        self.lists = top_lists(self.scores, k), top_lists(self.left, k)
        self.work = np.bincount(rows, minlength=len(queries)) + k  # numbers in memory per ranked event, for each query

    def ranks(self, row: IntArray, chosen: IntArray) -> tuple[FloatArray, BoolArray]:
        """Ranks of events under both protocols, `[2, n]`, and whether the query has already seen the candidate, `[n]`.

        Args:
            row: Each event's query, as an index into the block, `[n]`.
            chosen: Its true candidate, `[n]`.
        """
        scores = self.scores.numpy()
        true = scores[row, chosen]
        doubled = 1 + np.array([_doubled(scores[own], rival) for own, rival in zip(row, true, strict=True)])
        event, entry = entries_of(self.seen.offsets, self.queries[row])
        excluded = self.seen.candidates[entry]  # one entry for each candidate that the event's query has seen
        rival = true[event]
        others = scores[row[event], excluded]
        repeated = np.zeros(len(row), dtype=bool)
        repeated[event[excluded == chosen[event]]] = True
        # A repeated choice is not excluded; as a seen candidate, it ties with itself.
        fewer = np.bincount(event, (others > rival) * 1.0 + (others >= rival), len(row)) - repeated
        return np.stack([doubled, doubled - fewer]) / 2, repeated

    def give_lists(
        self, take: TakeLists, numbers: IntArray, row: IntArray, chosen: IntArray, repeated: BoolArray
    ) -> None:
        """Passes on the top-k list of each event under both protocols.

        Args:
            take: Receives the lists.
            numbers: Indices of the events, `[n]`.
            row: Each event's query, as an index into the block, `[n]`.
            chosen: Its true candidate, `[n]`.
            repeated: Whether the query has already seen it, `[n]`.
        """
        take("all", self.lists[0][row], numbers)
        take("unseen", self.lists[1][row[~repeated]], numbers[~repeated])
        again = np.flatnonzero(repeated)  # their lists must not exclude the true candidate
        for start in range(0, len(again), len(self.queries)):  # in blocks that need no more memory than the queries
            part = again[start : start + len(self.queries)]
            own, true = torch.from_numpy(row[part]), torch.from_numpy(chosen[part])
            left = self.left[own]
            left[torch.arange(len(part)), true] = self.scores[own, true]
            take("unseen", top_lists(left, self.k), numbers[part])


def _doubled(scores: npt.NDArray[np.floating], rival: np.floating) -> int:
    """How many scores are higher, plus how many are at least as high."""
    return int(np.count_nonzero(scores > rival)) + int(np.count_nonzero(scores >= rival))
