"""`measure`: every metric of one scorer, and of the baselines beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from twotower.data.dataset import Dataset
from twotower.data.seen import Seen
from twotower.errors import TwoTowerError
from twotower.evaluation.baselines import Ease, Ials, ItemKnn, OracleScorer, Popularity, RecentPopularity
from twotower.evaluation.metrics import (
    DEFAULT_KS,
    FloatArray,
    ListStatistics,
    Scores,
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

NAMES = {
    "popularity": "popularity",
    "recent_popularity": "recent popularity",
    "item_knn": "item-kNN",
    "ease": "EASE",
    "ials": "iALS",
    "oracle": "oracle",
}
"""What reports call the baselines, in their order there."""

FLOORS = tuple(name for name in NAMES if name != "oracle")
"""The baselines that a model should beat: all but the oracle, which no model can."""

LEARNED: dict[str, Callable[[Dataset], Scorer]] = {
    "popularity": Popularity,
    "recent_popularity": RecentPopularity,
    "item_knn": ItemKnn,
    "ease": Ease,
    "ials": Ials,
}
"""How each baseline learns from train."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """What measuring a scorer gave.

    Attributes:
        scores: The metrics.
        outcomes: The ranks they are made of, event by event, to compare scorers by.
    """

    scores: Scores
    outcomes: Outcomes


def measure(scorer: Scorer, test: Dataset, train: Dataset, ks: Sequence[int] = DEFAULT_KS) -> Measurement:
    """Every metric of one scorer: of ranks, with intervals and in slices, per query, and of the top-k lists.

    The metrics per query are those of one list for each query, the one of its first event in test. Where the data
    names a column of weights, all means are weighted, and events of weight 0 are not measured.

    Raises:
        DataError: Every event of test has weight 0.
        TwoTowerError: A score is not a number.
    """
    test = events_that_count(test)
    weights = event_weights(test)
    ranks, list_ranks, lists = _ranked(scorer, test, train, ks)
    everything, unseen = (
        rank_metrics(own, ks, weights)
        | query_metrics(in_list, test.query_index, test.candidate_index, ks, weights)
        | statistics.metrics()
        for own, in_list, statistics in zip(ranks, list_ranks, lists, strict=True)
    )
    half_widths = {
        f"{protocol}.{metric}": width
        for protocol, own in zip(PROTOCOLS, ranks, strict=True)
        for metric, width in rank_half_widths(own, test.query_index, ks, weights).items()
    }
    slices = measure_slices(test, train, (ranks[0], ranks[1]), ks, weights)
    scores = Scores(everything, unseen, half_widths, slices)
    outcomes = Outcomes(ranks.astype(np.float32), test.query_index, repeats_of(test, train), weights)
    return Measurement(scores, outcomes)


def _ranked(
    scorer: Scorer, test: Dataset, train: Dataset, ks: Sequence[int]
) -> tuple[FloatArray, FloatArray, tuple[ListStatistics, ListStatistics]]:
    """Ranks of the events and of their queries' one list, `[2, N]` each, and what the top-k lists hold."""
    score, weights = scorer.score_block(test), event_weights(test)
    popularity = train.candidate_counts().astype(np.float64)
    lists = ListStatistics(popularity, ks), ListStatistics(popularity, ks)
    first_list = one_list_a_query(score, test)
    ranks, list_ranks = np.empty((2, len(test))), np.empty((2, len(test)))
    counter, list_counter, size = RankCounter(), RankCounter(), test.candidates.num_rows
    for block in blocks_of(test, Seen.of(train)):
        numbers, chosen = block.numbers, test.candidate_index[block.numbers]
        scores = counter.scored(score, block)
        own_list = list_counter.scored(first_list, block)
        ranks[:, numbers] = counter.ranks(scores, block)
        # What does not look at the time, as most baselines, has the same list for all events of a query.
        same = torch.equal(own_list[:, :size], scores[:, :size])
        list_ranks[:, numbers] = ranks[:, numbers] if same else list_counter.ranks(own_list, block)
        counts = None if weights is None else weights[numbers]
        lists[0].add(top_lists(scores[:, :size], max(ks)), chosen, counts)
        lists[1].add(top_lists(without_excluded(scores, block)[:, :size], max(ks)), chosen, counts)
    return ranks, list_ranks, lists


def measure_baselines(
    test: Dataset, train: Dataset, ks: Sequence[int] = DEFAULT_KS
) -> tuple[dict[str, Measurement], list[str]]:
    """Measurements of the baselines, the oracle's where the truth is known; and why one that could be there is not.

    `recent_popularity` is there where no event of train is later than one of test: elsewhere, also where each
    query's last event is test, "recent" would be the future of many test events.
    """
    rows, notes = {}, []
    for name, learn in LEARNED.items():
        if name == "recent_popularity" and not follows(test, train):
            continue
        try:
            scorer = learn(train)
        except TwoTowerError as error:
            notes.append(f"{NAMES[name]} is not in the table: {error}")
            continue
        rows[name] = measure(scorer, test, train, ks)
    if test.oracle is not None:
        rows["oracle"] = measure(OracleScorer(test.oracle), test, train, ks)
    return rows, notes


def follows(test: Dataset, train: Dataset) -> bool:
    """Whether all of test happened after train, or at its last instant at the earliest."""
    return train.time is not None and float(train.times.max()) <= float(test.times.min())
