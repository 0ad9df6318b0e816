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
    DotProducts,
    RankCounter,
    Ranker,
    ScoreBlock,
    blocks_of,
    one_list_a_query,
    rank_events,
    top_lists,
    without_excluded,
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


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 40), st.integers(0, 60), st.booleans(), st.booleans()
)
def test_ranks_equal_a_sorted_list_in_any_blocks(
    seed: int, events: int, candidates: int, choices: int, tiny: bool, products: bool
) -> None:
    draw = np.random.default_rng(seed)
    pairs = [(int(draw.integers(3)), int(draw.integers(candidates))) for _ in range(events)]
    test = log_of(pairs, queries=3, candidates=candidates)
    seen = [(int(draw.integers(3)), int(draw.integers(candidates))) for _ in range(choices)]
    left, right = (draw.integers(-1, 2, size=(n, 3)).astype(np.float32) for n in (events, candidates))
    table = left @ right.T  # few values: many ties
    score: ScoreBlock = scores_of(table.tolist())
    if products:
        score = DotProducts(torch.from_numpy(left), torch.from_numpy(right))
    with pytest.MonkeyPatch.context() as patch:
        if tiny:
            for name, value in {"BLOCK_SCORES": 2 * candidates, "MIN_ROWS": 3, "MAX_ROWS": 5}.items():
                patch.setattr(ranking, name, value)
        ranks, unseen = rank_events(score, test, Seen.of(log_of(seen, 3, candidates)) if seen else None)
    for number, (query, item) in enumerate(pairs):
        own = table[number]
        shown = [c for c in range(candidates) if c == item or (query, c) not in seen]
        for rank, pool in ((ranks[number], range(candidates)), (unseen[number], shown)):
            places = [i for i, c in enumerate(sorted(pool, key=lambda c: -own[c]), 1) if own[c] == own[item]]
            assert rank == np.mean(places)  # the mean place among those that tie


def test_a_ranker_counts_anew_each_time() -> None:
    events, seen = log_of([(0, 0), (1, 1)], 2, 3), Seen.of(log_of([(0, 1), (1, 2)], 2, 3))
    ranker = Ranker(events, seen)
    for table in ([[1.0, 2.0, 3.0]] * 2, [[3.0, 2.0, 1.0]] * 2):
        again = ranker.ranks(scores_of(table))
        once = rank_events(scores_of(table), events, seen)
        assert [ranks.tolist() for ranks in again] == [ranks.tolist() for ranks in once]


def test_infinite_scores_and_zeros_of_either_sign_tie_among_themselves() -> None:
    events = log_of([(0, 0), (0, 1), (0, 2)], queries=1, candidates=3)
    table = [[-np.inf, -np.inf, 1.0], [np.inf, np.inf, np.inf], [0.0, -0.0, -0.0]]
    assert rank_events(scores_of(table), events)[0].tolist() == [2.5, 2.0, 2.0]


def test_scores_may_be_whole_numbers() -> None:
    scores = torch.tensor([[2**40, 2**40 + 1]])
    ranks, _ = rank_events(lambda numbers: scores[torch.from_numpy(numbers)], log_of([(0, 0)], 1, 2))
    assert ranks.tolist() == [2.0]


def test_half_precision_counts_as_well_as_any() -> None:
    events = log_of([(0, 0)], 1, 5000)
    queries, candidates = torch.ones(1, 1).bfloat16(), torch.ones(5000, 1).bfloat16()
    candidates[0] = 0.5
    assert rank_events(DotProducts(queries, candidates), events)[0].tolist() == [5000.0]


def test_blocks_hold_every_event_once_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    events = log_of([(q % 3, 0) for q in range(10)], queries=3, candidates=7)
    monkeypatch.setattr(ranking, "BLOCK_SCORES", 21)
    monkeypatch.setattr(ranking, "MIN_ROWS", 1)
    blocks = [block.numbers for block in blocks_of(events, Seen.of(log_of([(0, 1), (0, 2), (2, 1)], 3, 7)))]
    assert max(map(len, blocks)) == 3
    assert sorted(np.concatenate(blocks).tolist()) == list(range(10))
    queries = events.query_index[np.concatenate(blocks)]
    assert np.count_nonzero(np.diff(queries)) == 2  # those of one query side by side


def test_nan_scores_and_embeddings_are_refused() -> None:
    events = log_of([(0, 0)], queries=1, candidates=2)
    with pytest.raises(TwoTowerError, match="not a number"):
        rank_events(scores_of([[0.0, float("nan")]]), events)
    with pytest.raises(TwoTowerError, match="candidate embedding is not finite"):
        DotProducts(torch.ones(1, 2), torch.tensor([[1.0, float("inf")]]))


def test_top_lists_leave_out_the_excluded_and_say_where_nothing_is_left() -> None:
    (block,) = blocks_of(log_of([(0, 2)], 1, 3), Seen.of(log_of([(0, 0), (0, 2)], 1, 3)))
    scores = RankCounter().scored(scores_of([[3.0, 2.0, 1.0]]), block)
    assert top_lists(scores[:, :3], 2).tolist() == [[0, 1]]
    assert top_lists(without_excluded(scores, block)[:, :3], 5).tolist() == [[1, 2, -1]]  # 2 is the true one
    assert scores[0, :3].tolist() == [3.0, 2.0, 1.0]


def test_a_query_has_one_list_that_of_its_first_event() -> None:
    events = log_of([(1, 0), (0, 1), (1, 1), (0, 0)], queries=2, candidates=2)  # one a second
    asked = one_list_a_query(lambda numbers: torch.from_numpy(numbers), events)
    assert asked(np.array([0, 1, 2, 3])).tolist() == [0, 1, 0, 1]
    later_first = events.take(np.array([2, 3, 0, 1]))
    assert one_list_a_query(lambda n: torch.from_numpy(n), later_first)(np.arange(4)).tolist() == [2, 3, 2, 3]
