"""`measure`: computes all metrics of one scorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from twotower.arguments import checks_arguments
from twotower.data.dataset import Dataset
from twotower.data.seen import Seen
from twotower.evaluation.beyond_accuracy import ListQuality, popularity_ranks, serendipity
from twotower.evaluation.by_query import QueryScorer, TakeLists, rank_by_query
from twotower.evaluation.exposed import with_exposed
from twotower.evaluation.metrics import (
    DEFAULT_KS,
    FloatArray,
    IntArray,
    ListStatistics,
    Scores,
    check_ks,
    new_choice_metrics,
    query_metrics,
    rank_half_widths,
    rank_metrics,
)
from twotower.evaluation.outcomes import PROTOCOLS, Outcomes, event_weights, events_that_count, repeats_of
from twotower.evaluation.ranking import (
    EventBlock,
    RankCounter,
    Scorer,
    among_available,
    blocks_of,
    one_list_a_query,
    top_lists,
    without_excluded,
)
from twotower.evaluation.slices import measure_slices
from twotower.progress import ReportStep, no_report
from twotower.ranks import Ranks, current_ranks
from twotower.threads import Pace, adapted_threads


@dataclass(frozen=True, eq=False)
class Measurement:
    """The result of measuring a scorer.

    Attributes:
        scores: The metrics.
        outcomes: The underlying ranks of each event, for comparing scorers.
    """

    scores: Scores
    outcomes: Outcomes


@checks_arguments
def measure(
    scorer: Scorer,
    test: Dataset,
    train: Dataset,
    ks: Sequence[int] = DEFAULT_KS,
    step: ReportStep = no_report,
) -> Measurement:
    """All metrics of one scorer: of ranks (with intervals and slices), per query, and of the top-k lists.

    If the log says what was shown and not chosen, ranks among that are measured too.

    Per-query metrics use one list for each query, that of its first event in test. If the data has weights, all means
    are weighted, and events with weight 0 are skipped.

    Joined ranks each rank a share of the events, and all of them get the same results as a single process. A
    `QueryScorer` is measured in full on every rank.

    Args:
        scorer: The scorer to measure.
        test: The events to evaluate on.
        train: The events that `unseen` excludes, and from which the popularity of candidates is counted.
        ks: Lengths of lists.
        step: Receives the progress.

    Raises:
        DataError: Every event of test has weight 0.
        TwoTowerError: A score is not a number.
    """
    check_ks(ks)
    test = events_that_count(test)
    weights = event_weights(test)
    popularity, seen = train.candidate_counts().astype(np.float64), Seen.of(train)
    lists = {protocol: ListStatistics(popularity, ks) for protocol in PROTOCOLS}
    qualities = {protocol: ListQuality(seen, len(popularity), len(test), ks) for protocol in PROTOCOLS}
    popular = popularity_ranks(test, seen, popularity)

    def take_lists(protocol: Literal["all", "unseen"], best: IntArray, numbers: IntArray) -> None:
        counts = None if weights is None else weights[numbers]
        lists[protocol].add(best, test.candidate_index[numbers], counts)
        qualities[protocol].add(best, numbers, counts)

    with adapted_threads() as pace:
        if isinstance(scorer, QueryScorer) and test.availability is None:
            ranks = list_ranks = rank_by_query(scorer, test, seen, max(ks), take_lists, step)
        else:
            ranks, list_ranks = _rank(scorer, test, seen, max(ks), take_lists, step, pace)
    everything, unseen = (
        rank_metrics(own, ks, weights)
        | query_metrics(in_list, test.query_index, test.candidate_index, ks, weights)
        | lists[protocol].metrics()
        | qualities[protocol].metrics()
        | serendipity(own, trivial, ks, weights)
        for protocol, own, in_list, trivial in zip(PROTOCOLS, ranks, list_ranks, popular, strict=True)
    )
    half_widths = {
        f"{protocol}.{metric}": width
        for protocol, own in zip(PROTOCOLS, ranks, strict=True)
        for metric, width in rank_half_widths(own, test.query_index, ks, weights).items()
    }
    slices = measure_slices(test, train, (ranks[0], ranks[1]), ks, weights)
    repeats = repeats_of(test, train)
    scores = Scores(everything, unseen, half_widths, slices, new=new_choice_metrics(ranks[1], repeats, ks, weights))
    scores = with_exposed(scores, scorer, test, ks)
    outcomes = Outcomes(ranks.astype(np.float32), test.query_index, repeats, weights)
    return Measurement(scores, outcomes)


def _rank(
    scorer: Scorer, test: Dataset, seen: Seen, k: int, take_lists: TakeLists, step: ReportStep, pace: Pace
) -> tuple[FloatArray, FloatArray]:
    """Ranks of each event, and its ranks in its query's one list, `[2, N]` each; passes on the top-k lists."""
    ranked = _Ranked(scorer, test, k)
    ranks, list_ranks = np.empty((2, len(test))), np.empty((2, len(test)))
    joined, blocks, done = current_ranks(), blocks_of(test, seen), 0
    for start in range(0, len(blocks), joined.size):
        together = blocks[start : start + joined.size]
        own = together[joined.rank] if joined.rank < len(together) else None
        with pace.step(sum(len(block.numbers) for block in together)):
            found = _of_all_ranks(joined.together(lambda own=own: ranked(own)), joined)  # type: ignore[misc]
        for block, figures in zip(together, found, strict=False):
            numbers, lists = block.numbers, figures[:, 4:].astype(np.int64)
            ranks[:, numbers], list_ranks[:, numbers] = figures[:, :2].T, figures[:, 2:4].T
            take_lists("all", lists[:, : lists.shape[1] // 2], numbers)
            take_lists("unseen", lists[:, lists.shape[1] // 2 :], numbers)
            done += len(numbers)
        step("ranking", done / len(test))
    return ranks, list_ranks


class _Ranked:
    """Computes the ranks and top-k lists of a block of events.

    Args:
        scorer: The scorer.
        test: All events.
        k: Length of the lists.
    """

    def __init__(self, scorer: Scorer, test: Dataset, k: int) -> None:
        self.score = among_available(scorer.score_block(test), test)
        self.k, self.size = k, test.candidates.num_rows
        self.first_list = one_list_a_query(self.score, test)
        self.counter, self.list_counter = RankCounter(), RankCounter()

    def __call__(self, block: EventBlock | None) -> FloatArray:
        """For each event of a block: its ranks under both protocols, those in its query's one list, and both lists.

        Returns:
            `[n, 4 + 2 min(k, C)]`; n = 0 without a block.
        """
        length = min(self.k, self.size)
        if block is None:
            return np.empty((0, 4 + 2 * length))
        scores = self.counter.scored(self.score, block)
        own_list = self.list_counter.scored(self.first_list, block)
        ranks = self.counter.ranks(scores, block)
        # A scorer that ignores time has the same list for all events of a query.
        same = torch.equal(own_list[:, : self.size], scores[:, : self.size])
        list_ranks = ranks if same else self.list_counter.ranks(own_list, block)
        everything = top_lists(scores[:, : self.size], length)
        unseen = top_lists(without_excluded(scores, block)[:, : self.size], length)
        return np.concatenate([np.stack([*ranks, *list_ranks], axis=1), everything, unseen], axis=1)


def _of_all_ranks(own: FloatArray, joined: Ranks) -> list[FloatArray]:
    """Gathers the results of all ranks, `[n, columns]` each."""
    if joined.size == 1:
        return [own]
    found = joined.gather_bytes(own.tobytes())
    return [np.frombuffer(raw).reshape(-1, own.shape[1]) for raw in found]
