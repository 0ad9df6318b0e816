"""`measure`: every metric of one scorer."""

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
    RankCounter,
    Scorer,
    blocks_of,
    one_list_a_query,
    top_lists,
    without_excluded,
)
from twotower.evaluation.slices import measure_slices
from twotower.progress import ReportStep, no_report


@dataclass(frozen=True, eq=False)
class Measurement:
    """What measuring a scorer gave.

    Attributes:
        scores: The metrics.
        outcomes: The ranks they are made of, event by event, to compare scorers by.
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
    """Every metric of one scorer: of ranks, with intervals and in slices, per query, and of the top-k lists.

    The metrics per query are those of one list for each query, the one of its first event in test. Where the data
    names a column of weights, all means are weighted, and events of weight 0 are not measured.

    Args:
        scorer: What is measured.
        test: The events to measure on.
        train: What the protocol `unseen` excludes, and how popular the candidates are.
        ks: Lengths of lists.
        step: Told the share of the events that are ranked.

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

    if isinstance(scorer, QueryScorer):
        ranks = list_ranks = rank_by_query(scorer, test, seen, max(ks), take_lists, step)
    else:
        ranks, list_ranks = _rank(scorer, test, seen, max(ks), take_lists, step)
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
    outcomes = Outcomes(ranks.astype(np.float32), test.query_index, repeats, weights)
    return Measurement(scores, outcomes)


def _rank(
    scorer: Scorer, test: Dataset, seen: Seen, k: int, take_lists: TakeLists, step: ReportStep
) -> tuple[FloatArray, FloatArray]:
    """Ranks of each event, and in its query's one list, `[2, N]` each; gives the top-k lists."""
    score = scorer.score_block(test)
    first_list = one_list_a_query(score, test)
    ranks, list_ranks = np.empty((2, len(test))), np.empty((2, len(test)))
    counter, list_counter, size = RankCounter(), RankCounter(), test.candidates.num_rows
    ranked = 0
    for block in blocks_of(test, seen):
        numbers = block.numbers
        scores = counter.scored(score, block)
        own_list = list_counter.scored(first_list, block)
        ranks[:, numbers] = counter.ranks(scores, block)
        # What does not look at the time has the same list for all events of a query.
        same = torch.equal(own_list[:, :size], scores[:, :size])
        list_ranks[:, numbers] = ranks[:, numbers] if same else list_counter.ranks(own_list, block)
        take_lists("all", top_lists(scores[:, :size], k), numbers)
        take_lists("unseen", top_lists(without_excluded(scores, block)[:, :size], k), numbers)
        ranked += len(numbers)
        step("ranking", ranked / len(test))
    return ranks, list_ranks
