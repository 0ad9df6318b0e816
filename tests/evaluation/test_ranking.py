from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toy import log_of
from twotower.data import Seen
from twotower.errors import TwoTowerError
from twotower.evaluation import ranking
from twotower.evaluation.ranking import (
    ScoreBlock,
    blocks_of,
    dot_products,
    one_list_a_query,
    rank_events,
    top_lists,
)


def scores_of(table: list[list[float]]) -> ScoreBlock:
    scores = torch.tensor(table)
    return lambda numbers: scores[torch.from_numpy(numbers)]


def test_rank_is_one_plus_higher_plus_half_of_ties() -> None:
    events = log_of([(0, 1), (0, 1), (0, 1), (0, 1)], queries=1, candidates=4)
    table = [[0.0, 5.0, 1.0, 2.0], [9.0, 5.0, 6.0, 2.0], [5.0, 5.0, 6.0, 2.0], [5.0, 5.0, 5.0, 5.0]]
    ranks, unseen = rank_events(scores_of(table), events)
    assert ranks.tolist() == [1.0, 3.0, 2.5, 2.5]
    assert unseen.tolist() == ranks.tolist()


def test_a_model_that_scores_everything_alike_ranks_in_the_middle() -> None:
    events = log_of([(0, item) for item in range(9)], queries=1, candidates=9)
    ranks, _ = rank_events(scores_of([[0.0] * 9] * 9), events)
    assert ranks.tolist() == [5.0] * 9


def test_unseen_leaves_out_what_the_query_has_in_train_but_never_the_true_candidate() -> None:
    train = log_of([(0, 0), (0, 0), (0, 1), (0, 2), (1, 3)], queries=2, candidates=4)
    test = log_of([(0, 3), (0, 2), (1, 3)], queries=2, candidates=4)
    table = [[4.0, 3.0, 2.0, 1.0]] * 3
    ranks, unseen = rank_events(scores_of(table), test, Seen.of(train))
    assert ranks.tolist() == [4.0, 3.0, 4.0]
    assert unseen.tolist() == [1.0, 1.0, 4.0]  # a repeated pair is left out once; 3 is seen by query 1, yet true


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 9))
def test_ranks_equal_a_sorted_list_in_any_blocks(seed: int, events: int, candidates: int) -> None:
    draw = np.random.default_rng(seed)
    pairs = [(int(draw.integers(3)), int(draw.integers(candidates))) for _ in range(events)]
    test = log_of(pairs, queries=3, candidates=candidates)
    seen = [(int(draw.integers(3)), int(draw.integers(candidates))) for _ in range(5)]
    table = draw.integers(0, 4, size=(events, candidates)).astype(float)  # few values: many ties
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK_SCORES", 2 * candidates)
        ranks, unseen = rank_events(scores_of(table.tolist()), test, Seen.of(log_of(seen, 3, candidates)))
    for number, (query, item) in enumerate(pairs):
        own = table[number]
        shown = [c for c in range(candidates) if c == item or (query, c) not in seen]
        for rank, pool in ((ranks[number], range(candidates)), (unseen[number], shown)):
            places = [i for i, c in enumerate(sorted(pool, key=lambda c: -own[c]), 1) if own[c] == own[item]]
            assert rank == np.mean(places)  # the mean place among those that tie


def test_blocks_hold_every_event_once_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    events = log_of([(q % 3, 0) for q in range(10)], queries=3, candidates=7)
    monkeypatch.setattr(ranking, "BLOCK_SCORES", 21)
    blocks = blocks_of(events)
    assert max(map(len, blocks)) == 3
    assert sorted(np.concatenate(blocks).tolist()) == list(range(10))


def test_nan_scores_and_embeddings_are_refused() -> None:
    events = log_of([(0, 0)], queries=1, candidates=2)
    with pytest.raises(TwoTowerError, match="not a number"):
        rank_events(scores_of([[0.0, float("nan")]]), events)
    with pytest.raises(TwoTowerError, match="candidate embedding is not finite"):
        dot_products(torch.ones(1, 2), torch.tensor([[1.0, float("inf")]]))


def test_top_lists_leave_out_the_excluded_and_say_where_nothing_is_left() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    excluded = np.array([0, 0]), np.array([0, 2])
    assert top_lists(scores, 2).tolist() == [[0, 1]]
    assert top_lists(scores, 5, excluded).tolist() == [[1, -1, -1]]
    assert scores.tolist() == [[3.0, 2.0, 1.0]]


def test_a_query_has_one_list_that_of_its_first_event() -> None:
    events = log_of([(1, 0), (0, 1), (1, 1), (0, 0)], queries=2, candidates=2)  # one a second
    asked = one_list_a_query(lambda numbers: torch.from_numpy(numbers), events)
    assert asked(np.array([0, 1, 2, 3])).tolist() == [0, 1, 0, 1]
    later_first = events.take(np.array([2, 3, 0, 1]))
    assert one_list_a_query(lambda n: torch.from_numpy(n), later_first)(np.arange(4)).tolist() == [2, 3, 2, 3]
